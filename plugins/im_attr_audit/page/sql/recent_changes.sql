-- The newest changes of a period, baselines left out. "offset 0": they are looked at one after the
-- other until there are enough; the view would be computed for all of the period.
select v.seen_at, v.not_before, v.app_group, v.region, v.sdk_app_id, v.slot, v.kind, v.old_name,
       v.new_name, v.old_type, v.new_type, v.lookalike, v.seq
  from (select c.region, c.sdk_app_id, c.seq
          from attr_audit.change c
         where c.seen_at > now() - cast(:period as interval) and not c.is_baseline
         order by c.seen_at desc, c.change_id desc
        offset 0) c
 cross join lateral (
       select u.*
         from attr_audit.changes u
        where u.region = c.region and u.sdk_app_id = c.sdk_app_id and u.seq = c.seq
          and u.seen_at > now() - cast(:period as interval)
       offset 0) v
 limit :at_most
