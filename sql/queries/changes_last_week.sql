-- What changed last week, by region?
--
-- Variables: until (now), since (168 hours before until).
-- Each change happened between not_before and seen_at. Baselines are left out: they are the first
-- names known of an app or of a new source, not changes.
\if :{?until}
\else
    \set until now
\endif
\if :{?since}
\else
    select :'until'::timestamptz - interval '168 hours' as since \gset
\endif
\pset null '(none)'

select region, sdk_app_id, slot, kind, old_name, new_name, not_before, seen_at
  from attr_audit.change
 where seen_at >= :'since' and seen_at < :'until' and kind <> 'baseline'
 order by region, seen_at, sdk_app_id, slot;
