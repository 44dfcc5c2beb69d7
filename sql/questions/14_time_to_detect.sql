-- How long could a change exist before it was seen?
select app_group, count(*) as changes, max(detect_seconds) as longest,
       percentile_cont(0.5) within group (order by detect_seconds) as median
  from attr_audit.changes
 where seen_at >= '2026-04-01Z' and seen_at < '2026-07-01Z'
 group by app_group
 order by app_group;
