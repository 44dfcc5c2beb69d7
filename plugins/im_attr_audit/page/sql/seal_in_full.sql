-- The newest seal with its checkpoint.
select n, sealed_at, origin, note, timestamp_token is not null as is_stamped
  from attr_audit.seal order by sealed_at desc limit 1
