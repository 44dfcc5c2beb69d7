-- The first seal that was closed at or after an instant: it covers what was recorded until then.
select n, sealed_at
  from attr_audit.seal
 where sealed_at >= cast(:until as timestamptz)
   and cast(cast(leaf as jsonb) ->> 2 as numeric)
       >= extract(epoch from cast(:until as timestamptz)) * 1000000
 order by sealed_at
 limit 1
