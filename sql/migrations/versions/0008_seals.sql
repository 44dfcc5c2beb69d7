-- What a seal needs: the targets of every run, the app's head at every poll, and one moment at which
-- nothing is being recorded, so that what belongs to a seal is final.
--
-- poll_id, change_id and planned_id are given in order, but their transactions may commit in another
-- one. A seal ends at ids that are read under a lock which every recording transaction holds until it
-- has ended: no row with a smaller id can appear later, and one that began in the meantime has a larger
-- id and belongs to the next seal. Ids survive a dump and a restore, which transaction ids do not. The
-- lock is of the tables: a login that may only read cannot hold it, as it could an advisory lock.
--
-- Nothing here reads or rewrites a large table. The index of partitions with rows is built afterwards
-- (im_attr_audit.record.upkeep.finish).

alter table attr_audit.poll add column head_seq bigint;
comment on column attr_audit.poll.head_seq is
    'The app''s newest change.seq when the poll was recorded, before the poll''s own changes; set by the database. Null: the app had no change, or the poll is older than this column.';

-- By the index, whatever the statistics say.
create function attr_audit_internal.note_head() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
begin
    select c.seq into new.head_seq
      from attr_audit.change c
     where c.region = new.region and c.sdk_app_id = new.sdk_app_id
     order by c.seq desc limit 1;
    return new;
end $$;
comment on function attr_audit_internal.note_head() is 'Sets poll.head_seq.';

create trigger note_head before insert on attr_audit.poll
    for each row when (new.region is not null)
    execute function attr_audit_internal.note_head();

-- Rows lie in the order of their ids, so an index of block ranges finds those of a seal, and costs
-- next to nothing.
create index poll_by_id on only attr_audit.poll using brin (poll_id)
    with (pages_per_range = 32, autosummarize = on);
do $$
declare
    part     name;
    has_rows boolean;
begin
    for part in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
                 where i.inhparent = 'attr_audit.poll'::regclass and not i.inhdetachpending loop
        execute format('select exists (select from attr_audit_internal.%I)', part) into has_rows;
        if not has_rows then
            execute format('create index %I on attr_audit_internal.%I using brin (poll_id) '
                           'with (pages_per_range = 32, autosummarize = on)', part || '_by_id', part);
            execute format('alter index attr_audit.poll_by_id attach partition attr_audit_internal.%I',
                           part || '_by_id');
        end if;
    end loop;
end $$;

-- What each run was to poll ------------------------------------------------------------------------

create table attr_audit.planned (
    planned_id  bigint generated always as identity primary key,
    dag_run_id  text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    conn_ids    text[] not null,
    regions     text[] not null,
    sdk_app_ids bigint[] not null,
    constraint one_target_per_place check
        (cardinality(conn_ids) = cardinality(regions) and cardinality(conn_ids) = cardinality(sdk_app_ids))
);
create index planned_by_run on attr_audit.planned (dag_run_id);
comment on table attr_audit.planned is
    'The targets of each run, one row for each time its task plan ran. Append-only. The arrays have one element per target, in the same order.';
comment on column attr_audit.planned.planned_id is 'Number of the row, set by the database.';
comment on column attr_audit.planned.dag_run_id is 'The Airflow run.';
comment on column attr_audit.planned.recorded_at is 'When the database recorded it.';
comment on column attr_audit.planned.conn_ids is 'The Airflow connections that the run was to use.';
comment on column attr_audit.planned.regions is
    'The region of each; null: the connection does not name one.';
comment on column attr_audit.planned.sdk_app_ids is
    'The SDKAppID of each; null: the connection does not name one.';

create trigger append_only before update or delete or truncate on attr_audit.planned
    for each statement execute function attr_audit_internal.refuse_rewriting();

-- What was sealed ----------------------------------------------------------------------------------

create table attr_audit.seal (
    origin          text not null default '',
    n               bigint not null,
    leaf            text not null,
    note            text not null,
    timestamp_token bytea,
    sealed_at       timestamptz not null default clock_timestamp(),
    last_poll_id    bigint not null,
    last_change_id  bigint not null,
    last_planned_id bigint not null,
    polls_from      timestamptz,
    marks           bytea not null,
    primary key (origin, n),
    constraint n_counts_from_0 check (n >= 0)
);
comment on table attr_audit.seal is
    'A copy of the seals and checkpoints that `im-attr-audit checkpoint` wrote to its witnesses. Append-only. The files at the witnesses are what counts.';
comment on column attr_audit.seal.origin is
    'The name of the log and of its key. After a key was lost or a dump was restored, another log begins.';
comment on column attr_audit.seal.n is 'The seal''s index in the log, from 0.';
comment on column attr_audit.seal.leaf is
    'The leaf of the log: a JSON array of the number and the Merkle root of the polls, changes and planned targets recorded since the seal before.';
comment on column attr_audit.seal.note is
    'The signed checkpoint of the log with this seal as its last leaf: a C2SP tlog-checkpoint.';
comment on column attr_audit.seal.timestamp_token is
    'The RFC 3161 token over note; null: no time-stamp authority was asked, or it did not answer.';
comment on column attr_audit.seal.sealed_at is 'When the database recorded the row.';
comment on column attr_audit.seal.last_poll_id is 'The seal''s polls have a poll_id up to this one.';
comment on column attr_audit.seal.last_change_id is
    'The seal''s changes have a change_id up to this one.';
comment on column attr_audit.seal.last_planned_id is
    'The seal''s planned targets have a planned_id up to this one.';
comment on column attr_audit.seal.polls_from is
    'The earliest requested_at of the seal''s polls; null: it has none. Polls of earlier months may have been dropped since.';
comment on column attr_audit.seal.marks is
    'The first 4 bytes of each row''s leaf hash, polls first, then changes, then planned targets: by them `verify` names a row that is not as it was sealed.';

create trigger append_only before update or delete or truncate on attr_audit.seal
    for each statement execute function attr_audit_internal.refuse_rewriting();

create function attr_audit_internal.begin_seal() returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    lock table attr_audit.seal in share row exclusive mode;
end $$;
comment on function attr_audit_internal.begin_seal() is
    'Waits until no other transaction is sealing. The lock is held until the transaction ends.';

-- In the order in which a recording transaction takes them.
create function attr_audit_internal.close_seal()
    returns table (last_poll_id bigint, last_change_id bigint, last_planned_id bigint,
                   closed_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    lock table only attr_audit.poll in share mode;
    lock table attr_audit.change, attr_audit.planned in share mode;
    return query
    select coalesce(pg_sequence_last_value(pg_get_serial_sequence('attr_audit.poll', 'poll_id')::regclass), 0),
           coalesce(pg_sequence_last_value(pg_get_serial_sequence('attr_audit.change', 'change_id')::regclass), 0),
           coalesce(pg_sequence_last_value(pg_get_serial_sequence('attr_audit.planned', 'planned_id')::regclass), 0),
           clock_timestamp();
end $$;
comment on function attr_audit_internal.close_seal() is
    'The last ids of rows whose transactions have ended, whatever is recorded from now on. Waits until no transaction is recording, and lets none begin until this one has ended: end it at once.';

-- Who may what -------------------------------------------------------------------------------------

revoke all on function
    attr_audit_internal.note_head(), attr_audit_internal.begin_seal(), attr_audit_internal.close_seal()
    from public;

grant select on attr_audit.planned, attr_audit.seal to attr_audit_writer, attr_audit_reader;
grant insert (dag_run_id, conn_ids, regions, sdk_app_ids) on attr_audit.planned to attr_audit_writer;

grant usage on schema attr_audit, attr_audit_internal to attr_audit_sealer;
grant select on attr_audit.app, attr_audit.poll, attr_audit.snapshot, attr_audit.change,
    attr_audit.membership, attr_audit.clock_correction, attr_audit.planned, attr_audit.seal
    to attr_audit_sealer;
grant insert (origin, n, leaf, note, timestamp_token, last_poll_id, last_change_id, last_planned_id,
              polls_from, marks)
    on attr_audit.seal to attr_audit_sealer;
grant execute on function attr_audit_internal.begin_seal(), attr_audit_internal.close_seal()
    to attr_audit_sealer;
