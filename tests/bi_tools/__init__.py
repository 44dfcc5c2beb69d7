"""`make test-bi`: a real Superset and a real dbt read the record with what bi/ ships."""
