-- Changes of a period that nobody reviewed and that are not as declared, newest first; counted up to
-- a limit. "offset 0": the newest ones are looked at one after the other until there are enough; to judge
-- all of a period by the declaration of its time would take as long as it has changes.
with waiting as materialized (
    select u.seen_at, u.change_id, u.region, u.sdk_app_id, u.seq
      from (select c.region, c.sdk_app_id, c.seq
              from attr_audit.change c
             where c.seen_at > now() - cast(:period as interval) and not c.is_baseline
               and not exists (select from attr_audit.review r where r.region = c.region
                                  and r.sdk_app_id = c.sdk_app_id and r.seq = c.seq)
             order by c.seen_at desc, c.change_id desc
            offset 0) c
     cross join lateral (
           select v.seen_at, v.change_id, v.region, v.sdk_app_id, v.seq
             from attr_audit.unreviewed_changes v
            where v.region = c.region and v.sdk_app_id = c.sdk_app_id and v.seq = c.seq
              and v.seen_at > now() - cast(:period as interval)
           offset 0) u
     limit :counted
)
select u.seen_at, u.not_before, u.app_group, u.region, u.sdk_app_id, u.slot, u.kind, u.old_name,
       u.new_name, u.old_type, u.new_type, u.lookalike, u.seq,
       (select count(*) from waiting) as in_all
  from (select * from waiting order by seen_at desc, change_id desc limit :at_most) w
  join attr_audit.changes u
    on u.region = w.region and u.sdk_app_id = w.sdk_app_id and u.seq = w.seq
 order by u.seen_at desc, u.change_id desc
