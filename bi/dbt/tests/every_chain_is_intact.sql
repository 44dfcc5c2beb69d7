-- Fails when a row of the record was edited, removed or reordered.
select region, sdk_app_id, first_bad_seq
from {{ var("attr_audit_schema") }}.verify_chain()
where not ok
