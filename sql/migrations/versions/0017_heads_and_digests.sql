-- Looking up poll.head_seq in a function of its own for each poll took half the time of recording a
-- poll that changes nothing. Who records may say it now, for all polls of a statement at once, and the
-- database refuses one that is wrong. Where it is not said, as by earlier releases of the package that
-- still run, it is looked up as before. And who records a change leaves app.snapshot_digest to the
-- database, which computed it twice: once for the statement and once to check it. The triggers lock poll
-- for a moment.

create function attr_audit_internal.guard_heads() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    wrong record;
begin
    select n.region, n.sdk_app_id, n.head_seq into wrong
      from new_polls n
     where n.head_seq is not null
       -- Its own changes may be in the same statement.
       and n.head_seq is distinct from (
           select c.seq from attr_audit.change c
            where c.region = n.region and c.sdk_app_id = n.sdk_app_id and c.poll_id <> n.poll_id
            order by c.seq desc limit 1)
     limit 1;
    if found then
        raise exception 'head_seq of a poll of %/% cannot be %: that is not the newest change of its app',
            wrong.region, wrong.sdk_app_id, wrong.head_seq using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end $$;
comment on function attr_audit_internal.guard_heads() is
    'Refuses a poll whose head_seq is not the newest change of its app.';
revoke all on function attr_audit_internal.guard_heads() from public;

drop trigger note_head on attr_audit.poll;
create trigger note_head before insert on attr_audit.poll
    for each row when (new.region is not null and new.head_seq is null)
    execute function attr_audit_internal.note_head();
create trigger guard_heads after insert on attr_audit.poll
    referencing new table as new_polls
    for each statement execute function attr_audit_internal.guard_heads();

grant insert (head_seq) on attr_audit.poll to attr_audit_writer;
comment on column attr_audit.poll.head_seq is
    'The app''s newest change.seq when the poll was recorded, before the poll''s own changes; the database refuses another. Null: the app had no change, or the poll is older than this column.';

create or replace function attr_audit_internal.guard_digest() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    right_one constant bytea := attr_audit_internal.snapshot_digest_of(new.region, new.sdk_app_id);
begin
    -- Empty: the database is to set it.
    if new.snapshot_digest not in ('', right_one) then
        raise exception 'snapshot_digest of %/% is not that of its snapshot', new.region, new.sdk_app_id
            using errcode = 'check_violation';
    end if;
    if new.snapshot_digest is not null then
        new.snapshot_digest := right_one;
    end if;
    return new;
end $$;
comment on function attr_audit_internal.guard_digest() is
    'Sets an empty app.snapshot_digest to that of the app''s snapshot, and refuses any other.';
