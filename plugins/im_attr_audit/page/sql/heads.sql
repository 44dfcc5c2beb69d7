-- The end of every app's chain.
select a.region, a.sdk_app_id, h.seq, h.hash
  from attr_audit.app a
 cross join lateral (
       select c.seq, encode(c.row_hash, 'hex') as hash from attr_audit.change c
        where c.region = a.region and c.sdk_app_id = a.sdk_app_id
        order by c.seq desc limit 1) h
 order by a.region, a.sdk_app_id
