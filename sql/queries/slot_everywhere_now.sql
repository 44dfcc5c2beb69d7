-- What is slot 2 called everywhere now?
--
-- Variables: slot (2).
-- One row per listed app. No name: the app has no name in this slot. confirmed_at: the last good
-- poll; if empty, the app never had one.
\if :{?slot}
\else
    \set slot 2
\endif
\pset null '(none)'

select f.app_group, f.region, f.sdk_app_id, n.name, f.last_ok_at as confirmed_at
  from attr_audit.freshness f
  left join attr_audit.current_names n
    on n.region = f.region and n.sdk_app_id = f.sdk_app_id and n.slot = :'slot'
 order by f.app_group, f.region, f.sdk_app_id;
