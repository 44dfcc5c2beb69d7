-- Every app that is not retired, with the error of its newest poll.
select a.region, a.sdk_app_id, a.app_group, a.first_polled_at, a.first_ok_at, a.last_ok_at,
       a.last_outcome,
       coalesce(a.last_ok_at, a.first_polled_at) not between now() - :stale_after
           and now() + interval '1 minute' as stale,
       false as retired, a.conn_id, a.api, a.last_polled_at,
       greatest(extract(epoch from now() - coalesce(a.last_ok_at, a.first_polled_at)), 0)
           as age_seconds,
       a.consecutive_failures, p.error_code, p.error_info
  from attr_audit.app a
  left join lateral (
       select p.error_code, p.error_info
         from attr_audit.poll p
        where p.region = a.region and p.sdk_app_id = a.sdk_app_id
          and p.requested_at = a.last_polled_at and p.outcome = any(cast(:failed as text[]))
          and a.last_outcome = any(cast(:failed as text[]))
        order by p.poll_id desc limit 1) p on true
 where a.retired_at is null
