-- Why did polls fail in the quarter, how often, and what can be done?
select outcome, error_code, count(*) as polls, count(distinct (region, sdk_app_id)) as apps,
       min(requested_at) as first_at, max(requested_at) as last_at, meaning, advice
  from attr_audit.polls
 where not is_good and outcome <> 'late'
   and requested_at >= '2026-04-01Z' and requested_at < '2026-07-01Z'
 group by outcome, error_code, meaning, advice
 order by polls desc;
