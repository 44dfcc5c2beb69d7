-- The newest seal with what its row says of its checkpoint; where the checkpoint is kept it does not say.
select n, sealed_at, origin, note, timestamp_token is not null as is_stamped
  from attr_audit.seal order by sealed_at desc limit 1
