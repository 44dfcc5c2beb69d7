-- The group of each app at an instant.
select distinct on (region, sdk_app_id) region, sdk_app_id, app_group
  from attr_audit.membership
 where from_at <= :at
 order by region, sdk_app_id, from_at desc
