-- Which drift has ended, and how long did it last?
select app_group, slot, began_seen_at, ended_seen_at, first_region, first_name, seconds
  from attr_audit.drift_episodes
 where ended_seen_at is not null
 order by began_seen_at, app_group, slot;
