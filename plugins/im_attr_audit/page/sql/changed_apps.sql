-- Apps with a change in the window, baselines left out. Few changes are read; of many, each app's chain from
-- its end to the first that is in the window. "is true": by the chain, not by change_by_seen_at.
with newest as materialized (
    select c.region, c.sdk_app_id, c.slot
      from attr_audit.change c
     where c.seen_at between :window_from and :window_to and not c.is_baseline
     order by c.seen_at desc
     limit 2001
)
select distinct n.region, n.sdk_app_id
  from newest n
 where (select count(*) from newest) <= 2000
   and (cast(:slot as smallint) is null or n.slot = :slot)
 union all
select a.region, a.sdk_app_id
  from attr_audit.app a
 cross join lateral (
       select from attr_audit.change c
        where c.region = a.region and c.sdk_app_id = a.sdk_app_id and not c.is_baseline
          and (c.seen_at between :window_from and :window_to) is true
          and (cast(:slot as smallint) is null or c.slot = :slot)
        order by c.seq desc
        limit 1) c
 where (select count(*) from newest) > 2000
