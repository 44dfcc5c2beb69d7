-- Which group was each app in on 1 June?
select distinct on (region, sdk_app_id) region, sdk_app_id, app_group, from_at
  from attr_audit.membership
 where from_at <= '2026-06-01Z'
 order by region, sdk_app_id, from_at desc;
