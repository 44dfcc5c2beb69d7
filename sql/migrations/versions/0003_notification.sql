-- What somebody is to be told: one row per fact, written where the fact is recorded, marked when it
-- has been sent. What is not a change of names (baselines) and what lies before this step is no news.

create table attr_audit.notification (
    notification_id bigint generated always as identity primary key,
    kind            text not null,
    region          text not null,
    sdk_app_id      bigint not null,
    change_id       bigint,
    gap_from        timestamptz,
    gap_to          timestamptz,
    dag_run_id      text,
    created_at      timestamptz not null default clock_timestamp(),
    sent_to         text[] not null default '{}',
    sent_at         timestamptz,
    constraint one_row_per_fact unique nulls not distinct
        (kind, region, sdk_app_id, change_id, gap_from),
    constraint kind_is_known check (kind in ('change', 'stale', 'back')),
    constraint a_change_has_its_row check ((kind = 'change') = (change_id is not null)),
    constraint a_gap_has_its_begin check ((kind <> 'change') = (gap_from is not null)),
    constraint a_gap_that_is_over_has_its_end check ((kind = 'back') = (gap_to is not null)),
    constraint gap_is_in_order check (gap_to > gap_from)
);

-- Hardly any row is unsent, and those alone are looked for.
create index notification_waiting on attr_audit.notification (created_at) where sent_at is null;

comment on table attr_audit.notification is
    'What somebody is to be told: one row per fact. The facts of one kind from one run make one message, sent by that run''s report or, while the messenger is down, by a later one.';
comment on column attr_audit.notification.notification_id is
    'Number of the fact, given by the database: the order in which messages are sent.';
comment on column attr_audit.notification.kind is
    'change: a slot is called something else; stale: the app has not been seen for longer than the limit; back: it has been seen again.';
comment on column attr_audit.notification.region is 'The app''s region.';
comment on column attr_audit.notification.sdk_app_id is 'The app''s number.';
comment on column attr_audit.notification.change_id is 'The row of change, where that is the fact.';
comment on column attr_audit.notification.gap_from is
    'stale, back: when the app had last been seen (or, never seen, first been asked). One gap, one message of each kind.';
comment on column attr_audit.notification.gap_to is 'back: when it was seen again.';
comment on column attr_audit.notification.dag_run_id is 'The Airflow run that found the fact.';
comment on column attr_audit.notification.created_at is 'When the database recorded the fact.';
comment on column attr_audit.notification.sent_to is
    'Destinations that have the message while another one could not take it yet; digests, no addresses.';
comment on column attr_audit.notification.sent_at is
    'When every destination had taken it; null: it waits, or became too old to be news.';

-- In the change's own transaction, whoever inserts it: a recorded change cannot miss its message.
create function attr_audit.note_changes() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into attr_audit.notification (kind, region, sdk_app_id, change_id, dag_run_id)
    select 'change', n.region, n.sdk_app_id, n.change_id, n.dag_run_id
      from new_changes n
     where not n.is_baseline
     order by n.region, n.sdk_app_id, n.seq;
    return null;
end $$;
comment on function attr_audit.note_changes() is
    'Notes every new change that is no baseline in notification, in the change''s own transaction.';

create trigger note_changes after insert on attr_audit.change
    referencing new table as new_changes
    for each statement execute function attr_audit.note_changes();

create function attr_audit.refuse_sending_again() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'notification % was sent at %', old.notification_id, old.sent_at
        using errcode = 'integrity_constraint_violation';
end $$;
comment on function attr_audit.refuse_sending_again() is
    'Stops a fact that was sent from being marked anew, or as unsent.';

create trigger sent_once before update on attr_audit.notification
    for each row when (old.sent_at is not null)
    execute function attr_audit.refuse_sending_again();

revoke all on function attr_audit.note_changes(), attr_audit.refuse_sending_again() from public;
grant select on attr_audit.notification to attr_audit_writer, attr_audit_reader;
-- Not change_id: which changes are told is the trigger's to say.
grant insert (kind, region, sdk_app_id, gap_from, gap_to, dag_run_id)
    on attr_audit.notification to attr_audit_writer;
grant update (sent_to, sent_at) on attr_audit.notification to attr_audit_writer;
