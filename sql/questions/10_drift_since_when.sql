-- Which groups have drift, since when, and which app's change began it?
select app_group, slot, began_not_before, began_seen_at, first_region, first_sdk_app_id, first_name
  from attr_audit.drift_episodes
 where ended_seen_at is null
 order by began_seen_at, app_group, slot;
