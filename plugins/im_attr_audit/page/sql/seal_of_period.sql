-- The seals that were closed at or after an instant, the first one first: it covers what was recorded
-- until then. A leaf is any text: where its third part is no time, the row is returned and not cast.
select n, sealed_at, origin, leaf
  from attr_audit.seal
 where sealed_at >= cast(:until as timestamptz)
   and case when split_part(leaf, ',', 3) ~ '^[0-9]{1,18}$'
            then cast(split_part(leaf, ',', 3) as bigint)
                 >= extract(epoch from cast(:until as timestamptz)) * 1000000
            else true end
 order by sealed_at, n, origin limit :at_most offset :skip
