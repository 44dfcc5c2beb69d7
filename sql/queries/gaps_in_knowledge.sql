-- Where are the gaps in our knowledge?
--
-- Variables: longer_than (1 hour), at (now).
-- Between gap_from and gap_to nobody saw the app's names; without gap_to the gap is still open.
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
