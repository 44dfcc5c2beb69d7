-- Which apps have not been seen for an hour, and since when?
--
-- Variables: longer_than (1 hour), at (now).
-- Without last_ok_at the app was never seen, and unseen_since is its first attempt.
\if :{?longer_than}
\else
    \set longer_than '1 hour'
\endif
\if :{?at}
\else
    \set at now
\endif
\pset null '(none)'

select f.region, f.sdk_app_id, f.app_group, f.last_ok_at, now() - f.age as unseen_since,
       :'at'::timestamptz - (now() - f.age) as unseen_for, f.last_outcome, f.consecutive_failures
  from attr_audit.freshness f
 where :'at'::timestamptz - (now() - f.age) > :'longer_than'
 order by unseen_since, f.region, f.sdk_app_id;
