-- Declared names: which names the apps of a group are meant to have, what is not as declared, and whether
-- a change made an app as declared.
-- Only new tables, and a view that gets another expression: no lock is held for longer than a moment.

-- What was declared, and when --------------------------------------------------------------------

create table attr_audit.declaration (
    declaration_id bigint generated always as identity primary key,
    recorded_at    timestamptz not null,
    dag_run_id     text,
    source         text not null,
    revision       text,
    digest         bytea not null,
    document       jsonb not null,
    text_digest    bytea
);
comment on table attr_audit.declaration is
    'The declarations of names, in the canonical form of their document. Append-only; a row whenever the document differs from the last one. A declaration is in force from its recorded_at until the next one''s.';
comment on column attr_audit.declaration.declaration_id is 'Number of the declaration, given by the database.';
comment on column attr_audit.declaration.recorded_at is 'When the database recorded it: from then on it is in force.';
comment on column attr_audit.declaration.dag_run_id is 'The Airflow run that read it.';
comment on column attr_audit.declaration.source is
    'Where it was read: the Variable or the file; none: there was no longer any document, so nothing is declared.';
comment on column attr_audit.declaration.revision is
    'The version of the DAG bundle that the file is part of; null: the bundle has no versions, or the document is not part of it.';
comment on column attr_audit.declaration.digest is 'SHA-256 of document as text, in UTF-8.';
comment on column attr_audit.declaration.document is
    'The document in canonical form: slots as text, other_slots always given, exceptions in a fixed order.';
comment on column attr_audit.declaration.text_digest is
    'SHA-256 of the text as it was read. A text that is unchanged is not parsed again.';

-- Derived from declaration, unfolded once: what a question joins, with from when to when it was declared.
create table attr_audit_internal.declared_term (
    app_group  text not null,
    rank       smallint not null,
    region     text,
    sdk_app_id bigint,
    slot       smallint,
    name       text,
    reason     text,
    until      date,
    from_at    timestamptz not null,
    to_at      timestamptz not null default 'infinity',
    ends_at    timestamptz not null generated always as
        (least(to_at, until::timestamp at time zone 'UTC')) stored,
    constraint a_rank_has_its_slot check ((rank = -1) = (slot is null))
);
create index declared_term_then on attr_audit_internal.declared_term (app_group, slot, sdk_app_id);
create index declared_term_now on attr_audit_internal.declared_term (app_group, rank)
    where to_at = 'infinity';
comment on table attr_audit_internal.declared_term is
    'Derived from declaration: one row for each slot that a group or an exception names, and one for each group that forbids other slots, from when to when it was declared. Of the rows that are of an app the one with the highest rank counts.';
comment on column attr_audit_internal.declared_term.app_group is 'The app group.';
comment on column attr_audit_internal.declared_term.rank is
    '3: of an app in a region; 2: of an app; 1: of a region; 0: of the group; -1: of every slot that is not named.';
comment on column attr_audit_internal.declared_term.region is 'Of an exception: the region; null: of any region.';
comment on column attr_audit_internal.declared_term.sdk_app_id is 'Of an exception: the SDKAppID; null: of any app.';
comment on column attr_audit_internal.declared_term.slot is 'The attribute''s number; null: every slot that is not named.';
comment on column attr_audit_internal.declared_term.name is 'The declared name; null: the slot must be unused.';
comment on column attr_audit_internal.declared_term.reason is 'The exception''s reason.';
comment on column attr_audit_internal.declared_term.until is 'The UTC date on which the exception ends.';
comment on column attr_audit_internal.declared_term.from_at is 'When the first declaration with it was recorded.';
comment on column attr_audit_internal.declared_term.to_at is
    'When the first declaration without it was recorded; infinity: it is still declared.';
comment on column attr_audit_internal.declared_term.ends_at is
    'Derived: to_at, or the beginning of the day until (UTC) if that is earlier.';

create function attr_audit_internal.terms_of(document jsonb)
    returns table (app_group text, rank smallint, region text, sdk_app_id bigint, slot smallint,
                   name text, reason text, until date)
    language sql stable parallel safe
begin atomic
    select g.key, -1::smallint, null::text, null::bigint, null::smallint, null::text, null::text, null::date
      from jsonb_each(document -> 'groups') g
     where g.value ->> 'other_slots' is distinct from 'allowed'
     union all
    select g.key, 0, null, null, n.key::smallint, n.value #>> '{}', null, null
      from jsonb_each(document -> 'groups') g
     cross join jsonb_each(g.value -> 'names') n
     union all
    select g.key, ((x.value ? 'sdk_app_id')::integer * 2 + (x.value ? 'region')::integer)::smallint,
           x.value ->> 'region', (x.value ->> 'sdk_app_id')::bigint, n.key::smallint,
           n.value #>> '{}', x.value ->> 'reason', (x.value ->> 'until')::date
      from jsonb_each(document -> 'groups') g
     cross join jsonb_array_elements(g.value -> 'exceptions') x
     cross join jsonb_each(x.value -> 'names') n;
end;
comment on function attr_audit_internal.terms_of(jsonb) is
    'What a document declares, as the rows of declared_term.';

create function attr_audit_internal.accept_declaration() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    last attr_audit.declaration;
begin
    -- One at a time: two tasks that read the same new document record it once.
    perform pg_advisory_xact_lock(hashtextextended('attr_audit.declaration', 0));
    select * into last from attr_audit.declaration d order by d.declaration_id desc limit 1;
    if new.document = coalesce(last.document, '{"groups": {}}') then
        return null;
    end if;
    if jsonb_typeof(new.document -> 'groups') is distinct from 'object' then
        raise exception 'the document of a declaration has no groups' using errcode = 'check_violation';
    end if;
    new.digest := sha256(convert_to(new.document::text, 'UTF8'));
    new.recorded_at := greatest(clock_timestamp(), last.recorded_at + interval '1 microsecond');
    return new;
end $$;
comment on function attr_audit_internal.accept_declaration() is
    'Leaves out a declaration that does not differ from the last one; gives another one its time and digest.';

create function attr_audit_internal.unfold_declaration() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update attr_audit_internal.declared_term d
       set to_at = new.recorded_at
     where d.to_at = 'infinity'
       and jsonb_build_array(d.app_group, d.region, d.sdk_app_id, d.slot, d.name, d.reason, d.until)
           not in (select jsonb_build_array(t.app_group, t.region, t.sdk_app_id, t.slot, t.name,
                                            t.reason, t.until)
                     from attr_audit_internal.terms_of(new.document) t);
    insert into attr_audit_internal.declared_term
           (app_group, rank, region, sdk_app_id, slot, name, reason, until, from_at)
    select t.*, new.recorded_at
      from attr_audit_internal.terms_of(new.document) t
     where jsonb_build_array(t.app_group, t.region, t.sdk_app_id, t.slot, t.name, t.reason, t.until)
           not in (select jsonb_build_array(d.app_group, d.region, d.sdk_app_id, d.slot, d.name,
                                            d.reason, d.until)
                     from attr_audit_internal.declared_term d where d.to_at = 'infinity');
    return null;
end $$;
comment on function attr_audit_internal.unfold_declaration() is
    'Keeps declared_term: ends what is no longer declared and begins what is new.';

create trigger accept_declaration before insert on attr_audit.declaration
    for each row execute function attr_audit_internal.accept_declaration();
create trigger unfold_declaration after insert on attr_audit.declaration
    for each row execute function attr_audit_internal.unfold_declaration();
create trigger append_only before update or delete or truncate on attr_audit.declaration
    for each statement execute function attr_audit_internal.refuse_rewriting();

-- A setting of the tasks, which the view needs as well.
create table attr_audit_internal.watch (
    is_one      boolean primary key default true check (is_one),
    stale_after interval not null
);
insert into attr_audit_internal.watch (stale_after) values ('1 hour');
comment on table attr_audit_internal.watch is 'One row: how the tasks are set, as they last noted it.';
comment on column attr_audit_internal.watch.is_one is 'True: there is one row.';
comment on column attr_audit_internal.watch.stale_after is 'IM_ATTR_AUDIT_STALE_AFTER.';

create function attr_audit_internal.note_stale_after(given interval) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
    update attr_audit_internal.watch w set stale_after = given where w.stale_after <> given;
end;
comment on function attr_audit_internal.note_stale_after(interval) is
    'Notes how long without a good poll makes an app stale.';

-- What is declared now ------------------------------------------------------------------------------

-- A view, for a function would read its tables with the reader's rights.
create view attr_audit_internal.declared_now as
    with open_exception as (
        select t.* from attr_audit_internal.declared_term t
         where t.to_at = 'infinity' and t.ends_at > now() and t.rank > 0
    ), exact as (
        -- Three joins, each by equal columns: a group may have thousands of apps and of exceptions.
        select distinct on (x.region, x.sdk_app_id, x.slot)
               x.region, x.sdk_app_id, x.app_group, x.slot, x.name, x.reason, x.until, x.from_at
          from (select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until,
                       t.from_at, t.rank
                  from attr_audit.app a
                  join open_exception t
                    on t.rank = 3 and t.app_group = a.app_group and t.region = a.region
                   and t.sdk_app_id = a.sdk_app_id
                 where a.retired_at is null
                 union all
                select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until,
                       t.from_at, t.rank
                  from attr_audit.app a
                  join open_exception t
                    on t.rank = 2 and t.app_group = a.app_group and t.sdk_app_id = a.sdk_app_id
                 where a.retired_at is null
                 union all
                select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until,
                       t.from_at, t.rank
                  from attr_audit.app a
                  join open_exception t
                    on t.rank = 1 and t.app_group = a.app_group and t.region = a.region
                 where a.retired_at is null) x
         order by x.region, x.sdk_app_id, x.slot, x.rank desc
    )
    select e.region, e.sdk_app_id, e.app_group, e.slot, e.name, e.reason, e.until, e.from_at
      from exact e
     union all
    select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until, t.from_at
      from attr_audit.app a
      join attr_audit_internal.declared_term t
        on t.rank = 0 and t.to_at = 'infinity' and t.app_group = a.app_group
     where a.retired_at is null
       and not exists (select from exact e
                        where e.region = a.region and e.sdk_app_id = a.sdk_app_id
                          and e.slot = t.slot);
comment on view attr_audit_internal.declared_now is
    'What is declared now of the slots that a group or an exception names, for apps that are not retired.';
comment on column attr_audit_internal.declared_now.region is 'The app''s region.';
comment on column attr_audit_internal.declared_now.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit_internal.declared_now.app_group is 'The app''s group.';
comment on column attr_audit_internal.declared_now.slot is 'The attribute''s number.';
comment on column attr_audit_internal.declared_now.name is 'The declared name; null: the slot must be unused.';
comment on column attr_audit_internal.declared_now.reason is 'Why it is an exception; null: it is not one.';
comment on column attr_audit_internal.declared_now.until is 'The UTC date on which the exception ends.';
comment on column attr_audit_internal.declared_now.from_at is 'Since when the row of declared_term is declared.';

create view attr_audit.declared_names as
select d.app_group, d.region, d.sdk_app_id, d.slot, d.name, d.reason, d.until
  from attr_audit_internal.declared_now d;
comment on view attr_audit.declared_names is
    'The names that apps are meant to have now, by the declaration in force and the app''s group; retired apps are left out. Slots that the declaration does not name have no row, also where the group forbids other slots.';
comment on column attr_audit.declared_names.app_group is 'The app''s group.';
comment on column attr_audit.declared_names.region is 'The app''s region.';
comment on column attr_audit.declared_names.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.declared_names.slot is 'The attribute''s number.';
comment on column attr_audit.declared_names.name is 'The declared name; null: the slot must be unused.';
comment on column attr_audit.declared_names.reason is 'Why it is an exception; null: it is the group''s name.';
comment on column attr_audit.declared_names.until is
    'The UTC date on which the exception ends, at the beginning of the day; null: it has no end, or is not an exception.';

-- Since when ---------------------------------------------------------------------------------------

create function attr_audit_internal.violation_spans(a_region text, an_sdk_app_id bigint, a_slot smallint)
    returns tstzmultirange
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    with term as (
        select t.rank, t.name,
               range_agg(tstzrange(greatest(s.from_at, t.from_at), least(s.to_at, t.ends_at))) as spans
          from attr_audit_internal.stay() s
          join attr_audit_internal.declared_term t
            on t.app_group = s.app_group
           and (t.slot = a_slot and (t.sdk_app_id = an_sdk_app_id or t.sdk_app_id is null)
                or t.slot is null)
           and (t.region is null or t.region = a_region)
           and greatest(s.from_at, t.from_at) < least(s.to_at, t.ends_at)
         where s.region = a_region and s.sdk_app_id = an_sdk_app_id
         group by t.rank, t.name
    ), effective as (
        select t.name,
               t.spans - coalesce((select range_agg(h.spans) from term h where h.rank > t.rank), '{}')
                   as spans
          from term t
    ), named as (
        select n.name, range_agg(tstzrange(n.valid_from, n.valid_to)) as spans
          from attr_audit_internal.name_span() n
         where n.region = a_region and n.sdk_app_id = an_sdk_app_id and n.slot = a_slot
           and n.valid_from < n.valid_to
         group by n.name
    )
    select coalesce(range_agg(v.spans), '{}') * tstzmultirange(tstzrange(a.seen_from, null))
      from attr_audit_internal.app_seen() a
      left join (select case when e.name is null
                             then e.spans * coalesce((select range_agg(n.spans) from named n), '{}')
                             else e.spans - coalesce((select n.spans from named n
                                                       where n.name = e.name), '{}') end as spans
                   from effective e) v on true
     where a.region = a_region and a.sdk_app_id = an_sdk_app_id and a.seen_from is not null
     group by a.seen_from;
end;
comment on function attr_audit_internal.violation_spans(text, bigint, smallint) is
    'When a slot of an app was seen not as declared, by the declaration and the group of each time. Where nobody looked, the names last seen count.';

create view attr_audit.violations as
select v.since, v.app_group, v.region, v.sdk_app_id, v.slot, v.violation, v.declared_name,
       v.actual_name, attr_audit_internal.lookalike(v.declared_name, v.actual_name) as lookalike,
       greatest(extract(epoch from now() - v.since), 0)::double precision as age_seconds
  from (select a.app_group, q.region, q.sdk_app_id, q.slot, q.declared_name, q.actual_name,
               case when u.is_unknown then 'unknown'
                    when q.declared_name is null then 'undeclared'
                    when q.actual_name is null then 'missing'
                    else 'different' end as violation,
               case when u.is_unknown
                    then greatest(coalesce(a.seen_to, a.first_polled_at), least(q.from_at, now()))
                    else coalesce((select lower(s) from unnest(attr_audit_internal.violation_spans(
                                       q.region, q.sdk_app_id, q.slot)) s where s @> now()), now())
                    end as since
          from (select coalesce(d.region, s.region) as region,
                       coalesce(d.sdk_app_id, s.sdk_app_id) as sdk_app_id,
                       coalesce(d.slot, s.slot) as slot, d.slot is not null as is_named,
                       d.name as declared_name, s.name as actual_name, d.from_at
                  from attr_audit_internal.declared_now d
                  full join (select n.region, n.sdk_app_id, n.slot, n.name
                               from attr_audit.snapshot n
                               join attr_audit.app b using (region, sdk_app_id)
                              where b.retired_at is null
                                and b.app_group in (select t.app_group
                                                      from attr_audit_internal.declared_term t
                                                     where t.to_at = 'infinity')) s
                    on s.region = d.region and s.sdk_app_id = d.sdk_app_id and s.slot = d.slot) q
          join (select b.region, b.sdk_app_id, b.app_group, w.seen_to, w.seen_from,
                       case when b.first_polled_at <= now() then b.first_polled_at
                            else '1970-01-01 00:00:00+00' end as first_polled_at
                  from attr_audit.app b
                  join attr_audit_internal.app_seen() w using (region, sdk_app_id)
                 where b.retired_at is null) a
            on a.region = q.region and a.sdk_app_id = q.sdk_app_id
          left join attr_audit_internal.declared_term f
            on f.rank = -1 and f.to_at = 'infinity' and f.app_group = a.app_group and not q.is_named
         cross join lateral (
               select a.seen_from is null
                      or (now() - a.seen_to <= (select w.stale_after from attr_audit_internal.watch w))
                         is not true as is_unknown) u
         where (q.is_named or f.app_group is not null)
           and (u.is_unknown or q.declared_name is distinct from q.actual_name)) v;
comment on view attr_audit.violations is
    'What is not as declared now, one row for each slot; retired apps are left out. Filter by since, which is never null. An app that is stale or was never seen is a row for every declared slot: unknown. Names are compared exactly.';
comment on column attr_audit.violations.since is
    'Since when the slot has been seen not as declared, whatever its name was in between; of unknown, since when the names are unknown or declared. Never null.';
comment on column attr_audit.violations.app_group is 'The app''s group.';
comment on column attr_audit.violations.region is 'The app''s region.';
comment on column attr_audit.violations.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.violations.slot is 'The attribute''s number.';
comment on column attr_audit.violations.violation is
    'different: another name than declared; missing: no name; undeclared: a name where the slot must be unused; unknown: no good poll lately (IM_ATTR_AUDIT_STALE_AFTER), or none at all.';
comment on column attr_audit.violations.declared_name is 'The declared name; null: the slot must be unused.';
comment on column attr_audit.violations.actual_name is
    'The actual name; null: the slot has none. Of unknown: the name last seen; null: none, or never seen.';
comment on column attr_audit.violations.lookalike is
    'Why the actual name looks like the declared one: case, whitespace, normalization, confusable (UTS 39); null: it does not.';
comment on column attr_audit.violations.age_seconds is 'From since to now.';

-- Whether a change made the app as declared ---------------------------------------------------------

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
       case when c.kind <> 'retyped'
            then (select t.name is not distinct from c.new_name
                    from (select t.rank, t.name, t.from_at, t.ends_at, t.region
                            from attr_audit_internal.declared_term t
                           where t.app_group = s.app_group and t.slot = c.slot
                             and t.sdk_app_id = c.sdk_app_id
                           union all
                          select t.rank, t.name, t.from_at, t.ends_at, t.region
                            from attr_audit_internal.declared_term t
                           where t.app_group = s.app_group and t.slot = c.slot
                             and t.sdk_app_id is null
                           union all
                          select t.rank, t.name, t.from_at, t.ends_at, t.region
                            from attr_audit_internal.declared_term t
                           where t.app_group = s.app_group and t.slot is null) t
                   where (t.region is null or t.region = c.region)
                     and c.seen_at >= t.from_at and c.seen_at < t.ends_at
                   order by t.rank desc limit 1) end as declared,
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
comment on column attr_audit.changes.declared is
    'Whether the new name was as declared at seen_at, by the declaration and the group of then. Null: nothing was declared of the slot then, or only the type changed.';
comment on column attr_audit.unreviewed_changes.declared is
    'Whether the new name was as declared at seen_at, by the declaration and the group of then. Null: nothing was declared of the slot then, or only the type changed.';

-- Who may what -------------------------------------------------------------------------------------

revoke all on function
    attr_audit_internal.terms_of(jsonb), attr_audit_internal.accept_declaration(),
    attr_audit_internal.unfold_declaration(), attr_audit_internal.note_stale_after(interval),
    attr_audit_internal.violation_spans(text, bigint, smallint)
    from public;
grant execute on function attr_audit_internal.violation_spans(text, bigint, smallint)
    to attr_audit_writer, attr_audit_reader;
grant execute on function attr_audit_internal.note_stale_after(interval) to attr_audit_writer;
grant select on attr_audit.declaration, attr_audit.declared_names, attr_audit.violations
    to attr_audit_writer, attr_audit_reader;
grant select on attr_audit.declaration to attr_audit_sealer;
grant insert (dag_run_id, source, revision, document, text_digest)
    on attr_audit.declaration to attr_audit_writer;
