-- What an analyst reads: views and functions over the record, for the role attr_audit_reader.

-- Every span in which a slot had a name. A change closes the span of its old name, and the snapshot
-- holds the spans that are still open, so no window over the whole record is needed. app is joined
-- outside the union: each part is one table then, and a condition on the view reaches its indexes.
create view attr_audit.name_history as
select h.region, h.sdk_app_id, a.app_group, h.slot, h.name, h.attr_type, h.possible_from,
       h.valid_from, coalesce(h.certain_to, a.last_ok_at) as certain_to, h.valid_to
  from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
               c.old_not_before as possible_from, c.old_seen_at as valid_from,
               coalesce(c.not_before, c.prior_ok_at) as certain_to, c.seen_at as valid_to
          from attr_audit.change c
         where c.old_name is not null
         union all
        select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, s.not_before, s.seen_at,
               null::timestamptz, null::timestamptz
          from attr_audit.snapshot s) h
  join attr_audit.app a using (region, sdk_app_id);

comment on view attr_audit.name_history is
    'Every span in which a slot had a name, of retired apps too: it began between possible_from and valid_from, and ended between certain_to and valid_to. A type that became known or changed begins a new span of the same name.';
comment on column attr_audit.name_history.region is 'The app''s region.';
comment on column attr_audit.name_history.sdk_app_id is 'The app''s number.';
comment on column attr_audit.name_history.app_group is 'Apps that are meant to carry the same names.';
comment on column attr_audit.name_history.slot is 'The attribute''s number.';
comment on column attr_audit.name_history.name is 'What the slot was called.';
comment on column attr_audit.name_history.attr_type is 'timpush only: 0 IM UserID, 1 RegistrationID; null: not known.';
comment on column attr_audit.name_history.possible_from is
    'The earliest instant at which it can have begun; null for a baseline: it was there at first sight.';
comment on column attr_audit.name_history.valid_from is 'When it was first seen.';
comment on column attr_audit.name_history.certain_to is 'When the request of the last read that saw it was sent.';
comment on column attr_audit.name_history.valid_to is 'When something else was first seen; null: still so.';

create view attr_audit.current_names as
select s.region, s.sdk_app_id, a.app_group, s.slot, s.name, s.attr_type,
       s.not_before, s.seen_at, a.last_ok_at as confirmed_at
  from attr_audit.snapshot s
  join attr_audit.app a using (region, sdk_app_id)
 where a.retired_at is null;

comment on view attr_audit.current_names is
    'The names as last known, without retired apps; confirmed_at says how old that knowledge is.';
comment on column attr_audit.current_names.region is 'The app''s region.';
comment on column attr_audit.current_names.sdk_app_id is 'The app''s number.';
comment on column attr_audit.current_names.app_group is 'Apps that are meant to carry the same names.';
comment on column attr_audit.current_names.slot is 'The attribute''s number.';
comment on column attr_audit.current_names.name is 'What the slot is called.';
comment on column attr_audit.current_names.attr_type is 'timpush only: 0 IM UserID, 1 RegistrationID; null: not known.';
comment on column attr_audit.current_names.not_before is
    'The name was set after this; null: it was there at first sight.';
comment on column attr_audit.current_names.seen_at is 'When the name was first seen: it was set before this.';
comment on column attr_audit.current_names.confirmed_at is
    'When the request of the last read that saw it was sent.';

-- A change closes a span: that of its old name or, where there was none, that in which it is not known
-- whether the slot had a name. Spans that reach over an instant are looked for by their length, for one
-- of at most an hour began within the hour before (change_by_span); limits in hours, since a day is not
-- the same length in every time zone. The snapshot holds the spans that are still open.
-- Not parallel safe: nearly every row that is read is given back, and handing each from process to
-- process costs more than finding it.
create function attr_audit.names_as_of(at timestamptz)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, a.app_group, n.slot, n.name, n.attr_type,
           at <= coalesce(n.certain_to, a.last_ok_at)
      -- "is true": not to be looked up by change_by_seen_at, whose rows lie all over the table.
      from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
                   coalesce(c.not_before, c.prior_ok_at) as certain_to
              from attr_audit.change c
             where c.span_class = 0 and c.span_from > at - interval '1 hour' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 1 and c.span_from > at - interval '4 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 2 and c.span_from > at - interval '16 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 3 and c.span_from > at - interval '64 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 4 and c.span_from > at - interval '256 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 5 and c.span_from > at - interval '1024 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at)
              from attr_audit.change c
             where c.span_class = 6 and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, null::timestamptz
              from attr_audit.snapshot s
             where s.seen_at <= at) n
      join attr_audit.app a using (region, sdk_app_id);
end;

comment on function attr_audit.names_as_of(timestamptz) is
    'The names last seen at or before the instant, of retired apps too. certain is false strictly between the bounds of the slot''s next change (of a baseline: after the app''s prior_ok_at) and after the app''s last_ok_at; on a bound itself it is true. A slot within the bounds of its addition is a row with name null, not certain. No rows for an app before its first good poll. Certain means that the polls on both sides agree: a change there and back between two polls cannot be seen.';

create view attr_audit.drift as
select a.app_group, s.slot, count(distinct n.name) as distinct_names,
       jsonb_object_agg(a.region || '/' || a.sdk_app_id, n.name) as names
  from attr_audit.app a
  join (select distinct g.app_group, m.slot
          from attr_audit.app g
          join attr_audit.snapshot m using (region, sdk_app_id)
         where g.retired_at is null and g.first_ok_at is not null) s using (app_group)
  left join attr_audit.snapshot n
    on n.region = a.region and n.sdk_app_id = a.sdk_app_id and n.slot = s.slot
 where a.retired_at is null and a.first_ok_at is not null
 group by a.app_group, s.slot
having count(distinct n.name) > 1 or count(n.name) < count(*);

comment on view attr_audit.drift is
    'Slots whose apps, meant to carry the same names, disagree now; only apps with a good poll, without retired ones. Names are compared exactly; types are not compared.';
comment on column attr_audit.drift.app_group is 'Apps that are meant to carry the same names.';
comment on column attr_audit.drift.slot is 'The attribute''s number.';
comment on column attr_audit.drift.distinct_names is
    'How many different names the slot has, no name not counted: 1 where some apps have that name and the others none.';
comment on column attr_audit.drift.names is
    '"region/sdk_app_id" to name; null: the app was asked and has no name in this slot.';

create view attr_audit.freshness as
select region, sdk_app_id, app_group, last_ok_at,
       now() - coalesce(last_ok_at, first_polled_at) as age,
       last_outcome, consecutive_failures
  from attr_audit.app
 where retired_at is null;

comment on view attr_audit.freshness is 'How old our knowledge of every app is, without retired ones.';
comment on column attr_audit.freshness.region is 'The app''s region.';
comment on column attr_audit.freshness.sdk_app_id is 'The app''s number.';
comment on column attr_audit.freshness.app_group is 'Apps that are meant to carry the same names.';
comment on column attr_audit.freshness.last_ok_at is
    'When the request of the last read that saw the present state was sent; null: never seen.';
comment on column attr_audit.freshness.age is 'Time since last_ok_at, or since the first attempt where there is none.';
comment on column attr_audit.freshness.last_outcome is 'What came of the newest poll.';
comment on column attr_audit.freshness.consecutive_failures is
    'Polls since the last good one that were neither ok nor late.';

create function attr_audit.coverage_gaps(longer_than interval default '1 hour')
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
         where p.outcome = 'ok'
    ), gap as (
        select g.region, g.sdk_app_id, g.confirmed_at as gap_from, g.next_asked_at as gap_to
          from good g
         where g.next_asked_at - g.confirmed_at > longer_than
        union all
        -- Still open: nothing good has come since, however long ago that was.
        select a.region, a.sdk_app_id, a.last_ok_at, null
          from attr_audit.app a
         where now() - a.last_ok_at > longer_than
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

comment on function attr_audit.coverage_gaps(interval) is
    'Where our knowledge has gaps: consecutive good polls of an app more than longer_than apart, from the request of the last read of one (gap_from) to the first request of the next (gap_to; null: still open, also of a retired app), and how many polls failed in between. As far back as poll is kept. An app that was never seen has no gap: see freshness.';

create view attr_audit.daily_changes as
select (c.seen_at at time zone 'UTC')::date as day, c.region, a.app_group, c.kind, count(*) as changes
  from attr_audit.change c
  join attr_audit.app a using (region, sdk_app_id)
 group by 1, 2, 3, 4;

comment on view attr_audit.daily_changes is 'Changes by day, region, app group and kind.';
comment on column attr_audit.daily_changes.day is 'UTC date of seen_at.';
comment on column attr_audit.daily_changes.region is 'The app''s region.';
comment on column attr_audit.daily_changes.app_group is 'Apps that are meant to carry the same names.';
comment on column attr_audit.daily_changes.kind is 'baseline, added, renamed, removed or retyped.';
comment on column attr_audit.daily_changes.changes is 'How many.';

create function attr_audit.verify_chain()
    returns table (region text, sdk_app_id bigint, rows_checked bigint, ok boolean,
                   first_bad_seq bigint, head_seq bigint, head_hash bytea)
    language sql stable parallel safe
begin atomic
    with checked as (
        select c.region, c.sdk_app_id, c.seq, c.row_hash,
               c.seq = row_number() over chain
               and c.prev_hash is not distinct from lag(c.row_hash) over chain
               and c.row_hash = sha256(convert_to(attr_audit.change_canonical(c), 'UTF8')) as good
          from attr_audit.change c
        window chain as (partition by c.region, c.sdk_app_id order by c.seq)
    ), chains as (
        select k.region, k.sdk_app_id, count(*) as rows_checked,
               min(k.seq) filter (where not k.good) as first_bad_seq, max(k.seq) as head_seq
          from checked k
         group by k.region, k.sdk_app_id
    )
    select coalesce(a.region, h.region), coalesce(a.sdk_app_id, h.sdk_app_id),
           coalesce(h.rows_checked, 0), h.first_bad_seq is null,
           h.first_bad_seq, h.head_seq, c.row_hash
      from attr_audit.app a
      full join chains h on h.region = a.region and h.sdk_app_id = a.sdk_app_id
      left join attr_audit.change c
        on c.region = h.region and c.sdk_app_id = h.sdk_app_id and c.seq = h.head_seq;
end;

comment on function attr_audit.verify_chain() is
    'Recomputes every app''s chain: ok, or the first seq whose row does not follow from the one before. What a consistent rewrite, a cut tail or a dropped app hides here, `im-attr-audit verify` finds against heads that were witnessed outside.';

revoke all on function
    attr_audit.names_as_of(timestamptz), attr_audit.coverage_gaps(interval), attr_audit.verify_chain()
    from public;
grant execute on function
    attr_audit.names_as_of(timestamptz), attr_audit.coverage_gaps(interval), attr_audit.verify_chain()
    to attr_audit_writer, attr_audit_reader;
grant select on attr_audit.name_history, attr_audit.current_names, attr_audit.drift,
    attr_audit.freshness, attr_audit.daily_changes to attr_audit_writer, attr_audit_reader;
