-- The newest changes of a period, baselines left out, and how many there are.
select c.seen_at, c.not_before, c.app_group, c.region, c.sdk_app_id, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type, c.lookalike, c.seq
  from attr_audit.changes c
 where c.seen_at > now() - cast(:period as interval)
 order by c.seen_at desc, c.change_id desc
 limit :at_most
