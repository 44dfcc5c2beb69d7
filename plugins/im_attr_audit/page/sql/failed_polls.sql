-- Failed polls in the window, newest first.
select p.region, p.sdk_app_id, p.requested_at as at, p.outcome, p.error_code, p.error_info
  from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
  join attr_audit.poll p on p.region = u.region and p.sdk_app_id = u.sdk_app_id
 where p.requested_at between :window_from and :window_to
   and p.outcome = any(cast(:failed as text[]))
 order by p.requested_at desc
 limit :at_most
