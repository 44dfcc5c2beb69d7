-- How many changes match every filter that is set, counted up to a limit.
select count(*) as changes
  from (select
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
         limit :at_most) m
