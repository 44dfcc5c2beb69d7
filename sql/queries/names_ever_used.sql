-- Which names were ever used for slot 0?
--
-- Variables: slot (0).
-- still_used: at least one app has the name in this slot, as last known.
\if :{?slot}
\else
    \set slot 0
\endif

select h.app_group, h.name, count(distinct (h.region, h.sdk_app_id)) as apps,
       min(h.valid_from) as first_seen_at, max(h.certain_to) as last_seen_at,
       bool_or(h.valid_to is null) as still_used
  from attr_audit.name_history h
 where h.slot = :'slot'
 group by h.app_group, h.name
 order by h.app_group, first_seen_at, h.name;
