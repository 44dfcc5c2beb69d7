-- What was slot 2 called in Frankfurt on a date, and is that certain?
--
-- Variables: slot (2), region (frankfurt), at (now; write an instant such as 2026-10-30 12:00Z).
-- certain: the polls before and after that instant agree. If not, the name was last seen at
-- last_seen_at, and its replacement first at replaced_by (empty: no good poll since).
\if :{?slot}
\else
    \set slot 2
\endif
\if :{?region}
\else
    \set region frankfurt
\endif
\if :{?at}
\else
    \set at now
\endif
\pset null '(none)'

select n.app_group, n.region, n.sdk_app_id, n.name, n.certain,
       h.valid_from as first_seen_at, h.certain_to as last_seen_at, h.valid_to as replaced_by
  from attr_audit.names_as_of(:'at') n
  left join attr_audit.name_history h
    on h.region = n.region and h.sdk_app_id = n.sdk_app_id and h.slot = n.slot
   and h.valid_from <= :'at' and (h.valid_to > :'at' or h.valid_to is null)
 where n.slot = :'slot' and n.region = :'region'
 order by n.app_group, n.sdk_app_id;
