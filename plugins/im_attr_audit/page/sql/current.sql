-- The names as last known, in slot order.
select region, sdk_app_id, slot, name, attr_type, not_before, seen_at
  from attr_audit.current_names
 order by slot
