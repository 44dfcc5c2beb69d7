-- What the database decides itself instead of believing the writer: which times cannot be true, which
-- poll a change comes from, and when the removal of every name is confirmed.
-- No statement here reads poll or rewrites a table: the locks are held for milliseconds. Constraints are
-- NOT VALID, so that rows recorded earlier stay as they are; those on app are validated where its rows
-- allow it. Workers of the release before this one keep recording after this step.

-- What can identify an app, and which times are possible -----------------------------------------

alter table attr_audit.app
    add constraint region_is_a_label check (
        char_length(region) <= 64
        and region ~ '^[^/[:cntrl:][:space:]]([^/[:cntrl:]]*[^/[:cntrl:][:space:]])?$') not valid,
    add constraint sdk_app_id_is_positive check (sdk_app_id > 0) not valid,
    add constraint times_are_since_1970 check (
        least(first_polled_at, first_ok_at, last_polled_at, last_ok_at, last_poll_ended_at,
              emptied_seen_at, retired_at) >= '1970-01-01 00:00:00+00') not valid;

do $$
declare
    name text;
begin
    foreach name in array array['region_is_a_label', 'sdk_app_id_is_positive', 'times_are_since_1970'] loop
        begin
            execute format('alter table attr_audit.app validate constraint %I', name);
        exception when check_violation then
            -- A row like that was recorded earlier. It stays; no new one can be added.
            raise notice 'attr_audit.app has rows that violate %', name;
        end;
    end loop;
end $$;

alter table attr_audit.poll
    add column names_read smallint,
    add column first_responded_at timestamptz,
    add constraint app_can_exist check (region <> '' and sdk_app_id > 0) not valid,
    add constraint names_are_counted check (names_read between 0 and 1000) not valid,
    add constraint first_answer_is_in_order check
        (first_responded_at >= requested_at and first_responded_at <= responded_at) not valid;

comment on column attr_audit.poll.names_read is
    'The largest number of names in one of the poll''s answers; null: no answer gave names, or the poll is ok and found the names on record.';
comment on column attr_audit.poll.first_responded_at is
    'When the answer of the first read arrived; null: as names_read.';
comment on column attr_audit.app.emptied_seen_at is
    'Set by the database alone: when an answer without any name first arrived for an app that has names. The removal is recorded when another run''s poll sees the same.';
comment on column attr_audit.app.emptied_dag_run_id is
    'Set by the database alone: the run that saw it; another run must confirm it.';
comment on column attr_audit.app.last_poll_ended_at is
    'The latest end of any recorded poll; a poll whose first request is older is late. A time in the future is replaced by the time at which it was found (see clock_correction).';
comment on column attr_audit.change.old_not_before is
    'not_before of the change that set the old name (where its time was in the future: see clock_correction).';
comment on column attr_audit.change.old_seen_at is
    'seen_at of the change that set the old name (where it was in the future: clock_correction.found_at). With seen_at the span in which it was the name last seen.';

-- When the database's clock was wrong ------------------------------------------------------------

create table attr_audit.clock_correction (
    region       text not null,
    sdk_app_id   bigint not null,
    found_at     timestamptz not null,
    ahead        interval not null,
    ok_at        timestamptz not null,
    wrong_seen_at timestamptz[] not null,
    last_poll_id bigint not null,
    recorded_at  timestamptz not null default clock_timestamp(),
    primary key (region, sdk_app_id, found_at)
);
comment on table attr_audit.clock_correction is
    'Apps whose recorded times were in the future: the database''s clock had been ahead. Only the database writes it; a correction whose found_at turns out to be in the future itself is replaced. The rows of poll and change that were recorded under the wrong clock stay as they are; the views use these bounds for them.';
comment on column attr_audit.clock_correction.region is 'The app''s region.';
comment on column attr_audit.clock_correction.sdk_app_id is 'The app''s number.';
comment on column attr_audit.clock_correction.found_at is
    'When the database found it. What was recorded under the wrong clock happened before this.';
comment on column attr_audit.clock_correction.ahead is
    'How far in the future the app''s latest time was.';
comment on column attr_audit.clock_correction.ok_at is
    'When the last good poll before that was sent, by its trusted time. What was recorded under the wrong clock happened after this. 1970-01-01: there is no such poll.';
comment on column attr_audit.clock_correction.wrong_seen_at is
    'seen_at of the app''s changes that were recorded under the wrong clock.';
comment on column attr_audit.clock_correction.last_poll_id is
    'The app''s polls up to this poll_id whose requested_at is later than found_at have wrong times.';
comment on column attr_audit.clock_correction.recorded_at is 'When the database recorded it.';

grant select on attr_audit.clock_correction to attr_audit_writer, attr_audit_reader;

-- By the indexes of poll alone, whatever the statistics say.
create function attr_audit.trusted_ok_at(a_region text, an_sdk_app_id bigint, until timestamptz)
    returns timestamptz
    language sql stable parallel safe set enable_seqscan = off
begin atomic
    select coalesce(p.last_requested_at, p.requested_at)
      from attr_audit.poll p
     where p.region = a_region and p.sdk_app_id = an_sdk_app_id and p.outcome = 'ok'
       and p.requested_at <= until
       and coalesce(p.last_requested_at, p.requested_at) <= until
       and not exists (select from attr_audit.clock_correction k
                        where k.region = a_region and k.sdk_app_id = an_sdk_app_id
                          and p.requested_at > k.found_at and p.poll_id <= k.last_poll_id)
     order by p.requested_at desc
     limit 1;
end;
comment on function attr_audit.trusted_ok_at(text, bigint, timestamptz) is
    'When the app''s newest good poll up to the instant was sent, without polls recorded under a wrong clock; null: there is none.';

create function attr_audit.record_correction(a_region text, an_sdk_app_id bigint, found timestamptz,
                                             latest timestamptz, ok_at timestamptz) returns void
    language sql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
    delete from attr_audit.clock_correction k
     where k.region = a_region and k.sdk_app_id = an_sdk_app_id and k.found_at > found;
    insert into attr_audit.clock_correction
           (region, sdk_app_id, found_at, ahead, ok_at, wrong_seen_at, last_poll_id)
    select a_region, an_sdk_app_id, found, latest - found, ok_at,
           array(select distinct c.seen_at from attr_audit.change c
                  where c.region = a_region and c.sdk_app_id = an_sdk_app_id and c.seen_at > found
                    and not exists (select from attr_audit.clock_correction k
                                     where k.region = a_region and k.sdk_app_id = an_sdk_app_id
                                       and c.seen_at = any(k.wrong_seen_at))),
           greatest((select max(p.poll_id) from attr_audit.poll p
                      where p.region = a_region and p.sdk_app_id = an_sdk_app_id
                        and p.outcome = 'ok' and p.requested_at > found),
                    (select max(p.poll_id) from attr_audit.poll p
                      where p.region = a_region and p.sdk_app_id = an_sdk_app_id
                        and p.outcome not in ('ok', 'late') and p.requested_at > found), 0)
        on conflict do nothing
$$;
comment on function attr_audit.record_correction(text, bigint, timestamptz, timestamptz, timestamptz) is
    'Notes in clock_correction which of the app''s rows have wrong times.';

-- At the beginning of every task, before anything is asked: the end of the newest poll then becomes the
-- present, so that no answer that was asked for earlier can pass.
create function attr_audit.correct_future_times(regions text[], sdk_app_ids bigint[],
                                                caller_at timestamptz)
    returns table (region text, sdk_app_id bigint, ahead interval, is_corrected boolean)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    a       attr_audit.app;
    found   timestamptz;
    latest  timestamptz;
    new_ok  timestamptz;
begin
    for a in
        select b.* from unnest(regions, sdk_app_ids) as u (r, n)
          join attr_audit.app b on b.region = u.r and b.sdk_app_id = u.n
         where greatest(b.first_polled_at, b.first_ok_at, b.last_polled_at, b.last_ok_at,
                        b.last_poll_ended_at, b.emptied_seen_at) > clock_timestamp() + interval '1 minute'
         order by b.region, b.sdk_app_id
           for update of b
    loop
        found := clock_timestamp();
        latest := greatest(a.first_polled_at, a.first_ok_at, a.last_polled_at, a.last_ok_at,
                           a.last_poll_ended_at, a.emptied_seen_at);
        region := a.region;
        sdk_app_id := a.sdk_app_id;
        ahead := latest - found;
        is_corrected := (caller_at < latest - interval '1 minute') is not false;
        if is_corrected then
            new_ok := a.last_ok_at;
            if a.last_ok_at > found then
                new_ok := coalesce(attr_audit.trusted_ok_at(a.region, a.sdk_app_id, found),
                                   case when a.first_polled_at <= found then a.first_polled_at end,
                                   '1970-01-01 00:00:00+00');
            end if;
            perform attr_audit.record_correction(a.region, a.sdk_app_id, found, latest,
                                                 coalesce(new_ok, '1970-01-01 00:00:00+00'));
            update attr_audit.app b
               set first_polled_at = least(b.first_polled_at, found),
                   -- Not least(), which ignores a null: an app that was never seen stays so.
                   first_ok_at = case when b.first_ok_at > found then found else b.first_ok_at end,
                   last_polled_at = least(b.last_polled_at, found),
                   last_ok_at = new_ok,
                   last_poll_ended_at = found,
                   emptied_seen_at = case when b.emptied_seen_at <= found then b.emptied_seen_at end,
                   emptied_dag_run_id = case when b.emptied_seen_at <= found then b.emptied_dag_run_id end
             where b.region = a.region and b.sdk_app_id = a.sdk_app_id;
        end if;
        return next;
    end loop;
end $$;
comment on function attr_audit.correct_future_times(text[], bigint[], timestamptz) is
    'Corrects, of these apps, what app says of times later than now + 1 minute, and notes it in clock_correction: a good poll''s time becomes that of the newest good poll whose time is not in the future. Gives the apps concerned. Not corrected where the caller''s clock has reached that time: then the database''s clock is behind now.';

-- What the writer may say of an app --------------------------------------------------------------

create function attr_audit.guard_app() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    latest constant timestamptz := clock_timestamp() + interval '1 minute';
    old_times timestamptz[];
    new_times constant timestamptz[] := array[new.first_polled_at, new.first_ok_at, new.last_polled_at,
                                              new.last_ok_at, new.last_poll_ended_at, new.retired_at];
    names constant text[] := array['first_polled_at', 'first_ok_at', 'last_polled_at', 'last_ok_at',
                                   'last_poll_ended_at', 'retired_at'];
begin
    -- Whoever acts as the owner can do this anyway; the database's own corrections do.
    if pg_has_role(current_user, 'attr_audit_owner', 'usage') then
        return new;
    end if;
    if tg_op = 'UPDATE' then
        old_times := array[old.first_polled_at, old.first_ok_at, old.last_polled_at, old.last_ok_at,
                           old.last_poll_ended_at, old.retired_at];
        -- A confirmed removal, or names after all: nothing waits any more.
        if new.last_ok_at > old.last_ok_at then
            new.emptied_seen_at := null;
            new.emptied_dag_run_id := null;
        end if;
    end if;
    for i in 1 .. 6 loop
        if new_times[i] > latest and new_times[i] is distinct from old_times[i] then
            raise exception 'app %/%: %_is_not_in_the_future', new.region, new.sdk_app_id, names[i]
                using errcode = 'check_violation';
        end if;
        if i < 6 and (new_times[i] < old_times[i] or new_times[i] is null and old_times[i] is not null
                      or i < 3 and new_times[i] > old_times[i]) then
            raise exception '% of %/% cannot be changed from % to %', names[i], new.region,
                new.sdk_app_id, old_times[i], new_times[i] using errcode = 'check_violation';
        end if;
    end loop;
    if new.emptied_seen_at is not null
       and (tg_op = 'INSERT' or (new.emptied_seen_at, new.emptied_dag_run_id)
                                is distinct from (old.emptied_seen_at, old.emptied_dag_run_id)) then
        raise exception 'emptied_seen_at of %/% is set by the database alone', new.region, new.sdk_app_id
            using errcode = 'check_violation';
    end if;
    return new;
end $$;
comment on function attr_audit.guard_app() is
    'Refuses times of app that are later than now + 1 minute or go back, and an emptied_seen_at that the database has not set itself.';

create trigger guard_new_app before insert on attr_audit.app
    for each row when (
        greatest(new.first_polled_at, new.first_ok_at, new.last_polled_at, new.last_ok_at,
                 new.last_poll_ended_at, new.retired_at) > now() + interval '1 minute'
        or new.emptied_seen_at is not null)
    execute function attr_audit.guard_app();
-- The conditions are those under which the function does anything: an ordinary poll meets none.
create trigger guard_app before update on attr_audit.app
    for each row when (
        greatest(new.last_polled_at, new.last_ok_at, new.last_poll_ended_at, new.first_ok_at,
                 new.retired_at) > now() + interval '1 minute'
        or (new.last_polled_at >= old.last_polled_at and new.first_polled_at = old.first_polled_at
            and (old.last_ok_at is null
                 or new.last_ok_at >= old.last_ok_at and new.first_ok_at = old.first_ok_at)
            and (old.last_poll_ended_at is null or new.last_poll_ended_at >= old.last_poll_ended_at)
           ) is not true
        or new.emptied_seen_at is not null)
    execute function attr_audit.guard_app();

-- An answer without any name, for an app that has names ------------------------------------------

create function attr_audit.judge_removal() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
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
comment on function attr_audit.judge_removal() is
    'Keeps app.emptied_seen_at by what the polls of the app read: set by a poll without any name, cleared by one with names or of another API family.';

create trigger judge_removal after insert on attr_audit.poll
    for each row when (new.outcome <> 'late' and (new.outcome <> 'ok' or new.names_read > 0))
    execute function attr_audit.judge_removal();

-- What the database does on every new change -----------------------------------------------------

create or replace function attr_audit.chain_change() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    latest constant timestamptz := clock_timestamp() + interval '1 minute';
    app      record;
    head     record;
    slot_now record;
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

    select c.seq, c.row_hash, c.seen_at into head
      from attr_audit.change c
     where c.region = new.region and c.sdk_app_id = new.sdk_app_id
     order by c.seq desc limit 1;

    select s.name, s.attr_type, s.not_before, s.seen_at into slot_now
      from attr_audit.snapshot s
     where s.region = new.region and s.sdk_app_id = new.sdk_app_id and s.slot = new.slot;

    if (slot_now.name, slot_now.attr_type) is distinct from (new.old_name, new.old_type) then
        raise exception 'change of %/% slot % does not start from the name last known',
            new.region, new.sdk_app_id, new.slot using errcode = 'integrity_constraint_violation';
    end if;

    if new.seen_at < head.seen_at then
        -- Older than the newest change: that one was recorded under a wrong clock, or this one is.
        if head.seen_at > latest and not exists (
            select from attr_audit.clock_correction k
             where k.region = new.region and k.sdk_app_id = new.sdk_app_id
               and head.seen_at = any(k.wrong_seen_at)) then
            perform attr_audit.record_correction(new.region, new.sdk_app_id, new.seen_at, head.seen_at,
                coalesce(app.last_ok_at, '1970-01-01 00:00:00+00'));
            app.was_corrected := true;
        end if;
        if app.was_corrected and exists (
            select from attr_audit.clock_correction k
             where k.region = new.region and k.sdk_app_id = new.sdk_app_id
               and head.seen_at = any(k.wrong_seen_at)) then
            head.seen_at := null;
        end if;
    end if;
    if new.seen_at < greatest(app.last_ok_at, head.seen_at) or new.not_before < app.last_ok_at then
        raise exception 'change of %/% slot % is dated before the last good poll of its app',
            new.region, new.sdk_app_id, new.slot using errcode = 'check_violation';
    end if;

    if app.was_corrected then
        select k.found_at, k.ok_at into wrong
          from attr_audit.clock_correction k
         where k.region = new.region and k.sdk_app_id = new.sdk_app_id
           and slot_now.seen_at = any(k.wrong_seen_at);
        if found then
            slot_now.seen_at := wrong.found_at;
            if slot_now.not_before > wrong.found_at then
                slot_now.not_before := wrong.ok_at;
            end if;
        end if;
    end if;

    new.seq := coalesce(head.seq, 0) + 1;
    new.prev_hash := head.row_hash;
    new.recorded_at := clock_timestamp();
    new.prior_ok_at := app.last_ok_at;
    new.old_not_before := slot_now.not_before;
    new.old_seen_at := slot_now.seen_at;
    new.row_hash := sha256(convert_to(attr_audit.change_canonical(new), 'UTF8'));
    return new;
end $$;

-- "is not true" keeps each look-up a probe of an index, where "not exists" may become a scan of poll.
-- After apply_changes, which has left the snapshot as it is then.
create function attr_audit.refuse_unfounded_changes() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    wrong record;
begin
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

create trigger refuse_unfounded_changes after insert on attr_audit.change
    referencing new table as new_changes
    for each statement execute function attr_audit.refuse_unfounded_changes();

comment on function attr_audit.chain_change() is
    'Gives a new change its seq, its recorded_at and its place in the app''s chain; refuses one that does not continue the record. Times of the record that are in the future do not count.';
comment on function attr_audit.refuse_unfounded_changes() is
    'Refuses changes that do not come from a good poll of their app and run, and the removal of every name where no poll of another run saw that before.';

-- What an analyst reads, with what was recorded under a wrong clock ------------------------------

create or replace view attr_audit.name_history as
select h.region, h.sdk_app_id, a.app_group, h.slot, h.name, h.attr_type, h.possible_from,
       h.valid_from, coalesce(h.certain_to, a.last_ok_at) as certain_to, h.valid_to
  from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
               case when c.old_not_before > k.ok_at then k.ok_at else c.old_not_before end as possible_from,
               least(c.old_seen_at, k.found_at) as valid_from,
               least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) as certain_to,
               coalesce(k.found_at, c.seen_at) as valid_to
          from attr_audit.change c
          left join attr_audit.clock_correction k
            on k.region = c.region and k.sdk_app_id = c.sdk_app_id
           and c.seen_at = any(k.wrong_seen_at)
         where c.old_name is not null
         union all
        select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type,
               case when s.not_before > k.ok_at then k.ok_at else s.not_before end,
               coalesce(k.found_at, s.seen_at), null::timestamptz, null::timestamptz
          from attr_audit.snapshot s
          left join attr_audit.clock_correction k
            on k.region = s.region and k.sdk_app_id = s.sdk_app_id
           and s.seen_at = any(k.wrong_seen_at)) h
  join attr_audit.app a using (region, sdk_app_id);

create or replace view attr_audit.current_names as
select s.region, s.sdk_app_id, a.app_group, s.slot, s.name, s.attr_type,
       case when s.not_before > k.ok_at then k.ok_at else s.not_before end as not_before,
       coalesce(k.found_at, s.seen_at) as seen_at, a.last_ok_at as confirmed_at
  from attr_audit.snapshot s
  join attr_audit.app a using (region, sdk_app_id)
  left join attr_audit.clock_correction k
    on k.region = s.region and k.sdk_app_id = s.sdk_app_id and s.seen_at = any(k.wrong_seen_at)
 where a.retired_at is null;

create or replace function attr_audit.names_as_of(at timestamptz)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, a.app_group, n.slot, n.name, n.attr_type,
           at <= coalesce(least(n.certain_to, k.ok_at), a.last_ok_at)
      -- "is true": not to be looked up by change_by_seen_at, whose rows lie all over the table.
      from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
                   coalesce(c.not_before, c.prior_ok_at) as certain_to, c.seen_at
              from attr_audit.change c
             where c.span_class = 0 and c.span_from > at - interval '1 hour' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 1 and c.span_from > at - interval '4 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 2 and c.span_from > at - interval '16 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 3 and c.span_from > at - interval '64 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 4 and c.span_from > at - interval '256 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 5 and c.span_from > at - interval '1024 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 6 and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, null::timestamptz,
                   null::timestamptz
              from attr_audit.snapshot s
              left join attr_audit.clock_correction w
                on w.region = s.region and w.sdk_app_id = s.sdk_app_id
               and s.seen_at = any(w.wrong_seen_at)
             where coalesce(w.found_at, s.seen_at) <= at) n
      join attr_audit.app a using (region, sdk_app_id)
      left join attr_audit.clock_correction k
        on k.region = n.region and k.sdk_app_id = n.sdk_app_id
       and n.seen_at = any(k.wrong_seen_at)
     where (k.found_at <= at) is not true;
end;

create or replace view attr_audit.freshness as
select f.region, f.sdk_app_id, f.app_group, f.ok_at as last_ok_at,
       greatest(now() - coalesce(f.ok_at, f.asked_at), interval '0') as age,
       f.last_outcome, f.consecutive_failures
  from (select a.*,
               case when a.last_ok_at <= now() + interval '1 minute' then a.last_ok_at
                    when a.last_ok_at is not null
                    then attr_audit.trusted_ok_at(a.region, a.sdk_app_id, now()) end as ok_at,
               case when a.first_polled_at <= now() + interval '1 minute' then a.first_polled_at
                    else '1970-01-01 00:00:00+00' end as asked_at
          from attr_audit.app a
         where a.retired_at is null) f;

comment on view attr_audit.freshness is
    'How old our knowledge of every app is, without retired ones. A time in the future does not count: the newest good poll whose time is not in the future does, and age is never negative.';

create or replace function attr_audit.coverage_gaps(longer_than interval default '1 hour')
    returns table (region text, sdk_app_id bigint, gap_from timestamptz, gap_to timestamptz,
                   polls_failed bigint)
    language sql stable parallel safe
begin atomic
    with good as (
        select p.region, p.sdk_app_id, p.requested_at as asked_at,
               coalesce(p.last_requested_at, p.requested_at) as confirmed_at,
               lead(p.requested_at) over (partition by p.region, p.sdk_app_id
                                          order by p.requested_at) as next_asked_at
          from attr_audit.poll p
         where p.outcome = 'ok' and p.requested_at <= now() + interval '1 minute'
           and not exists (select from attr_audit.clock_correction k
                            where k.region = p.region and k.sdk_app_id = p.sdk_app_id
                              and p.requested_at > k.found_at and p.poll_id <= k.last_poll_id)
    ), gap as (
        select g.region, g.sdk_app_id, g.confirmed_at as gap_from, g.next_asked_at as gap_to
          from good g
         where g.next_asked_at - g.confirmed_at > longer_than
        union all
        -- Still open: nothing good has come since, however long ago that was.
        select a.region, a.sdk_app_id, a.ok_at, null
          from (select b.region, b.sdk_app_id,
                       case when b.last_ok_at <= now() + interval '1 minute' then b.last_ok_at
                            when b.last_ok_at is not null
                            then coalesce(attr_audit.trusted_ok_at(b.region, b.sdk_app_id, now()),
                                          '1970-01-01 00:00:00+00') end as ok_at
                  from attr_audit.app b) a
         where now() - a.ok_at > longer_than
    )
    select gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to, count(p.poll_id)
      from gap
      left join attr_audit.poll p
        on p.region = gap.region and p.sdk_app_id = gap.sdk_app_id
       and p.requested_at > gap.gap_from
       and (gap.gap_to is null or p.requested_at < gap.gap_to)
       and p.outcome not in ('ok', 'late')
     group by gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to;
end;

-- Who may what -----------------------------------------------------------------------------------

revoke all on function
    attr_audit.trusted_ok_at(text, bigint, timestamptz),
    attr_audit.record_correction(text, bigint, timestamptz, timestamptz, timestamptz),
    attr_audit.correct_future_times(text[], bigint[], timestamptz),
    attr_audit.guard_app(), attr_audit.judge_removal(), attr_audit.refuse_unfounded_changes()
    from public;
grant execute on function attr_audit.trusted_ok_at(text, bigint, timestamptz)
    to attr_audit_writer, attr_audit_reader;
grant execute on function attr_audit.correct_future_times(text[], bigint[], timestamptz)
    to attr_audit_writer;
grant insert (names_read, first_responded_at) on attr_audit.poll to attr_audit_writer;
-- What a new app starts with; the rest is for a poll, or for the database, to say.
revoke insert on attr_audit.app from attr_audit_writer;
grant insert (region, sdk_app_id, app_group, api, conn_id, first_polled_at, last_polled_at, last_outcome)
    on attr_audit.app to attr_audit_writer;
