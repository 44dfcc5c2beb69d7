-- How many changes match every filter that is set, and how many of them are baselines, up to a limit.
select count(*) as changes, count(*) filter (where m.kind = 'baseline') as baselines
  from (select c.kind
{matching_changes}
 limit :at_most) m
