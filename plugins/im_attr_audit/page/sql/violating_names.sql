-- How many apps have a name that is not as declared in a slot; apps that are not seen lately left out.
select app_group, slot, actual_name as name, count(*) as apps
  from attr_audit.violations
 where violation <> 'unknown' and (cast(:app_group as text) is null or app_group = :app_group)
 group by app_group, slot, actual_name
