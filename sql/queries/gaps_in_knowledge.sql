-- Which gaps are there between good polls?
--
-- Variables: longer_than (1 hour), at (now).
-- No poll between gap_from and gap_to was good. If gap_to is empty, the gap is still open.
\if :{?longer_than}
\else
    \set longer_than '1 hour'
\endif
\if :{?at}
\else
    \set at now
\endif
\pset null '(open)'

select g.region, g.sdk_app_id, g.gap_from, g.gap_to,
       coalesce(g.gap_to, :'at') - g.gap_from as lasted, g.polls_failed
  from attr_audit.coverage_gaps(:'longer_than') g
 where coalesce(g.gap_to, :'at') - g.gap_from > :'longer_than'
 order by g.gap_from, g.region, g.sdk_app_id;
