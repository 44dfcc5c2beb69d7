-- Since when a slot of an app is not as declared, and whether its name looks like the declared one.
-- The conditions on single columns reach into the view, which then computes since for these apps only.
select v.region, v.sdk_app_id, v.slot, v.since, v.lookalike
  from attr_audit.violations v
  join unnest(cast(:regions as text[]), cast(:ids as bigint[]), cast(:slots as smallint[]))
       as u (region, sdk_app_id, slot)
    on v.region = u.region and v.sdk_app_id = u.sdk_app_id and v.slot = u.slot
 where v.region = any(cast(:regions as text[])) and v.sdk_app_id = any(cast(:ids as bigint[]))
   and v.slot = any(cast(:slots as smallint[]))
