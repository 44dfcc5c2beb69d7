-- The spans that are still open.
select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, s.seen_at as seen_from,
       a.last_ok_at as seen_to
  from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
  join attr_audit.snapshot s on s.region = u.region and s.sdk_app_id = u.sdk_app_id
  join attr_audit.app a on a.region = u.region and a.sdk_app_id = u.sdk_app_id
 where s.seen_at <= :window_to and a.last_ok_at >= :window_from
   and (cast(:slot as smallint) is null or s.slot = :slot)
