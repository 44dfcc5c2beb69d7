-- Who answered for a change: reviews, which changes were asked about, and what waits for an answer.
-- Nothing here reads or rewrites a large table, and no lock is held for longer than a moment.

-- Reviews ----------------------------------------------------------------------------------------

-- Without a foreign key: change never loses a row, and a new review is checked by a trigger. A key would
-- have Postgres answer a truncate of change before the trigger that refuses it.
create table attr_audit.review (
    review_id   bigint generated always as identity primary key,
    region      text not null,
    sdk_app_id  bigint not null,
    review_seq  bigint not null,
    seq         bigint not null,
    verdict     text not null,
    reviewer    text not null,
    reviewer_id text,
    ticket      text,
    comment     text,
    reviewed_at timestamptz not null,
    dag_run_id  text not null,
    recorded_at timestamptz not null,
    prev_hash   bytea,
    row_hash    bytea not null,
    constraint one_chain_of_reviews_per_app unique (region, sdk_app_id, review_seq),
    constraint an_answer_is_recorded_once unique (region, sdk_app_id, seq, dag_run_id, reviewed_at),
    constraint verdict_is_known check (verdict in ('expected', 'not_expected')),
    constraint reviewer_is_not_empty check (reviewer <> '' and reviewer_id <> ''),
    constraint ticket_is_not_empty check (ticket <> ''),
    constraint comment_is_not_empty check (comment <> ''),
    constraint texts_are_short check
        (octet_length(reviewer) <= 1024 and coalesce(octet_length(reviewer_id), 0) <= 1024
         and coalesce(char_length(ticket), 0) <= 200 and coalesce(char_length(comment), 0) <= 2000),
    constraint dag_run_id_is_not_empty check (dag_run_id <> ''),
    constraint reviewed_at_is_not_in_the_future check (reviewed_at <= recorded_at + interval '1 minute')
);
comment on table attr_audit.review is
    'Answers to whether a change was expected, each with the Airflow user who gave it. Append-only; several per change are allowed, the one with the latest reviewed_at counts. Every app''s rows form a chain of hashes.';
comment on column attr_audit.review.review_id is
    'Number of the row, given by the database; the order within an app is review_seq.';
comment on column attr_audit.review.region is 'The app''s region.';
comment on column attr_audit.review.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.review.review_seq is
    '1, 2, 3 … without gaps per app: the order in which its reviews were recorded.';
comment on column attr_audit.review.seq is 'The reviewed change: change.seq of the app.';
comment on column attr_audit.review.verdict is 'expected or not_expected.';
comment on column attr_audit.review.reviewer is 'The name of the Airflow user who answered.';
comment on column attr_audit.review.reviewer_id is
    'The id of that user in Airflow''s auth manager; null: unknown.';
comment on column attr_audit.review.ticket is 'The ticket that the reviewer named; null: none.';
comment on column attr_audit.review.comment is 'The reviewer''s comment; null: none.';
comment on column attr_audit.review.reviewed_at is
    'When Airflow''s API server received the answer, by its clock.';
comment on column attr_audit.review.dag_run_id is
    'The run of the DAG im_attr_name_review that asked.';
comment on column attr_audit.review.recorded_at is 'When the database recorded the review.';
comment on column attr_audit.review.prev_hash is
    'row_hash of the app''s review before; null for the first.';
comment on column attr_audit.review.row_hash is
    'SHA-256 of the row as a JSON array, in UTF-8: review_id, region, sdk_app_id, review_seq, seq, verdict, reviewer, reviewer_id, ticket, comment, reviewed_at, dag_run_id, recorded_at (times in microseconds since 1970 UTC) and prev_hash (hexadecimal).';

create index review_last on attr_audit.review (region, sdk_app_id, seq, reviewed_at, review_id);

create function attr_audit_internal.review_canonical(r attr_audit.review) returns text
    language sql stable parallel safe
    return json_build_array(
        (r).review_id, (r).region, (r).sdk_app_id, (r).review_seq, (r).seq, (r).verdict,
        (r).reviewer, (r).reviewer_id, (r).ticket, (r).comment,
        attr_audit_internal.epoch_us((r).reviewed_at), (r).dag_run_id,
        attr_audit_internal.epoch_us((r).recorded_at), encode((r).prev_hash, 'hex'))::text;
comment on function attr_audit_internal.review_canonical(attr_audit.review) is
    'The text whose SHA-256 is row_hash.';

create function attr_audit_internal.chain_review() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    head record;
begin
    -- The app's row lock gives its chain one author at a time.
    perform from attr_audit.app a
      where a.region = new.region and a.sdk_app_id = new.sdk_app_id
        for update;
    if not exists (select from attr_audit.change c
                    where c.region = new.region and c.sdk_app_id = new.sdk_app_id
                      and c.seq = new.seq and not c.is_baseline) then
        raise exception 'review of %/% seq %: there is no such change', new.region, new.sdk_app_id,
            new.seq using errcode = 'foreign_key_violation';
    end if;
    select r.review_seq, r.row_hash into head
      from attr_audit.review r
     where r.region = new.region and r.sdk_app_id = new.sdk_app_id
     order by r.review_seq desc limit 1;
    new.review_seq := coalesce(head.review_seq, 0) + 1;
    new.prev_hash := head.row_hash;
    new.recorded_at := clock_timestamp();
    new.row_hash := sha256(convert_to(attr_audit_internal.review_canonical(new), 'UTF8'));
    return new;
end $$;
comment on function attr_audit_internal.chain_review() is
    'Gives a new review its review_seq, its recorded_at and its place in the app''s chain; refuses one of a baseline, or of a change that does not exist.';

create trigger chain_review before insert on attr_audit.review
    for each row execute function attr_audit_internal.chain_review();
create trigger append_only before update or delete or truncate on attr_audit.review
    for each statement execute function attr_audit_internal.refuse_rewriting();

-- What was asked ---------------------------------------------------------------------------------

create table attr_audit_internal.review_request (
    region     text not null,
    sdk_app_id bigint not null,
    seq        bigint not null,
    dag_run_id text not null,
    asked_at   timestamptz not null default clock_timestamp(),
    primary key (region, sdk_app_id, seq, dag_run_id)
);
create index review_request_by_time on attr_audit_internal.review_request (asked_at);
comment on table attr_audit_internal.review_request is
    'Which changes a run of the DAG im_attr_name_review asked about. Append-only. A change that nobody was asked about is not overdue.';
comment on column attr_audit_internal.review_request.region is 'The app''s region.';
comment on column attr_audit_internal.review_request.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit_internal.review_request.seq is 'The change: change.seq of the app.';
comment on column attr_audit_internal.review_request.dag_run_id is 'The run that asked.';
comment on column attr_audit_internal.review_request.asked_at is 'When the database recorded it.';
create trigger append_only before update or delete or truncate on attr_audit_internal.review_request
    for each statement execute function attr_audit_internal.refuse_rewriting();

-- Changes with their last review -----------------------------------------------------------------

create or replace view attr_audit.changes as
select c.seen_at, c.not_before, s.app_group, c.region, c.sdk_app_id, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type,
       case when c.kind = 'renamed'
            then attr_audit_internal.lookalike(c.old_name, c.new_name) end as lookalike,
       case when c.kind in ('added', 'renamed')
            then (select min(d.slot) from attr_audit.change d
                   where d.region = c.region and d.sdk_app_id = c.sdk_app_id
                     and d.seen_at = c.recorded_seen_at and d.poll_id = c.poll_id
                     and d.slot <> c.slot and d.old_name = c.new_name
                     and d.new_name is distinct from d.old_name) end as moved_from_slot,
       null::boolean as declared,
       extract(epoch from c.seen_at - c.not_before)::double precision as detect_seconds,
       r.verdict, r.reviewer, r.ticket, r.reviewed_at, c.dag_run_id, c.poll_id, c.seq, c.change_id,
       encode(c.row_hash, 'hex') as row_hash
  from attr_audit_internal.change_seen() c
  join attr_audit_internal.stay() s
    on s.region = c.region and s.sdk_app_id = c.sdk_app_id
   and c.seen_at >= s.from_at and c.seen_at < s.to_at
  left join lateral (
       select v.verdict, v.reviewer, v.ticket, v.reviewed_at
         from attr_audit.review v
        where v.region = c.region and v.sdk_app_id = c.sdk_app_id and v.seq = c.seq
        order by v.reviewed_at desc, v.review_id desc
        limit 1) r on true
 where not c.is_baseline;

create view attr_audit.unreviewed_changes as
select c.*, extract(epoch from now() - c.seen_at)::double precision as age_seconds
  from attr_audit.changes c
 where c.declared is not true and c.verdict is null;

comment on view attr_audit.unreviewed_changes is
    'Changes that are not as declared and that nobody has reviewed. Filter by seen_at, which is never null. Changes from before reviews were introduced are among them.';
do $$
declare
    said record;
begin
    -- The same columns mean the same.
    for said in select a.attname, col_description(a.attrelid, a.attnum) as text
                  from pg_attribute a
                 where a.attrelid = 'attr_audit.changes'::regclass and a.attnum > 0 loop
        execute format('comment on column attr_audit.unreviewed_changes.%I is %L', said.attname,
                       said.text);
    end loop;
end $$;
comment on column attr_audit.unreviewed_changes.age_seconds is 'From seen_at to now.';

-- Alerts about changes that wait -----------------------------------------------------------------

alter table attr_audit.notification
    drop constraint kind_is_known,
    drop constraint a_change_has_its_row,
    drop constraint a_gap_has_its_begin,
    add constraint kind_is_known check (kind in ('change', 'stale', 'back', 'unreviewed')) not valid,
    add constraint a_change_has_its_row check
        ((kind in ('change', 'unreviewed')) = (change_id is not null)) not valid,
    add constraint a_gap_has_its_begin check
        ((kind in ('stale', 'back')) = (gap_from is not null)) not valid;
comment on column attr_audit.notification.kind is
    'change: a name changed; stale: no good poll for longer than the limit; back: a good poll ended that; unreviewed: a change waits for its review longer than the limit.';
comment on column attr_audit.notification.change_id is 'For change and unreviewed: the row of change.';

create function attr_audit_internal.queue_unreviewed(longer_than interval, a_run text) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    queued bigint;
begin
    -- Not those of longer ago: a request is looked at for a month, however many there have been.
    insert into attr_audit.notification (kind, region, sdk_app_id, change_id, dag_run_id)
    select 'unreviewed', c.region, c.sdk_app_id, c.change_id, a_run
      from (select distinct q.region, q.sdk_app_id, q.seq
              from attr_audit_internal.review_request q
             where q.asked_at <= now() - longer_than
               and q.asked_at > now() - longer_than - interval '30 days') w
      join attr_audit.change c using (region, sdk_app_id, seq)
     where not exists (select from attr_audit.review r
                        where r.region = w.region and r.sdk_app_id = w.sdk_app_id and r.seq = w.seq)
       and not exists (select from attr_audit.notification n
                        where n.kind = 'unreviewed' and n.region = c.region
                          and n.sdk_app_id = c.sdk_app_id and n.change_id = c.change_id)
     order by c.region, c.sdk_app_id, c.seq
        on conflict on constraint one_row_per_fact do nothing;
    get diagnostics queued = row_count;
    return queued;
end $$;
comment on function attr_audit_internal.queue_unreviewed(interval, text) is
    'Queues an alert for each change that was asked about longer ago and has no review; gives how many. Once per change.';

-- Who may what ------------------------------------------------------------------------------------

revoke all on function attr_audit_internal.review_canonical(attr_audit.review),
    attr_audit_internal.chain_review(), attr_audit_internal.queue_unreviewed(interval, text)
    from public;
grant execute on function attr_audit_internal.queue_unreviewed(interval, text) to attr_audit_writer;
grant select on attr_audit.review, attr_audit.unreviewed_changes
    to attr_audit_writer, attr_audit_reader;
grant select on attr_audit.review to attr_audit_sealer;
grant insert (region, sdk_app_id, seq, verdict, reviewer, reviewer_id, ticket, comment, reviewed_at,
              dag_run_id)
    on attr_audit.review to attr_audit_writer;
grant select, insert (region, sdk_app_id, seq, dag_run_id)
    on attr_audit_internal.review_request to attr_audit_writer;
