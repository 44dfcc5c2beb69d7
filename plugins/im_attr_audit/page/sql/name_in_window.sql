-- Whether apps had a name in all of a period.
select app_group, region, sdk_app_id, slots, certain_pct, possible_pct, blind_seconds, verdict
  from attr_audit.name_in_window(cast(:name as text), cast(:since as timestamptz),
                                 cast(:until as timestamptz), cast(:app_group as text))
