-- Changes of a period that nobody reviewed and that are not as declared, newest first; counted up to
-- a limit.
select u.seen_at, u.not_before, u.app_group, u.region, u.sdk_app_id, u.slot, u.kind, u.old_name,
       u.new_name, u.old_type, u.new_type, u.lookalike, u.seq, count(*) over () as in_all
  from (select * from attr_audit.unreviewed_changes
         where seen_at > now() - cast(:period as interval)
         order by seen_at desc, change_id desc
         limit :counted) u
 order by u.seen_at desc, u.change_id desc
 limit :at_most
