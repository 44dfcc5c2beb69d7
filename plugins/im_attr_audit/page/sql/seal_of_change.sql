-- The seal that covers a change.
select n, sealed_at from attr_audit.seal where last_change_id >= :change_id order by sealed_at limit 1
