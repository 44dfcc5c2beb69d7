-- Apps that have no name in a slot in which another app of their group has one, and when it was removed.
select a.app_group, s.slot, count(*) as apps,
       (array_agg(array[a.region, a.sdk_app_id::text] order by a.region, a.sdk_app_id))[1:4] as some,
       max(c.seen_at) as set_at
  from (select distinct g.app_group, m.slot
          from attr_audit.app g
          join attr_audit.snapshot m using (region, sdk_app_id)
         where g.retired_at is null and g.first_ok_at is not null
           and (cast(:app_group as text) is null or g.app_group = :app_group)) s
  join attr_audit.app a
    on a.app_group = s.app_group and a.retired_at is null and a.first_ok_at is not null
  left join lateral (
       select c.seen_at from attr_audit.change c
        where c.slot = s.slot and c.region = a.region and c.sdk_app_id = a.sdk_app_id
        order by c.seq desc limit 1) c on true
 where not exists (select from attr_audit.snapshot n
                    where n.region = a.region and n.sdk_app_id = a.sdk_app_id and n.slot = s.slot)
 group by a.app_group, s.slot
