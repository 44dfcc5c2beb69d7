-- The reader's catalogue: partitions and helper functions move to a schema that it does not see.
-- Also: the group of an app in the past, foreign keys to app, the meaning of outcomes and codes, and
-- names that look alike.
--
-- Locks are held for milliseconds, whatever the number of rows: moving a partition does not read it, and
-- the foreign keys are NOT VALID here. `migrate` validates them afterwards, in a transaction of its own.
--
-- Patterns for the migrations after this one:
-- * A view and a `begin atomic` function find tables and functions when they are created. The reader
--   needs SELECT on a table that a function reads and EXECUTE on a function that a view or function
--   calls, but no USAGE on their schema. A view reads tables with its owner's rights. A body in quotes
--   names everything with its schema and is run with `set search_path = pg_catalog, pg_temp`.
-- * A function with timestamptz (or interval) arguments has an overload that takes text in the same
--   places and casts it: JDBC binds a String as varchar, which is not cast to timestamptz by itself.
--   Postgres prefers text for a literal of unknown type; the overload casts it in the session's time
--   zone, as the literal would be. An expression of type timestamptz, timestamp or date takes the first
--   function. The overload has no default arguments where the first one can be called without any. It
--   is one `select` of the other function, and is inlined: it costs nothing.
-- * The group of then: the app's row of membership with the largest from_at up to the time, else its
--   first row.
-- * Meaning and advice of a poll: left join error_code on the code; where it has no row and the code is
--   not 0, the row of error_code_family whose range holds it; without a code the row of outcome.

-- `migrate` has created the schema: Alembic's table is in it.
comment on schema attr_audit_internal is
    'What the record is built with: partitions of poll, functions, reference data. No user reads it.';
revoke all on schema attr_audit_internal from public;
grant usage on schema attr_audit_internal to attr_audit_writer;

-- In the order in which the writer takes them: a poll that is being recorded is waited for.
lock table attr_audit.app in share row exclusive mode;
lock table attr_audit.poll in access exclusive mode;
lock table attr_audit.change, attr_audit.snapshot in share row exclusive mode;

-- Partitions -------------------------------------------------------------------------------------

-- Also those that a retention has detached and not dropped yet.
do $$
declare
    part name;
begin
    for part in
        select c.relname from pg_class c
         where c.relnamespace = 'attr_audit'::regnamespace and c.relkind = 'r'
           and c.relname ~ '^poll_\d{4}_\d{2}$'
         order by c.relname
    loop
        execute format('alter table attr_audit.%I set schema attr_audit_internal', part);
    end loop;
end $$;

-- Functions --------------------------------------------------------------------------------------

alter function attr_audit.epoch_us(timestamptz) set schema attr_audit_internal;
alter function attr_audit.change_canonical(attr_audit.change) set schema attr_audit_internal;
alter function attr_audit.snapshot_digest_of(text, bigint) set schema attr_audit_internal;
alter function attr_audit.trusted_ok_at(text, bigint, timestamptz) set schema attr_audit_internal;
alter function attr_audit.record_correction(text, bigint, timestamptz, timestamptz, timestamptz)
    set schema attr_audit_internal;
alter function attr_audit.correct_future_times(text[], bigint[], timestamptz)
    set schema attr_audit_internal;
alter function attr_audit.create_poll_partition(date) set schema attr_audit_internal;
alter function attr_audit.ensure_poll_partitions() set schema attr_audit_internal;
alter function attr_audit.chain_change() set schema attr_audit_internal;
alter function attr_audit.apply_changes() set schema attr_audit_internal;
alter function attr_audit.refuse_rewriting() set schema attr_audit_internal;
alter function attr_audit.note_changes() set schema attr_audit_internal;
alter function attr_audit.refuse_sending_again() set schema attr_audit_internal;
alter function attr_audit.guard_app() set schema attr_audit_internal;
alter function attr_audit.judge_removal() set schema attr_audit_internal;
alter function attr_audit.refuse_unfounded_changes() set schema attr_audit_internal;

-- Bodies in quotes that name a function which has moved. Nothing else in them changes.

create or replace function attr_audit_internal.chain_change() returns trigger
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
            perform attr_audit_internal.record_correction(new.region, new.sdk_app_id, new.seen_at, head.seen_at,
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
    new.row_hash := sha256(convert_to(attr_audit_internal.change_canonical(new), 'UTF8'));
    return new;
end $$;

create or replace function attr_audit_internal.correct_future_times(regions text[], sdk_app_ids bigint[],
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
                new_ok := coalesce(attr_audit_internal.trusted_ok_at(a.region, a.sdk_app_id, found),
                                   case when a.first_polled_at <= found then a.first_polled_at end,
                                   '1970-01-01 00:00:00+00');
            end if;
            perform attr_audit_internal.record_correction(a.region, a.sdk_app_id, found, latest,
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

create or replace function attr_audit_internal.create_poll_partition(month date) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    first_day constant date := date_trunc('month', month)::date;
    next_day  constant date := (first_day + interval '1 month')::date;
    part      constant text := 'poll_' || to_char(first_day, 'YYYY_MM');
begin
    perform pg_advisory_xact_lock(hashtextextended('attr_audit.create_poll_partition', 0));
    if to_regclass('attr_audit_internal.' || part) is not null then
        return false;
    end if;
    execute format('create table attr_audit_internal.%I (like attr_audit.poll including all excluding identity)', part);
    execute format('create trigger append_only before update or delete or truncate on attr_audit_internal.%I '
                   'for each statement execute function attr_audit_internal.refuse_rewriting()', part);
    execute format('comment on table attr_audit_internal.%I is %L', part,
                   'Partition of attr_audit.poll: requests sent in ' || to_char(first_day, 'YYYY-MM') || ' (UTC).');
    execute format('alter table attr_audit.poll attach partition attr_audit_internal.%I for values from (%L) to (%L)',
                   part, first_day || ' 00:00:00+00', next_day || ' 00:00:00+00');
    return true;
end $$;

create or replace function attr_audit_internal.ensure_poll_partitions() returns integer
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    select count(*) filter (where attr_audit_internal.create_poll_partition(m::date))::integer
      from generate_series(date_trunc('month', now() at time zone 'UTC'),
                           date_trunc('month', now() at time zone 'UTC') + interval '3 months',
                           interval '1 month') m;
$$;

-- What workers, pages and queries of the package before this step call until they are replaced. `migrate`
-- removes these the next time it runs, and on a new database at once.
create function attr_audit.ensure_poll_partitions() returns integer
    language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
    select attr_audit_internal.ensure_poll_partitions();
end;
create function attr_audit.correct_future_times(regions text[], sdk_app_ids bigint[],
                                                caller_at timestamptz)
    returns table (region text, sdk_app_id bigint, ahead interval, is_corrected boolean)
    language sql
begin atomic
    select c.region, c.sdk_app_id, c.ahead, c.is_corrected
      from attr_audit_internal.correct_future_times(regions, sdk_app_ids, caller_at) c;
end;
create function attr_audit.snapshot_digest_of(a_region text, an_sdk_app_id bigint) returns bytea
    language sql stable parallel safe
    return attr_audit_internal.snapshot_digest_of(a_region, an_sdk_app_id);
create function attr_audit.epoch_us(at timestamptz) returns bigint
    language sql stable parallel safe
    return attr_audit_internal.epoch_us(at);
comment on function attr_audit.ensure_poll_partitions() is
    'For the previous package. The next `im-attr-audit migrate` removes it.';
comment on function attr_audit.correct_future_times(text[], bigint[], timestamptz) is
    'For the previous package. The next `im-attr-audit migrate` removes it.';
comment on function attr_audit.snapshot_digest_of(text, bigint) is
    'For the previous package. The next `im-attr-audit migrate` removes it.';
comment on function attr_audit.epoch_us(timestamptz) is
    'For the previous package. The next `im-attr-audit migrate` removes it.';
revoke all on function
    attr_audit.ensure_poll_partitions(),
    attr_audit.correct_future_times(text[], bigint[], timestamptz),
    attr_audit.snapshot_digest_of(text, bigint),
    attr_audit.epoch_us(timestamptz)
    from public;
grant execute on function
    attr_audit.ensure_poll_partitions(),
    attr_audit.correct_future_times(text[], bigint[], timestamptz)
    to attr_audit_writer;
grant execute on function
    attr_audit.snapshot_digest_of(text, bigint),
    attr_audit.epoch_us(timestamptz)
    to attr_audit_writer, attr_audit_reader;

comment on column attr_audit.change.row_hash is
    'SHA-256 of the row as a JSON array, in UTF-8: every column with prev_hash, without row_hash and the derived kind, span_from and span_class.';

-- Text arguments ---------------------------------------------------------------------------------

create function attr_audit.names_as_of(at text)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, n.app_group, n.slot, n.name, n.attr_type, n.certain
      from attr_audit.names_as_of(at::timestamptz) n;
end;
comment on function attr_audit.names_as_of(text) is
    'The same for a time given as text, as JDBC and psycopg send it. Without an offset the text is in the session''s time zone.';

create function attr_audit.coverage_gaps(longer_than text)
    returns table (region text, sdk_app_id bigint, gap_from timestamptz, gap_to timestamptz,
                   polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.region, g.sdk_app_id, g.gap_from, g.gap_to, g.polls_failed
      from attr_audit.coverage_gaps(longer_than::interval) g;
end;
comment on function attr_audit.coverage_gaps(text) is
    'The same for an interval given as text, such as 2 hours.';

revoke all on function attr_audit.names_as_of(text), attr_audit.coverage_gaps(text) from public;
grant execute on function attr_audit.names_as_of(text), attr_audit.coverage_gaps(text)
    to attr_audit_writer, attr_audit_reader;

-- The group of an app in the past ----------------------------------------------------------------

create table attr_audit.membership (
    region     text not null,
    sdk_app_id bigint not null,
    app_group  text not null,
    from_at    timestamptz not null,
    primary key (region, sdk_app_id, from_at),
    constraint membership_of_an_app foreign key (region, sdk_app_id) references attr_audit.app
);
comment on table attr_audit.membership is
    'The app group of every app over time. Append-only; the database adds a row when an app is new or its group changes. Views of the past use the group of that time; before the first row they use the first row''s group. An app that is older than this table begins with the group it had when the table was created.';
comment on column attr_audit.membership.region is 'The app''s region.';
comment on column attr_audit.membership.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.membership.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.membership.from_at is
    'When the request of the first poll with this group was sent. The group holds until the app''s next row.';

insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
select region, sdk_app_id, app_group, least(first_polled_at, now())
  from attr_audit.app;

create trigger append_only before update or delete or truncate on attr_audit.membership
    for each statement execute function attr_audit_internal.refuse_rewriting();

create function attr_audit_internal.note_membership() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    latest constant timestamptz := clock_timestamp();
    -- A poll tells when its group held. An update without a poll is dated now.
    since timestamptz := latest;
    last_at timestamptz;
begin
    if tg_op = 'INSERT' then
        since := least(new.first_polled_at, latest);
    elsif new.last_polled_at > old.last_polled_at then
        since := least(new.last_polled_at, latest);
    end if;
    select max(m.from_at) into last_at
      from attr_audit.membership m
     where m.region = new.region and m.sdk_app_id = new.sdk_app_id;
    insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
    values (new.region, new.sdk_app_id, new.app_group,
            greatest(since, last_at + interval '1 microsecond'));
    return null;
end $$;
comment on function attr_audit_internal.note_membership() is
    'Adds a row to membership when an app is new or its group changes.';

create trigger note_membership after insert on attr_audit.app
    for each row execute function attr_audit_internal.note_membership();
create trigger note_regrouping after update of app_group on attr_audit.app
    for each row when (new.app_group is distinct from old.app_group)
    execute function attr_audit_internal.note_membership();

grant select on attr_audit.membership to attr_audit_writer, attr_audit_reader;

-- Foreign keys -----------------------------------------------------------------------------------

alter table attr_audit.change add constraint change_of_an_app
    foreign key (region, sdk_app_id) references attr_audit.app not valid;
alter table attr_audit.snapshot add constraint snapshot_of_an_app
    foreign key (region, sdk_app_id) references attr_audit.app not valid;

-- What an outcome and an error code mean ---------------------------------------------------------

-- Reference data: `migrate` fills these tables from the package, every time it runs.
create table attr_audit_internal.outcome (
    outcome   text primary key,
    meaning   text not null,
    advice    text,
    is_good   boolean not null,
    is_failed boolean not null
);
comment on table attr_audit_internal.outcome is 'The outcomes of a poll. `migrate` fills it.';
comment on column attr_audit_internal.outcome.outcome is 'poll.outcome.';
comment on column attr_audit_internal.outcome.meaning is 'What it means.';
comment on column attr_audit_internal.outcome.advice is 'What to do; null: nothing.';
comment on column attr_audit_internal.outcome.is_good is 'The poll saw the names, and they are recorded.';
comment on column attr_audit_internal.outcome.is_failed is 'The poll did not see the names.';

create table attr_audit_internal.error_code (
    code    integer primary key,
    meaning text not null,
    advice  text not null
);
comment on table attr_audit_internal.error_code is
    'The vendor''s documented error codes. `migrate` fills it.';
comment on column attr_audit_internal.error_code.code is 'poll.error_code.';
comment on column attr_audit_internal.error_code.meaning is 'What it means.';
comment on column attr_audit_internal.error_code.advice is 'What to do.';

create table attr_audit_internal.error_code_family (
    first_code integer primary key,
    last_code  integer not null,
    meaning    text not null,
    advice     text not null
);
comment on table attr_audit_internal.error_code_family is
    'Ranges of codes: for a code that is not in error_code. Together they hold every code. `migrate` fills it.';
comment on column attr_audit_internal.error_code_family.first_code is 'The first code of the range.';
comment on column attr_audit_internal.error_code_family.last_code is 'The last code of the range.';
comment on column attr_audit_internal.error_code_family.meaning is 'What such a code means.';
comment on column attr_audit_internal.error_code_family.advice is 'What to do.';

-- Names that look alike --------------------------------------------------------------------------

create table attr_audit_internal.confusable (
    source text collate "C" primary key,
    target text not null
);
comment on table attr_audit_internal.confusable is
    'Characters that look like others, by Unicode Technical Standard 39. `migrate` fills it.';
comment on column attr_audit_internal.confusable.source is 'A character.';
comment on column attr_audit_internal.confusable.target is 'The character or characters it looks like.';

create table attr_audit_internal.case_fold (
    source text collate "C" primary key,
    target text not null
);
comment on table attr_audit_internal.case_fold is
    'Unicode''s simple case folding of characters beyond ASCII: lower() depends on the database''s locale. `migrate` fills it.';
comment on column attr_audit_internal.case_fold.source is 'A character.';
comment on column attr_audit_internal.case_fold.target is 'The same character without case.';

-- Three steps of lookalike. They read reference data, which only the owner may.
create function attr_audit_internal.without_case(t text) returns text
    language sql stable parallel safe
    return case when octet_length(t) = char_length(t) then lower(t collate "C")
                else (select coalesce(string_agg(coalesce(f.target, lower(c.ch collate "C")), ''
                                                 order by c.n), '')
                        from string_to_table(t, null) with ordinality c (ch, n)
                        left join attr_audit_internal.case_fold f on f.source = c.ch) end;

-- White_Space, the categories Cc and Cf, Default_Ignorable_Code_Point, and the Braille blank.
create function attr_audit_internal.without_blanks(t text) returns text
    language sql immutable parallel safe
    return regexp_replace(t, '[\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u1680\u17b4-\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]', '', 'g');

create function attr_audit_internal.skeleton(t text) returns text
    language sql stable parallel safe
    return (select normalize(coalesce(string_agg(coalesce(k.target, c.ch), '' order by c.n), ''), NFD)
              from string_to_table(normalize(t, NFD), null) with ordinality c (ch, n)
              left join attr_audit_internal.confusable k on k.source = c.ch);

create function attr_audit_internal.lookalike(a text, b text) returns text
    language plpgsql stable parallel safe security definer
    set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    is_ascii constant boolean := octet_length(a) = char_length(a) and octet_length(b) = char_length(b);
    a1 text;
    b1 text;
begin
    if (a = b) is not false then
        return null;
    end if;
    -- Every test is made on what the tests before it left: 'Sex ' and 'sex' differ in white space and case.
    if is_ascii then
        a1 := lower(a collate "C");
        b1 := lower(b collate "C");
    else
        a1 := attr_audit_internal.without_case(a);
        b1 := attr_audit_internal.without_case(b);
    end if;
    if a1 = b1 then
        return 'case';
    end if;
    a1 := attr_audit_internal.without_blanks(a1);
    b1 := attr_audit_internal.without_blanks(b1);
    if a1 = b1 then
        return 'whitespace';
    end if;
    if is_ascii then
        -- Nothing to normalize, and only these characters of ASCII look like others.
        if a !~ '["%01I`m|]' and b !~ '["%01I`m|]' then
            return null;
        end if;
    else
        a1 := attr_audit_internal.without_blanks(attr_audit_internal.without_case(normalize(a1, NFKC)));
        b1 := attr_audit_internal.without_blanks(attr_audit_internal.without_case(normalize(b1, NFKC)));
        if a1 = b1 then
            return 'normalization';
        end if;
    end if;
    -- As they are, as the standard says; and without case, for its skeletons keep case.
    if attr_audit_internal.skeleton(a) = attr_audit_internal.skeleton(b)
       or attr_audit_internal.skeleton(a1) = attr_audit_internal.skeleton(b1) then
        return 'confusable';
    end if;
    return null;
end $$;

comment on function attr_audit_internal.without_case(text) is
    'Unicode''s simple case folding, whatever the database''s locale.';
comment on function attr_audit_internal.without_blanks(text) is
    'The text without white space, control, format and other invisible characters.';
comment on function attr_audit_internal.skeleton(text) is
    'The skeleton by Unicode Technical Standard 39: NFD, each character replaced by the one it looks like, NFD.';
comment on function attr_audit_internal.lookalike(text, text) is
    'How two different names look alike: case, whitespace (white space and invisible characters), normalization (equal in NFC or NFKC) or confusable (equal skeletons by Unicode Technical Standard 39); the first that explains the difference. Null: they are equal, do not look alike, or one is null.';

-- Who may what -----------------------------------------------------------------------------------

revoke all on all functions in schema attr_audit_internal from public;
-- Views and functions that the reader uses call this one.
grant execute on function attr_audit_internal.lookalike(text, text)
    to attr_audit_writer, attr_audit_reader;
