-- Every app; stale where no good poll is recent. A time in the future is not a recent poll.
select a.region, a.sdk_app_id, a.app_group, a.first_polled_at, a.first_ok_at, a.last_ok_at,
       a.last_outcome,
       coalesce(a.last_ok_at, a.first_polled_at) not between now() - :stale_after
           and now() + interval '1 minute' as stale,
       a.retired_at is not null as retired
  from attr_audit.app a
 where a.retired_at is null or :retired
