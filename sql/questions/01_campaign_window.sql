-- Did every app have the name that a campaign uses, during the whole campaign?
select region, sdk_app_id, slots, round(certain_pct::numeric, 2) as certain_pct,
       round(possible_pct::numeric, 2) as possible_pct, blind_seconds, verdict
  from attr_audit.name_in_window('Membership level', '2026-05-04Z', '2026-05-18Z', 'shop')
 order by region, sdk_app_id;
