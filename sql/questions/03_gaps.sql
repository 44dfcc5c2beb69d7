-- Which apps had no good poll for more than an hour in the second quarter?
select region, sdk_app_id, app_group, gap_from, gap_to, seconds, polls_failed
  from attr_audit.gaps('2026-04-01Z', '2026-07-01Z')
 order by gap_from, region, sdk_app_id;
