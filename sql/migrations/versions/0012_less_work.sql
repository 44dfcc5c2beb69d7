-- Recording a change costs less: two triggers do only what is needed in nearly every case, and look at
-- the rest where that was not enough. What they accept and refuse stays the same. Only functions are
-- replaced, so nobody waits for a lock.

create or replace function attr_audit_internal.judge_removal() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- Nearly every poll: only an unstable one can arm a removal, and no removal waits to be disproved.
    if new.outcome <> 'unstable' and not exists (
        select from attr_audit.app a
         where a.region = new.region and a.sdk_app_id = new.sdk_app_id
           and a.emptied_seen_at is not null) then
        return null;
    end if;
    update attr_audit.app a
       set emptied_seen_at = case when j.armed and (j.disproved or a.emptied_seen_at is null)
                                  then new.first_responded_at
                                  when not j.disproved then a.emptied_seen_at end,
           emptied_dag_run_id = case when j.armed and (j.disproved or a.emptied_seen_at is null)
                                     then new.dag_run_id
                                     when not j.disproved then a.emptied_dag_run_id end
      from (select b.region, b.sdk_app_id,
                   -- Names after all, or another source: what waited was not confirmed.
                   (new.names_read > 0 or new.api <> b.api) is true as disproved,
                   (new.outcome = 'unstable' and new.names_read = 0 and new.reads >= 2
                    and new.first_responded_at is not null) as armed
              from attr_audit.app b
             where b.region = new.region and b.sdk_app_id = new.sdk_app_id) j
     where a.region = j.region and a.sdk_app_id = j.sdk_app_id
       and (j.armed is true or j.disproved and a.emptied_seen_at is not null);
    return null;
end $$;

create or replace function attr_audit_internal.refuse_unfounded_changes() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    wrong record;
begin
    -- A poll is sent at most an hour before its changes are seen: one partition, or two.
    if exists (
        select from (select distinct region, sdk_app_id, poll_id, dag_run_id, seen_at from new_changes) n
         where (select true from attr_audit.poll p
                 where p.region = n.region and p.sdk_app_id = n.sdk_app_id and p.outcome = 'ok'
                   and p.requested_at >= n.seen_at - interval '1 hour' and p.requested_at <= n.seen_at
                   and p.poll_id = n.poll_id and p.dag_run_id is not distinct from n.dag_run_id
                   and p.responded_at >= n.seen_at
                 limit 1) is not true) then
        -- A confirmed removal was seen before its poll, which may lie in any later partition.
        select n.* into wrong
          from (select distinct region, sdk_app_id, poll_id, dag_run_id, seen_at from new_changes) n
         where (select true from attr_audit.poll p
                 where p.region = n.region and p.sdk_app_id = n.sdk_app_id and p.outcome = 'ok'
                   and p.requested_at >= n.seen_at - interval '1 hour'
                   and p.poll_id = n.poll_id and p.dag_run_id is not distinct from n.dag_run_id
                   and p.responded_at >= n.seen_at
                   and (p.requested_at <= n.seen_at
                        or n.seen_at = (select a.emptied_seen_at from attr_audit.app a
                                         where a.region = n.region and a.sdk_app_id = n.sdk_app_id))
                 limit 1) is not true
         limit 1;
        if found then
            raise exception 'change of %/% does not come from poll %: that is not a good poll of this app and run at its seen_at',
                wrong.region, wrong.sdk_app_id, wrong.poll_id using errcode = 'foreign_key_violation';
        end if;
    end if;

    select n.* into wrong
      from (select distinct region, sdk_app_id, dag_run_id, seen_at from new_changes
             where new_name is null) n
     where (select true from attr_audit.snapshot s
             where s.region = n.region and s.sdk_app_id = n.sdk_app_id limit 1) is not true
       and (select true from attr_audit.app a
             where a.region = n.region and a.sdk_app_id = n.sdk_app_id
               and a.emptied_seen_at = n.seen_at
               and a.emptied_dag_run_id is distinct from n.dag_run_id) is not true
     limit 1;
    if found then
        raise exception 'every name of %/% would be removed, and no poll of another run saw that before',
            wrong.region, wrong.sdk_app_id using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end $$;
