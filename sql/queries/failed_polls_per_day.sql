-- How many polls failed per day, by outcome and code?
--
-- Variables: until (now), since (720 hours before until).
-- Days are UTC days of the request. Late polls are left out: a newer poll superseded them.
\if :{?until}
\else
    \set until now
\endif
\if :{?since}
\else
    select :'until'::timestamptz - interval '720 hours' as since \gset
\endif
\pset null '(none)'

select (requested_at at time zone 'UTC')::date as day, outcome, error_code, http_status,
       count(*) as polls, count(distinct (region, sdk_app_id)) as apps
  from attr_audit.poll
 where outcome not in ('ok', 'late') and requested_at >= :'since' and requested_at < :'until'
 group by day, outcome, error_code, http_status
 order by day, outcome, error_code, http_status;
