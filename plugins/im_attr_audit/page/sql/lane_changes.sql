-- Every change closes the span of its old name: those that reach into the window, newest first;
-- baselines of slots that did not change in it only where asked for. "offset 0": the newest changes
-- are looked at one after the other until there are enough.
select c.region, c.sdk_app_id, c.seq, c.slot, c.kind, c.old_name, c.new_name, c.old_type,
       c.not_before, c.seen_at, c.old_seen_at, coalesce(c.not_before, c.prior_ok_at) as certain_to
  from (select *
          from attr_audit.change c
         where c.seen_at >= :window_from
         order by c.seen_at desc, c.change_id desc
        offset 0) c
 where c.sdk_app_id = any(cast(:ids as bigint[]))
   and (c.region, c.sdk_app_id) in (
           select u.region, u.sdk_app_id
             from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id))
   and coalesce(c.old_seen_at, c.not_before, c.seen_at) <= :window_to
   and (cast(:slot as smallint) is null or c.slot = :slot)
   and (:baselines or not c.is_baseline
        or exists (select from attr_audit.change n
                    where n.slot = c.slot and n.region = c.region and n.sdk_app_id = c.sdk_app_id
                      and not n.is_baseline and n.seen_at between :window_from and :window_to))
 limit :at_most
