-- How much of each month is covered by good polls?
select month, app_group, region, sdk_app_id, round(covered_pct::numeric, 2) as covered_pct,
       longest_gap_seconds, polls_good, polls_failed
  from attr_audit.coverage_by_month
 where month >= '2026-04-01' and month < '2026-07-01'
   and (longest_gap_seconds > 3600 or covered_pct < 100)
 order by month, region, sdk_app_id;
