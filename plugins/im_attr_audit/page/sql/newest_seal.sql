-- The seals of the record, the newest first.
select n, sealed_at, origin, leaf
  from attr_audit.seal order by sealed_at desc, n desc, origin limit :at_most offset :skip
