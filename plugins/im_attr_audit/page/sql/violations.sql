-- What is not as declared now, with the apps of one group, slot and difference together; and how many
-- slots and apps there are in all, those that are unknown apart.
with v as materialized (
    select app_group, region, sdk_app_id, slot, violation, declared_name, actual_name
      from attr_audit.violations
), unknown as (
    select count(distinct (region, sdk_app_id)) as apps from v where violation = 'unknown'
)
select g.*, u.apps as unknown_apps
  from unknown u
  left join lateral (
       select app_group, slot, violation, declared_name, actual_name, count(*) as apps,
              sum(count(*)) over ()::bigint as in_all, count(*) over () as causes,
              (array_agg(array[region, sdk_app_id::text] order by region, sdk_app_id))[1:4] as some
         from v
        where violation <> 'unknown'
        group by app_group, slot, violation, declared_name, actual_name
        order by count(*) desc, app_group, slot, actual_name
        limit :at_most) g on true
