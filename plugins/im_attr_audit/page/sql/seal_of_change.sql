-- The seals that can cover a change, the first one first.
select n, sealed_at, origin, leaf
  from attr_audit.seal
 where last_change_id >= :change_id
 order by sealed_at, n, origin limit :at_most offset :skip
