-- The seals with their checkpoints, the newest first.
select n, sealed_at, origin, leaf, note, timestamp_token is not null as is_stamped
  from attr_audit.seal order by sealed_at desc, n desc, origin limit :at_most offset :skip
