-- Which apps are stale (no good poll for an hour), and since when?
--
-- Variables: longer_than (1 hour), at (now).
-- If last_ok_at is empty, the app never had a good poll, and stale_since is its first poll.
\if :{?longer_than}
\else
    \set longer_than '1 hour'
\endif
\if :{?at}
\else
    \set at now
\endif
\pset null '(none)'

select f.region, f.sdk_app_id, f.app_group, f.last_ok_at, now() - f.age as stale_since,
       :'at'::timestamptz - (now() - f.age) as stale_for, f.last_outcome, f.consecutive_failures
  from attr_audit.freshness f
 where :'at'::timestamptz - (now() - f.age) > :'longer_than'
 order by stale_since, f.region, f.sdk_app_id;
