-- The record: what is polled (app), every attempt (poll), the names as last known (snapshot) and
-- every change of them (change), with the rules that the database itself keeps.
-- Runs as attr_audit_owner; the three roles exist already (im_attr_audit.record.upkeep.migrate).

-- What is polled ------------------------------------------------------------------------------

create table attr_audit.app (
    region               text not null,
    sdk_app_id           bigint not null,
    app_group            text not null default 'default',
    api                  text not null,
    first_polled_at      timestamptz not null,
    first_ok_at          timestamptz,
    last_polled_at       timestamptz not null,
    last_ok_at           timestamptz,
    last_outcome         text not null,
    retired_at           timestamptz,
    conn_id              text not null,
    ok_api               text,
    last_poll_ended_at   timestamptz,
    consecutive_failures integer not null default 0,
    snapshot_digest      bytea,
    emptied_seen_at      timestamptz,
    emptied_dag_run_id   text,
    primary key (region, sdk_app_id),
    constraint ok_at_is_whole check ((first_ok_at is null) = (last_ok_at is null)),
    constraint ok_api_is_known_once_ok check ((ok_api is null) = (last_ok_at is null)),
    constraint emptied_is_whole check (emptied_dag_run_id is null or emptied_seen_at is not null)
);
-- Every poll updates this row, so room for heap-only updates is worth more than density.
alter table attr_audit.app set (fillfactor = 50);

comment on table attr_audit.app is
    'One SDKAppID in one region: the unit that is polled, with when it was last looked at and last seen.';
comment on column attr_audit.app.region is 'Label of the vendor''s data centre, such as frankfurt.';
comment on column attr_audit.app.sdk_app_id is 'The vendor''s number of the application.';
comment on column attr_audit.app.app_group is
    'Apps that are meant to carry the same names (one product in several regions).';
comment on column attr_audit.app.api is
    'The vendor''s API family that the connection names: all_member_push or timpush.';
comment on column attr_audit.app.first_polled_at is 'When the first attempt''s request was sent.';
comment on column attr_audit.app.first_ok_at is
    'When the first answer of the first good poll had arrived; null: never seen.';
comment on column attr_audit.app.last_polled_at is 'When the newest attempt''s first request was sent.';
comment on column attr_audit.app.last_ok_at is
    'When the request of the last read that saw the present state was sent; null: never seen.';
comment on column attr_audit.app.last_outcome is 'What came of the newest attempt (see poll.outcome).';
comment on column attr_audit.app.retired_at is
    'Since when the app is no longer listed in im_attr_audit_conn_ids; null: it is listed.';
comment on column attr_audit.app.conn_id is 'The Airflow connection that last polled it.';
comment on column attr_audit.app.ok_api is
    'The API family of the last good poll: the source that the snapshot was read from.';
comment on column attr_audit.app.last_poll_ended_at is
    'The latest end of any recorded poll; a poll whose first request is older is late.';
comment on column attr_audit.app.consecutive_failures is
    'Polls since the last good one that were neither ok nor late.';
comment on column attr_audit.app.snapshot_digest is
    'SHA-256 of the snapshot''s [slot, name, attr_type] triples; tells an unchanged answer without reading them.';
comment on column attr_audit.app.emptied_seen_at is
    'When an answer without any name had first arrived for an app that has names; waits for the next run''s poll.';
comment on column attr_audit.app.emptied_dag_run_id is 'The run that saw it; another run must confirm it.';

-- Every attempt -------------------------------------------------------------------------------

create table attr_audit.poll (
    poll_id           bigint generated always as identity,
    conn_id           text not null,
    region            text,
    sdk_app_id        bigint,
    api               text,
    dag_run_id        text,
    try_number        integer,
    requested_at      timestamptz not null,
    responded_at      timestamptz,
    outcome           text not null,
    reads             smallint not null default 0,
    http_status       integer,
    error_code        integer,
    error_info        text,
    answer            text,
    vendor_date       timestamptz,
    recorded_at       timestamptz not null default clock_timestamp(),
    last_requested_at timestamptz,
    primary key (requested_at, poll_id),
    constraint outcome_is_known check (outcome in
        ('ok', 'unstable', 'rejected', 'unavailable', 'invalid', 'misconfigured', 'late')),
    constraint app_is_named_unless_misconfigured check
        (outcome = 'misconfigured' or (region is not null and sdk_app_id is not null)),
    constraint answered_after_asked check (responded_at >= requested_at),
    constraint reads_are_in_order check
        (last_requested_at is null or last_requested_at between requested_at and coalesce(responded_at, requested_at)),
    constraint requested_at_is_not_in_the_future check (requested_at <= recorded_at + interval '1 minute'),
    constraint responded_at_is_not_in_the_future check (responded_at <= recorded_at + interval '1 minute')
) partition by range (requested_at);

-- Good polls are read for what lies between them, failed ones for what went wrong; two small indexes
-- together are no larger than one of both, and every insert writes only one of them.
create index poll_good on attr_audit.poll (region, sdk_app_id, requested_at)
    include (last_requested_at) where outcome = 'ok';
create index poll_failed on attr_audit.poll (region, sdk_app_id, requested_at)
    where outcome not in ('ok', 'late');
create index poll_by_run on attr_audit.poll (dag_run_id, try_number);

comment on table attr_audit.poll is
    'Every attempt to learn an app''s names, whatever came of it. Append-only; one partition a month (UTC), kept as long as retention says.';
comment on column attr_audit.poll.poll_id is 'Number of the attempt, given by the database.';
comment on column attr_audit.poll.conn_id is 'The Airflow connection that was used.';
comment on column attr_audit.poll.region is 'The app''s region; null only where misconfigured.';
comment on column attr_audit.poll.sdk_app_id is 'The app''s number; null only where misconfigured.';
comment on column attr_audit.poll.api is 'The vendor''s API family that was asked.';
comment on column attr_audit.poll.dag_run_id is 'The Airflow run that asked.';
comment on column attr_audit.poll.try_number is 'The task''s try that asked, 1 for the first.';
comment on column attr_audit.poll.requested_at is
    'When the first request was sent (the time of the attempt, where none was sent).';
comment on column attr_audit.poll.responded_at is
    'When the last answer had arrived, or waiting for it ended; null where nothing was sent.';
comment on column attr_audit.poll.outcome is
    'ok; unstable: reads disagreed or a removal of everything awaits its confirmation; rejected: the vendor said no; unavailable: network, 5xx, busy or limit; invalid: cannot be understood; misconfigured: never sent; late: older than what is already recorded. Only ok changes snapshot or change.';
comment on column attr_audit.poll.reads is 'How many times the vendor was asked in this attempt.';
comment on column attr_audit.poll.http_status is 'HTTP status of the last answer.';
comment on column attr_audit.poll.error_code is 'The vendor''s ErrorCode.';
comment on column attr_audit.poll.error_info is 'The vendor''s ErrorInfo, or our reason where it gave none.';
comment on column attr_audit.poll.answer is
    'Where invalid: what came, clipped, without secrets and with unprintable characters escaped.';
comment on column attr_audit.poll.vendor_date is 'The answer''s Date header.';
comment on column attr_audit.poll.recorded_at is 'When the database recorded the attempt.';
comment on column attr_audit.poll.last_requested_at is 'When the request of the last read was sent.';

-- The names as last known ---------------------------------------------------------------------

create table attr_audit.snapshot (
    region     text not null,
    sdk_app_id bigint not null,
    slot       smallint not null,
    name       text not null,
    attr_type  smallint,
    not_before timestamptz,
    seen_at    timestamptz not null,
    primary key (region, sdk_app_id, slot)
);

comment on table attr_audit.snapshot is
    'The names as last known. The database derives it from change; nobody writes it directly.';
comment on column attr_audit.snapshot.region is 'The app''s region.';
comment on column attr_audit.snapshot.sdk_app_id is 'The app''s number.';
comment on column attr_audit.snapshot.slot is 'The attribute''s number, 0 to 999 (the vendor documents 0 to 9).';
comment on column attr_audit.snapshot.name is 'What the slot is called, exactly as sent; may be empty.';
comment on column attr_audit.snapshot.attr_type is
    'timpush only: 0 IM UserID, 1 RegistrationID; null: never said.';
comment on column attr_audit.snapshot.not_before is
    'The lower bound of the change that set it; null for a baseline.';
comment on column attr_audit.snapshot.seen_at is 'The upper bound of the change that set it.';

-- Every change --------------------------------------------------------------------------------

create table attr_audit.change (
    change_id      bigint generated always as identity primary key,
    region         text not null,
    sdk_app_id     bigint not null,
    seq            bigint not null,
    slot           smallint not null,
    kind           text generated always as (
        case when is_baseline then 'baseline'
             when old_name is null then 'added'
             when new_name is null then 'removed'
             when old_name <> new_name then 'renamed'
             else 'retyped'
        end) stored,
    old_name       text,
    new_name       text,
    old_type       smallint,
    new_type       smallint,
    is_baseline    boolean not null,
    not_before     timestamptz,
    seen_at        timestamptz not null,
    answer         text,
    poll_id        bigint not null,
    dag_run_id     text,
    recorded_at    timestamptz not null,
    prior_ok_at    timestamptz,
    old_not_before timestamptz,
    old_seen_at    timestamptz,
    span_from      timestamptz generated always as
        (coalesce(old_seen_at, not_before, prior_ok_at)) stored,
    span_class     smallint generated always as (
        width_bucket(seen_at - coalesce(old_seen_at, not_before, prior_ok_at),
                     array[interval '1 hour', '4 hours', '16 hours', '64 hours', '256 hours',
                           '1024 hours'])) stored,
    prev_hash      bytea,
    row_hash       bytea not null,
    constraint one_chain_per_app unique (region, sdk_app_id, seq),
    constraint slot_is_in_range check (slot between 0 and 999),
    constraint names_are_at_most_1024_bytes check
        (coalesce(octet_length(old_name), 0) <= 1024 and coalesce(octet_length(new_name), 0) <= 1024),
    constraint something_changed check
        ((old_name, old_type) is distinct from (new_name, new_type)),
    constraint a_type_needs_a_name check
        ((old_name is not null or old_type is null) and (new_name is not null or new_type is null)),
    constraint a_known_type_is_not_forgotten check
        (old_name is null or new_name is null or old_type is null or new_type is not null),
    constraint a_type_first_learned_is_a_baseline check
        (is_baseline or old_name is distinct from new_name or old_type is not null),
    constraint a_baseline_has_no_lower_bound check (is_baseline = (not_before is null)),
    constraint bounds_do_not_cross check (not_before <= seen_at),
    constraint seen_at_is_not_in_the_future check (seen_at <= recorded_at + interval '1 minute'),
    constraint dag_run_id_is_not_empty check (dag_run_id <> ''),
    constraint answer_is_not_empty check (answer <> '')
);

create index change_by_slot on attr_audit.change (slot, region, sdk_app_id, seq);
create index change_by_run on attr_audit.change (dag_run_id);
create index change_by_seen_at on attr_audit.change (seen_at);
-- For names_as_of, which reads nothing else. A span that reaches over an instant began at most as long
-- before as its class is long: so what is read is what is asked for, however long the record is.
create index change_by_span on attr_audit.change (span_class, span_from, seen_at)
    include (region, sdk_app_id, slot, old_name, old_type, not_before, prior_ok_at)
    where span_from is not null;

comment on table attr_audit.change is
    'One slot whose name (or type) is not what it was. Append-only; every app''s rows form a chain of hashes.';
comment on column attr_audit.change.change_id is
    'Number of the row, given by the database; order within an app is seq''s, not this one''s.';
comment on column attr_audit.change.region is 'The app''s region.';
comment on column attr_audit.change.sdk_app_id is 'The app''s number.';
comment on column attr_audit.change.seq is '1, 2, 3 … without gaps per app: the order of the changes.';
comment on column attr_audit.change.slot is 'The attribute''s number.';
comment on column attr_audit.change.kind is
    'baseline: first sight of an app, of a type, or of another API family; added, renamed, removed; retyped: same name, both types known and different.';
comment on column attr_audit.change.old_name is 'The name before; null: the slot had none.';
comment on column attr_audit.change.new_name is 'The name after; null: the slot has none.';
comment on column attr_audit.change.old_type is 'The type before; null: not known.';
comment on column attr_audit.change.new_type is 'The type after; null: not known.';
comment on column attr_audit.change.is_baseline is
    'True where knowledge began or its source changed: nothing is known to have changed.';
comment on column attr_audit.change.not_before is
    'When the request of the last read that saw the old state was sent; null for a baseline.';
comment on column attr_audit.change.seen_at is
    'When the answer of the first read that saw the new state had arrived.';
comment on column attr_audit.change.answer is
    'The vendor''s answer that showed the new state, clipped, without secrets and with unprintable characters escaped.';
comment on column attr_audit.change.poll_id is 'The poll that recorded it.';
comment on column attr_audit.change.dag_run_id is 'The Airflow run that recorded it.';
comment on column attr_audit.change.recorded_at is 'When the database recorded it.';
comment on column attr_audit.change.prior_ok_at is
    'The app''s last_ok_at when this was recorded (a baseline''s too); null at first sight of the app.';
comment on column attr_audit.change.old_not_before is 'not_before of the change that had set the old name.';
comment on column attr_audit.change.old_seen_at is
    'seen_at of the change that had set the old name: with seen_at the span in which it was the name last seen.';
comment on column attr_audit.change.span_from is
    'Derived: with seen_at the span that the row closes, that of its old name (old_seen_at) or, for an addition, that in which it is not known whether the slot had a name (its lower bound); null at first sight of the app.';
comment on column attr_audit.change.span_class is
    'Derived, for names_as_of: the span is shorter than 1 hour (0), 4 hours (1), 16 hours (2), 64 hours (3), 256 hours (4), 1,024 hours (5), or longer (6).';
comment on column attr_audit.change.prev_hash is 'row_hash of the app''s change before; null for the first.';
comment on column attr_audit.change.row_hash is
    'SHA-256 of change_canonical(row): the row''s columns with prev_hash, as UTF-8.';

-- Times as integer microseconds since 1970 UTC: the same text under every TimeZone and DateStyle.
create function attr_audit.epoch_us(at timestamptz) returns bigint
    language sql stable parallel safe
    return (extract(epoch from at) * 1000000)::bigint;

-- json, not jsonb: of such values both write the same text, and json is written once.
create function attr_audit.change_canonical(c attr_audit.change) returns text
    language sql stable parallel safe
    return json_build_array(
        (c).change_id, (c).region, (c).sdk_app_id, (c).seq, (c).slot,
        (c).old_name, (c).new_name, (c).old_type, (c).new_type, (c).is_baseline,
        attr_audit.epoch_us((c).not_before), attr_audit.epoch_us((c).seen_at),
        (c).answer, (c).poll_id, (c).dag_run_id, attr_audit.epoch_us((c).recorded_at),
        attr_audit.epoch_us((c).prior_ok_at), attr_audit.epoch_us((c).old_not_before),
        attr_audit.epoch_us((c).old_seen_at), encode((c).prev_hash, 'hex'))::text;

comment on function attr_audit.epoch_us(timestamptz) is
    'A time as integer microseconds since 1970-01-01 UTC.';
comment on function attr_audit.change_canonical(attr_audit.change) is
    'The text whose SHA-256 is row_hash: a JSON array of the row''s columns but row_hash and the derived kind, span_from and span_class.';

-- What the database does on every new change --------------------------------------------------

-- By the indexes, whatever the statistics say: where these date from an empty table, a sequential scan
-- for each of many rows would make a first bulk cost by the square of its size.
create function attr_audit.chain_change() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    app      record;
    head     record;
    slot_now record;
begin
    -- The app's row lock is what makes seq and the chain have one author at a time.
    select a.last_ok_at into app
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
    if new.seen_at < greatest(app.last_ok_at, head.seen_at) or new.not_before < app.last_ok_at then
        raise exception 'change of %/% slot % is dated before the last good poll of its app',
            new.region, new.sdk_app_id, new.slot using errcode = 'check_violation';
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

create trigger chain_change before insert on attr_audit.change
    for each row execute function attr_audit.chain_change();

create function attr_audit.apply_changes() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from new_changes group by region, sdk_app_id, slot having count(*) > 1) then
        raise exception 'one statement changes a slot twice'
            using errcode = 'integrity_constraint_violation';
    end if;
    delete from attr_audit.snapshot s using new_changes n
     where n.new_name is null
       and s.region = n.region and s.sdk_app_id = n.sdk_app_id and s.slot = n.slot;
    insert into attr_audit.snapshot as s
           (region, sdk_app_id, slot, name, attr_type, not_before, seen_at)
    select region, sdk_app_id, slot, new_name, new_type, not_before, seen_at
      from new_changes where new_name is not null
        on conflict (region, sdk_app_id, slot) do update
       set name = excluded.name, attr_type = excluded.attr_type,
           not_before = excluded.not_before, seen_at = excluded.seen_at;
    return null;
end $$;

create trigger apply_changes after insert on attr_audit.change
    referencing new table as new_changes
    for each statement execute function attr_audit.apply_changes();

comment on function attr_audit.chain_change() is
    'Gives a new change its seq, its recorded_at and its place in the app''s chain; refuses one that does not continue the record.';
comment on function attr_audit.apply_changes() is
    'Applies new changes to snapshot, so that replaying change by seq always gives exactly snapshot.';

create function attr_audit.snapshot_digest_of(a_region text, an_sdk_app_id bigint) returns bytea
    language sql stable parallel safe
    return (select sha256(convert_to(coalesce(
                       json_agg(json_build_array(s.slot, s.name, s.attr_type) order by s.slot),
                       '[]'::json)::text, 'UTF8'))
              from attr_audit.snapshot s
             where s.region = a_region and s.sdk_app_id = an_sdk_app_id);
comment on function attr_audit.snapshot_digest_of(text, bigint) is
    'What app.snapshot_digest must be: SHA-256 of the JSON array of [slot, name, attr_type] in slot order.';

-- Append-only ---------------------------------------------------------------------------------

create function attr_audit.refuse_rewriting() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '%.% is append-only: % refused', tg_table_schema, tg_table_name, lower(tg_op)
        using errcode = 'insufficient_privilege';
end $$;
comment on function attr_audit.refuse_rewriting() is
    'Stops update, delete and truncate of the record, its owner included.';

create trigger append_only before update or delete or truncate on attr_audit.change
    for each statement execute function attr_audit.refuse_rewriting();
create trigger append_only before update or delete or truncate on attr_audit.poll
    for each statement execute function attr_audit.refuse_rewriting();

-- Partitions ----------------------------------------------------------------------------------

-- "create … partition of" would wait behind a reader's snapshot; a plain table that is attached does
-- not. The parent's statement trigger does not fire for its partitions, so each gets its own.
create function attr_audit.create_poll_partition(month date) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    first_day constant date := date_trunc('month', month)::date;
    next_day  constant date := (first_day + interval '1 month')::date;
    part      constant text := 'poll_' || to_char(first_day, 'YYYY_MM');
begin
    perform pg_advisory_xact_lock(hashtextextended('attr_audit.create_poll_partition', 0));
    if to_regclass('attr_audit.' || part) is not null then
        return false;
    end if;
    execute format('create table attr_audit.%I (like attr_audit.poll including all excluding identity)', part);
    execute format('create trigger append_only before update or delete or truncate on attr_audit.%I '
                   'for each statement execute function attr_audit.refuse_rewriting()', part);
    execute format('comment on table attr_audit.%I is %L', part,
                   'Partition of attr_audit.poll: requests sent in ' || to_char(first_day, 'YYYY-MM') || ' (UTC).');
    execute format('alter table attr_audit.poll attach partition attr_audit.%I for values from (%L) to (%L)',
                   part, first_day || ' 00:00:00+00', next_day || ' 00:00:00+00');
    return true;
end $$;

create function attr_audit.ensure_poll_partitions() returns integer
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    select count(*) filter (where attr_audit.create_poll_partition(m::date))::integer
      from generate_series(date_trunc('month', now() at time zone 'UTC'),
                           date_trunc('month', now() at time zone 'UTC') + interval '3 months',
                           interval '1 month') m;
$$;

comment on function attr_audit.create_poll_partition(date) is
    'Creates the partition of poll for the date''s month (UTC); false if it is there.';
comment on function attr_audit.ensure_poll_partitions() is
    'Creates what is missing of poll''s partitions from this month to three months ahead; gives how many.';

select attr_audit.ensure_poll_partitions();

-- Who may what --------------------------------------------------------------------------------

revoke all on all functions in schema attr_audit from public;
grant usage on schema attr_audit to attr_audit_writer, attr_audit_reader;

grant select on attr_audit.app, attr_audit.poll, attr_audit.snapshot, attr_audit.change
    to attr_audit_writer, attr_audit_reader;

-- Whose row it is cannot be changed: that would hide an app's history.
grant insert, update (app_group, api, first_polled_at, first_ok_at, last_polled_at, last_ok_at,
                      last_outcome, retired_at, conn_id, ok_api, last_poll_ended_at,
                      consecutive_failures, snapshot_digest, emptied_seen_at, emptied_dag_run_id)
    on attr_audit.app to attr_audit_writer;
grant insert (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at, responded_at,
              outcome, reads, http_status, error_code, error_info, answer, vendor_date,
              last_requested_at)
    on attr_audit.poll to attr_audit_writer;
grant insert (region, sdk_app_id, slot, old_name, new_name, old_type, new_type, is_baseline,
              not_before, seen_at, answer, poll_id, dag_run_id)
    on attr_audit.change to attr_audit_writer;

grant execute on function attr_audit.ensure_poll_partitions() to attr_audit_writer;
grant execute on function
    attr_audit.epoch_us(timestamptz),
    attr_audit.change_canonical(attr_audit.change),
    attr_audit.snapshot_digest_of(text, bigint)
    to attr_audit_writer, attr_audit_reader;
