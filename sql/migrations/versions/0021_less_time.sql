-- Recording many apps at once costs less: what triggers did for each row they do once for a statement, or
-- with fewer queries. What they accept and refuse stays the same. The triggers lock app and poll for a
-- moment; nothing is rewritten.

-- Poll --------------------------------------------------------------------------------------------------

-- A removal that awaits its confirmation: nearly no statement has anything to do with one. The transition
-- table shows this for all its polls at once; where one is concerned they are judged one by one, as before.
create function attr_audit_internal.judge_removals() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    poll record;
begin
    if not exists (
        select from new_polls n
         where n.outcome = 'unstable'
            or n.outcome <> 'late' and (n.outcome <> 'ok' or n.names_read > 0)
               and (select a.emptied_seen_at from attr_audit.app a
                     where a.region = n.region and a.sdk_app_id = n.sdk_app_id) is not null) then
        return null;
    end if;
    for poll in
        select * from new_polls n
         where n.outcome <> 'late' and (n.outcome <> 'ok' or n.names_read > 0)
         order by n.poll_id
    loop
        update attr_audit.app a
           set emptied_seen_at = case when j.armed and (j.disproved or a.emptied_seen_at is null)
                                      then poll.first_responded_at
                                      when not j.disproved then a.emptied_seen_at end,
               emptied_dag_run_id = case when j.armed and (j.disproved or a.emptied_seen_at is null)
                                         then poll.dag_run_id
                                         when not j.disproved then a.emptied_dag_run_id end
          from (select b.region, b.sdk_app_id,
                       -- Names after all, or another source: what waited was not confirmed.
                       (poll.names_read > 0 or poll.api <> b.api) is true as disproved,
                       (poll.outcome = 'unstable' and poll.names_read = 0 and poll.reads >= 2
                        and poll.first_responded_at is not null) as armed
                  from attr_audit.app b
                 where b.region = poll.region and b.sdk_app_id = poll.sdk_app_id) j
         where a.region = j.region and a.sdk_app_id = j.sdk_app_id
           and (j.armed is true or j.disproved and a.emptied_seen_at is not null);
    end loop;
    return null;
end $$;
comment on function attr_audit_internal.judge_removals() is
    'Keeps app.emptied_seen_at by what the polls of the app read: set by a poll without any name, cleared by one with names or of another API family.';
revoke all on function attr_audit_internal.judge_removals() from public;

drop trigger judge_removal on attr_audit.poll;
drop function attr_audit_internal.judge_removal();
create trigger judge_removals after insert on attr_audit.poll
    referencing new table as new_polls
    for each statement execute function attr_audit_internal.judge_removals();

-- App ---------------------------------------------------------------------------------------------------

-- A new app has no membership before: its group holds from its first poll on.
create function attr_audit_internal.note_first_groups() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
    select region, sdk_app_id, app_group, least(first_polled_at, clock_timestamp())
      from new_apps;
    return null;
end $$;
comment on function attr_audit_internal.note_first_groups() is
    'Adds a row to membership for each new app.';
revoke all on function attr_audit_internal.note_first_groups() from public;

drop trigger note_membership on attr_audit.app;
create trigger note_first_groups after insert on attr_audit.app
    referencing new table as new_apps
    for each statement execute function attr_audit_internal.note_first_groups();
comment on function attr_audit_internal.note_membership() is
    'Adds a row to membership when the group of an app changes.';

-- The query itself and not digests_of: calling that costs more than its work.
create or replace function attr_audit_internal.guard_digest() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    right_ones record;
begin
    if new.snapshot_digest is null then
        new.names_digest := null;
        return new;
    end if;
    select sha256(convert_to(coalesce(
               json_agg(json_build_array(s.slot, s.name, s.attr_type) order by s.slot),
               '[]'::json)::text, 'UTF8')) as snapshot_digest,
           sha256(convert_to(coalesce(
               json_agg(json_build_array(s.slot, s.name) order by s.slot),
               '[]'::json)::text, 'UTF8')) as names_digest
      into right_ones
      from attr_audit.snapshot s
     where s.region = new.region and s.sdk_app_id = new.sdk_app_id;
    -- Empty: the database is to set it.
    if new.snapshot_digest not in ('', right_ones.snapshot_digest) then
        raise exception 'snapshot_digest of %/% is not that of its snapshot', new.region, new.sdk_app_id
            using errcode = 'check_violation';
    end if;
    new.snapshot_digest := right_ones.snapshot_digest;
    new.names_digest := right_ones.names_digest;
    return new;
end $$;

-- Change ------------------------------------------------------------------------------------------------

create or replace function attr_audit_internal.chain_change() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    latest constant timestamptz := clock_timestamp() + interval '1 minute';
    app      record;
    known    record;
    wrong    record;
begin
    -- The app's row lock is what makes seq and the chain have one author at a time.
    -- A last_ok_at in the future was recorded under a wrong clock and is not trusted.
    select case when a.last_ok_at <= latest then a.last_ok_at end as last_ok_at,
           exists (select from attr_audit.clock_correction k
                    where k.region = a.region and k.sdk_app_id = a.sdk_app_id) as was_corrected
      into app
      from attr_audit.app a
     where a.region = new.region and a.sdk_app_id = new.sdk_app_id
       for update;
    if not found then
        raise exception 'app %/% is not in attr_audit.app', new.region, new.sdk_app_id
            using errcode = 'foreign_key_violation';
    end if;

    -- The head of the chain, and the slot as it is: both in one query, once the row is locked.
    select c.seq, c.row_hash, c.seen_at as head_seen_at, s.name, s.attr_type, s.not_before, s.seen_at
      into known
      from (select) one
      left join lateral (select h.seq, h.row_hash, h.seen_at
                           from attr_audit.change h
                          where h.region = new.region and h.sdk_app_id = new.sdk_app_id
                          order by h.seq desc limit 1) c on true
      left join attr_audit.snapshot s
        on s.region = new.region and s.sdk_app_id = new.sdk_app_id and s.slot = new.slot;

    if (known.name, known.attr_type) is distinct from (new.old_name, new.old_type) then
        raise exception 'change of %/% slot % does not start from the name last known',
            new.region, new.sdk_app_id, new.slot using errcode = 'integrity_constraint_violation';
    end if;

    if new.seen_at < known.head_seen_at then
        -- Older than the newest change: that one was recorded under a wrong clock, or this one is.
        if known.head_seen_at > latest and not exists (
            select from attr_audit.clock_correction k
             where k.region = new.region and k.sdk_app_id = new.sdk_app_id
               and known.head_seen_at = any(k.wrong_seen_at)) then
            perform attr_audit_internal.record_correction(new.region, new.sdk_app_id, new.seen_at, known.head_seen_at,
                coalesce(app.last_ok_at, '1970-01-01 00:00:00+00'));
            app.was_corrected := true;
        end if;
        if app.was_corrected and exists (
            select from attr_audit.clock_correction k
             where k.region = new.region and k.sdk_app_id = new.sdk_app_id
               and known.head_seen_at = any(k.wrong_seen_at)) then
            known.head_seen_at := null;
        end if;
    end if;
    if new.seen_at < greatest(app.last_ok_at, known.head_seen_at) or new.not_before < app.last_ok_at then
        raise exception 'change of %/% slot % is dated before the last good poll of its app',
            new.region, new.sdk_app_id, new.slot using errcode = 'check_violation';
    end if;

    if app.was_corrected then
        select k.found_at, k.ok_at into wrong
          from attr_audit.clock_correction k
         where k.region = new.region and k.sdk_app_id = new.sdk_app_id
           and known.seen_at = any(k.wrong_seen_at);
        if found then
            known.seen_at := wrong.found_at;
            if known.not_before > wrong.found_at then
                known.not_before := wrong.ok_at;
            end if;
        end if;
    end if;

    new.seq := coalesce(known.seq, 0) + 1;
    new.prev_hash := known.row_hash;
    new.recorded_at := clock_timestamp();
    new.prior_ok_at := app.last_ok_at;
    new.old_not_before := known.not_before;
    new.old_seen_at := known.seen_at;
    new.row_hash := sha256(convert_to(attr_audit_internal.change_canonical(new), 'UTF8'));
    return new;
end $$;
