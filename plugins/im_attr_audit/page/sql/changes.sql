-- Changes that match every filter that is set, newest first, from the key of a page on.
select c.change_id, c.region, c.sdk_app_id, a.app_group, c.seq, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type, c.not_before, c.seen_at, c.recorded_at, c.dag_run_id,
       encode(c.row_hash, 'hex') as row_hash
  from attr_audit.change c
  join attr_audit.app a using (region, sdk_app_id)
 where (cast(:region as text) is null or c.region = :region)
   and (cast(:app_group as text) is null or a.app_group = :app_group)
   and (cast(:sdk_app_id as bigint) is null or c.sdk_app_id = :sdk_app_id)
   and (cast(:slot as smallint) is null or c.slot = :slot)
   and (cast(:kind as text) is null or c.kind = :kind)
   and (cast(:since as timestamptz) is null or c.seen_at >= :since)
   and (cast(:until as timestamptz) is null or c.seen_at <= :until)
   and (cast(:dag_run_id as text) is null or c.dag_run_id = :dag_run_id)
   and (cast(:name as text) is null or c.old_name ilike :name or c.new_name ilike :name)
   and (cast(:before_at as timestamptz) is null
        or (c.seen_at, c.change_id) < (:before_at, :before_id))
 order by c.seen_at desc, c.change_id desc
 limit :at_most
