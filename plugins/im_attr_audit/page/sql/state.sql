-- What healthz goes by: apps, and connections that do not name their app, without a recent good poll.
select (select count(*) from attr_audit.app where retired_at is null) as apps,
       (select count(*)
          from attr_audit.app
         where retired_at is null
           and coalesce(last_ok_at, first_polled_at) not between now() - :stale_after
               and now() + interval '1 minute') as stale,
       (select count(*) from (
           select p.conn_id
             from attr_audit.poll p
            where p.requested_at > now() - interval '1 day' - :stale_after and
                  {names_no_app}
            group by p.conn_id
           having max(p.requested_at) - min(p.requested_at) > :stale_after
              and max(p.requested_at) > now() - :stale_after
              and not exists (select from attr_audit.app a
                               where a.conn_id = p.conn_id
                                 and a.last_polled_at > max(p.requested_at))) c) as misconfigured
