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
   and (cast(:only as bigint[]) is null or c.change_id = any(:only))
   and (cast(:name as text) is null or c.old_name ilike :name or c.new_name ilike :name)
   and (cast(:review as text) is null or not c.is_baseline and case
            when :review = 'unreviewed'
            then not exists (select from attr_audit.review r where r.region = c.region
                               and r.sdk_app_id = c.sdk_app_id and r.seq = c.seq)
                 -- "offset 0": else every change there is would be judged for the first page.
                 and exists (select from attr_audit.unreviewed_changes u where u.region = c.region
                               and u.sdk_app_id = c.sdk_app_id and u.seq = c.seq offset 0)
            else (select r.verdict = :review or :review = 'reviewed'
                    from attr_audit.review r
                   where r.region = c.region and r.sdk_app_id = c.sdk_app_id and r.seq = c.seq
                   order by r.reviewed_at desc, r.review_id desc limit 1) end)
