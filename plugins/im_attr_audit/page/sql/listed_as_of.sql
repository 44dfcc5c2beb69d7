-- Every app that was not retired by an instant, with its group then; before its first row in
-- membership its first group counts.
select distinct on (m.region, m.sdk_app_id) m.region, m.sdk_app_id, m.app_group
  from attr_audit.membership m
  join attr_audit.app a using (region, sdk_app_id)
 where a.retired_at is null or a.retired_at > :at
 order by m.region, m.sdk_app_id, m.from_at <= :at desc,
          case when m.from_at <= :at then m.from_at end desc, m.from_at
