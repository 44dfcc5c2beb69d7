-- Which names moved from one slot to another?
select seen_at, app_group, region, sdk_app_id, new_name as name, moved_from_slot, slot
  from attr_audit.changes
 where moved_from_slot is not null
 order by seen_at, region, sdk_app_id, slot;
