-- Stretches without a good poll that are longer than the limit, cut to the window.
select g.region, g.sdk_app_id, g.gap_from, g.gap_to
  from attr_audit.gaps(cast(:window_from as timestamptz), cast(:window_to as timestamptz),
                       cast(:longer_than as interval)) g
  join unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
    on u.region = g.region and u.sdk_app_id = g.sdk_app_id
 where g.region = any(cast(:regions as text[])) and g.sdk_app_id = any(cast(:ids as bigint[]))
 order by g.gap_from
