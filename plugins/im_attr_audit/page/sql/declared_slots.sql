-- The declared names of each slot of a group, with how many apps it is declared for; null: unused.
select app_group, slot, name, count(*) as apps
  from attr_audit.declared_names
 where cast(:app_group as text) is null or app_group = :app_group
 group by app_group, slot, name
 order by app_group, slot, count(*) desc, name
