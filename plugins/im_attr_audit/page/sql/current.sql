-- The names as last known, in slot order.
select region, sdk_app_id, slot, name, attr_type, not_before, seen_at
  from attr_audit.current_names
 where (cast(:app_group as text) is null or app_group = :app_group)
   and (cast(:slot as smallint) is null or slot = :slot)
 order by slot
