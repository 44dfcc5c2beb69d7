-- Which slots of which apps are not as declared; apps that are not seen lately left out.
select region, sdk_app_id, slot, violation, declared_name
  from attr_audit.violations
 where violation <> 'unknown' and (cast(:app_group as text) is null or app_group = :app_group)
   and (cast(:slot as smallint) is null or slot = :slot)
 order by region, sdk_app_id, slot
