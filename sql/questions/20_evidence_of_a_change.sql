-- Which poll of which run saw a change, and how many reads did it take?
select c.seen_at, c.region, c.slot, c.old_name, c.new_name, c.dag_run_id, p.requested_at, p.outcome,
       p.reads, p.seconds
  from attr_audit.changes c
  join attr_audit.polls p using (poll_id, region, sdk_app_id)
 where c.region = 'frankfurt' and c.seen_at >= '2026-05-12Z' and c.seen_at < '2026-05-14Z'
 order by c.seen_at;
