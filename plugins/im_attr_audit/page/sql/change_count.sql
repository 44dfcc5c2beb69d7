-- How many changes match every filter that is set, counted up to a limit.
select count(*) as changes
  from (select
{matching_changes}
 limit :at_most) m
