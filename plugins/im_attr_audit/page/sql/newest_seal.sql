-- The newest seal of the record.
select n, sealed_at from attr_audit.seal order by n desc limit 1
