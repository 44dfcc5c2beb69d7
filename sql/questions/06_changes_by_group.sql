-- How many changes were there per month and group, by the groups that the apps had then?
select date_trunc('month', seen_at at time zone 'UTC')::date as month, app_group, count(*) as changes,
       count(distinct (region, sdk_app_id)) as apps
  from attr_audit.changes
 where seen_at >= '2026-04-01Z' and seen_at < '2026-07-01Z'
 group by 1, 2
 order by 1, 2;
