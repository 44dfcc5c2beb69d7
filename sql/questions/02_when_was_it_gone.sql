-- For how long was that name missing, at least and at most?
select gone.region, gone.slot, gone.not_before, gone.seen_at, back.not_before as back_not_before,
       back.seen_at as back_seen_at, back.not_before - gone.seen_at as at_least,
       back.seen_at - gone.not_before as at_most
  from attr_audit.changes gone
  left join attr_audit.changes back
    on (back.region, back.sdk_app_id, back.new_name) = (gone.region, gone.sdk_app_id, gone.old_name)
   and back.seq > gone.seq
 where gone.old_name = 'Membership level' and gone.seen_at >= '2026-05-01Z';
