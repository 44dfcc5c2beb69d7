-- How many apps of a group have which name in a slot, with a few of them and the newest time at which
-- a name was set. Baselines set nothing: the name was there before.
select a.app_group, s.slot, s.name, count(*) as apps,
       (array_agg(array[a.region, a.sdk_app_id::text] order by a.region, a.sdk_app_id))[1:4] as some,
       max(s.seen_at) filter (where s.not_before is not null) as set_at
  from attr_audit.app a
  join attr_audit.snapshot s using (region, sdk_app_id)
 where a.retired_at is null and a.first_ok_at is not null
   and (cast(:app_group as text) is null or a.app_group = :app_group)
 group by a.app_group, s.slot, s.name
 order by a.app_group, s.slot, count(*) desc, s.name
