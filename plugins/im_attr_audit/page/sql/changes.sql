-- Changes that match every filter that is set, newest first, from the key of a page on.
select c.change_id, c.region, c.sdk_app_id, a.app_group, c.seq, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type, c.not_before, c.seen_at, c.recorded_at, c.dag_run_id,
       encode(c.row_hash, 'hex') as row_hash
{matching_changes}
   and (cast(:before_at as timestamptz) is null
        or (c.seen_at, c.change_id) < (:before_at, :before_id))
 order by c.seen_at desc, c.change_id desc
 limit :at_most
