-- The spans that are still open. Each ends at the app's last good poll: where that one is in the
-- future, at the newest one that is not.
select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, s.seen_at as seen_from, k.seen_to
  from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
  join attr_audit.snapshot s on s.region = u.region and s.sdk_app_id = u.sdk_app_id
  join attr_audit.app a on a.region = u.region and a.sdk_app_id = u.sdk_app_id
 cross join lateral (
       select case when a.last_ok_at <= now() + interval '1 minute' then a.last_ok_at
                   else (select coalesce(p.last_requested_at, p.requested_at)
                           from attr_audit.poll p
                          where p.region = a.region and p.sdk_app_id = a.sdk_app_id
                            and p.outcome = 'ok' and p.requested_at <= now() + interval '1 minute'
                          order by p.requested_at desc limit 1) end as seen_to) k
 where s.seen_at <= :window_to and k.seen_to >= :window_from
   and (cast(:slot as smallint) is null or s.slot = :slot)
