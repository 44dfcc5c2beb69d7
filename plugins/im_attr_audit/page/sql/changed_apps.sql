-- Apps with a change in the window, baselines left out.
select distinct region, sdk_app_id
  from attr_audit.change
 where seen_at between :window_from and :window_to and not is_baseline
   and (cast(:slot as smallint) is null or slot = :slot)
