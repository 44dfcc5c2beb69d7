-- How many changes were there per week?
select date_trunc('week', seen_at at time zone 'UTC')::date as week, kind, count(*) as changes
  from attr_audit.changes
 where seen_at >= '2026-04-01Z' and seen_at < '2026-07-01Z'
 group by 1, 2
 order by 1, 2;
