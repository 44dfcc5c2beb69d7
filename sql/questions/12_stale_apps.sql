-- Which apps had no good poll since noon on 1 July, and what was the outcome of the last poll?
select region, sdk_app_id, app_group, last_ok_at, last_outcome, consecutive_failures
  from attr_audit.freshness
 where last_ok_at is null or last_ok_at < '2026-07-01 12:00Z'
 order by last_ok_at nulls first;
