-- The newest seal of the record.
select n, sealed_at from attr_audit.seal order by sealed_at desc limit 1
