-- Connections of the last day that do not name their app; nothing was sent.
select distinct on (p.conn_id) p.conn_id, p.requested_at as at, p.error_info as what
  from attr_audit.poll p
 where p.requested_at > now() - interval '1 day' and
       {names_no_app}
   and not exists (select from attr_audit.app a
                    where a.conn_id = p.conn_id and a.last_polled_at > p.requested_at)
 order by p.conn_id, p.requested_at desc
