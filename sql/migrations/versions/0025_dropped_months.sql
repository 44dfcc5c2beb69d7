-- What retention has dropped is not known any more, and is null instead of 0: the failed polls of a window
-- that reaches back before the oldest month of poll, and the good ones where a month of it was not folded.
-- A month that was dropped without being folded, between two that were, is no gap. An app that was in a
-- group for no time at all (it was regrouped twice under a wrong clock) is in no window of that group.
-- Only functions and a view are replaced.

create function attr_audit_internal.polls_kept_since() returns timestamptz
    language sql stable parallel safe
begin atomic
    select min(substring(pg_get_expr(c.relpartbound, c.oid) from 'FROM \(''(.+?)''\)')::timestamptz)
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'attr_audit.poll'::regclass and not i.inhdetachpending;
end;
comment on function attr_audit_internal.polls_kept_since() is 'When the oldest month begins of which poll still has rows.';

create function attr_audit_internal.lacks_polls(a_region text, an_sdk_app_id bigint,
                                                lo timestamptz, hi timestamptz)
    returns boolean
    language sql stable parallel safe
begin atomic
    select exists (select from attr_audit.app a
                    where a.region = a_region and a.sdk_app_id = an_sdk_app_id
                      and greatest(lo, a.first_polled_at)
                          < least(hi, attr_audit_internal.polls_kept_since()));
end;
comment on function attr_audit_internal.lacks_polls(text, bigint, timestamptz, timestamptz) is
    'Whether the app was polled within a window in a month that retention has dropped.';

create function attr_audit_internal.lacks_good_polls(a_region text, an_sdk_app_id bigint,
                                                     lo timestamptz, hi timestamptz)
    returns boolean
    language sql stable parallel safe
begin atomic
    select exists (select from attr_audit.app a
                    cross join lateral generate_series(
                              date_trunc('month', greatest(lo, a.first_polled_at) at time zone 'UTC'),
                              least(hi, attr_audit_internal.polls_kept_since()) at time zone 'UTC'
                                  - interval '1 microsecond', interval '1 month') m (month)
                    where a.region = a_region and a.sdk_app_id = an_sdk_app_id
                      and not exists (
                          select from attr_audit.coverage c
                           where c.region = a.region and c.sdk_app_id = a.sdk_app_id
                             and c.from_at >= m.month at time zone 'UTC'
                             and c.from_at < (m.month + interval '1 month') at time zone 'UTC'));
end;
comment on function attr_audit_internal.lacks_good_polls(text, bigint, timestamptz, timestamptz) is
    'Whether the app was polled within a window in a month that retention has dropped and that was not folded.';

-- Between two months that were folded, one that was not may have been dropped: what was seen in it is not
-- known. The gaps of more than an hour were noted when the polls were recorded.
create function attr_audit_internal.is_gap(a_region text, an_sdk_app_id bigint,
                                           gap_from timestamptz, gap_to timestamptz)
    returns boolean
    language sql stable parallel safe
    return gap_from >= (select attr_audit_internal.polls_kept_since())
           or gap_to - gap_from <= interval '1 hour'
           or exists (select from attr_audit_internal.noted_gaps(a_region, an_sdk_app_id, is_gap.gap_from,
                                                                 is_gap.gap_to) n
                       where n.gap_from = is_gap.gap_from and n.gap_to = is_gap.gap_to);
comment on function attr_audit_internal.is_gap(text, bigint, timestamptz, timestamptz) is
    'Whether the time between two good polls is a gap, and not a month that retention has dropped.';

revoke all on function attr_audit_internal.polls_kept_since(),
    attr_audit_internal.lacks_polls(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.lacks_good_polls(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.is_gap(text, bigint, timestamptz, timestamptz) from public;
grant execute on function attr_audit_internal.polls_kept_since(),
    attr_audit_internal.lacks_polls(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.lacks_good_polls(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.is_gap(text, bigint, timestamptz, timestamptz)
    to attr_audit_writer, attr_audit_reader;

create or replace function attr_audit_internal.pieces(from_at timestamptz, to_at timestamptz, a_group text)
    returns table (app_group text, region text, sdk_app_id bigint, span tstzrange, unseen tstzmultirange)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id, p.span,
           tstzmultirange(p.span) - case when p.seen_from < p.seen_to
                                         then tstzmultirange(tstzrange(p.seen_from, p.seen_to))
                                         else '{}' end
      from (select s.app_group, s.region, s.sdk_app_id, a.seen_from, a.seen_to,
                   tstzrange(greatest(s.from_at, w.from_at), least(s.to_at, w.to_at)) as span
              from (select pieces.from_at, pieces.to_at offset 0) w
             cross join attr_audit_internal.stay() s
              join attr_audit_internal.app_seen() a using (region, sdk_app_id)
             where (a_group is null or s.app_group = a_group)
               and s.from_at < w.to_at and s.to_at > w.from_at
               and a.retired_at > w.from_at
               and attr_audit_internal.is_window(pieces.from_at, pieces.to_at)) p
     where not isempty(p.span);
end;

create or replace function attr_audit.gaps(from_at timestamptz, to_at timestamptz,
                                longer_than interval default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.lo, g.hi, g.app_group, g.region, g.sdk_app_id,
           extract(epoch from g.hi - g.lo)::double precision,
           case when g.lo >= (select attr_audit_internal.polls_kept_since())
                then (select count(*) from attr_audit.poll f
                  where f.region = g.region and f.sdk_app_id = g.sdk_app_id
                    and f.requested_at >= g.lo and f.requested_at < g.hi
                    and f.requested_at >= gaps.from_at and f.requested_at < gaps.to_at
                    and f.outcome not in ('ok', 'late')) end
      from (select s.app_group, w.region, w.sdk_app_id,
                   greatest(w.gap_from, s.from_at, gaps.from_at) as lo,
                   least(w.gap_to, s.to_at, gaps.to_at, now()) as hi
              from (select n.region, n.sdk_app_id, n.gap_from, n.gap_to
                      from attr_audit_internal.noted_gaps(null, null, gaps.from_at, gaps.to_at) n
                     where longer_than >= interval '1 hour'
                       and n.gap_to <= now() + interval '1 minute'
                       and not exists (select from attr_audit.clock_correction k
                                        where k.region = n.region and k.sdk_app_id = n.sdk_app_id
                                          and n.gap_to > k.found_at and n.poll_id <= k.last_poll_id)
                     union all
                    select a.region, a.sdk_app_id, p.confirmed_at, p.next_asked_at
                      from attr_audit.app a
                     cross join lateral attr_audit_internal.polls_around(
                               a.region, a.sdk_app_id, gaps.from_at, gaps.to_at) p
                     where (longer_than < interval '1 hour' or not attr_audit_internal.are_gaps_noted())
                       and attr_audit_internal.is_gap(a.region, a.sdk_app_id, p.confirmed_at, p.next_asked_at)
                     union all
                    select a.region, a.sdk_app_id, a.first_polled_at,
                           case when a.seen_from is null then now()
                                else least(a.seen_from, attr_audit_internal.first_good_at(
                                                a.region, a.sdk_app_id)) end
                      -- First a test of each app that costs nothing, whose clocks nobody corrected.
                      from (select b.region, b.sdk_app_id from attr_audit.app b
                             where b.first_polled_at < gaps.to_at
                               and ((b.first_ok_at > gaps.from_at
                                     and b.first_ok_at - b.first_polled_at > longer_than) is not false
                                    or (b.region, b.sdk_app_id) in (
                                        select k.region, k.sdk_app_id from attr_audit.clock_correction k))
                            offset 0) b
                      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
                     where (a.seen_from > gaps.from_at) is not false
                       and (a.seen_from - a.first_polled_at > longer_than) is not false
                     union all
                    select a.region, a.sdk_app_id, a.seen_to, now()
                      from attr_audit_internal.app_seen() a
                     where a.seen_to < gaps.to_at) w
              join attr_audit_internal.stay() s using (region, sdk_app_id)
             where w.gap_to - w.gap_from > (select gaps.longer_than)
               and attr_audit_internal.is_window(gaps.from_at, gaps.to_at, longer_than)) g
     where g.lo < g.hi;
end;

create or replace function attr_audit.attest(from_at timestamptz, to_at timestamptz, app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, polls_good bigint,
                   polls_failed bigint, changes bigint, source_changes bigint,
                   longest_gap_seconds double precision, first_good_at timestamptz,
                   last_good_at timestamptz, head_seq bigint, head_hash text, verdict text)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id,
           case when not d.lacks_good_polls then g.polls_good end,
           case when not d.lacks_polls
                then (select count(*) from attr_audit.poll f
                  where f.region = p.region and f.sdk_app_id = p.sdk_app_id
                    and f.requested_at >= p.lo and f.requested_at < p.hi
                    and f.outcome not in ('ok', 'late')) end,
           c.changes, greatest(g.switches, c.sources),
           case when not d.lacks_good_polls
                then greatest(0, extract(epoch from least(g.first_at, p.hi) - p.lo),
                              extract(epoch from g.longest),
                              extract(epoch from p.hi - greatest(g.last_at, p.lo)))::double precision end,
           coalesce(g.good_before, g.first_at), coalesce(g.good_after, g.last_asked_at),
           h.seq, encode(h.row_hash, 'hex'),
           case when c.changes > 0 then 'changed'
                when greatest(g.switches, c.sources) > 0 then 'source changed'
                when g.polls_good = 0
                     and (g.good_before is null or g.good_after is null or g.widest > interval '1 hour')
                then 'not watched'
                when g.good_before is not null and g.good_after is not null
                     and coalesce(g.widest, interval '0') <= interval '1 hour'
                     and not g.other_source_after and not c.may_have_changed
                then 'unchanged'
                else 'no change seen, with gaps' end
      from (select q.app_group, q.region, q.sdk_app_id, lower(q.span) as lo, upper(q.span) as hi
              from attr_audit_internal.pieces(attest.from_at, attest.to_at, $3) q
            offset 0) p
     cross join lateral (
           select k.is_old and attr_audit_internal.lacks_polls(p.region, p.sdk_app_id, p.lo, p.hi) as lacks_polls,
                  k.is_old and attr_audit_internal.lacks_good_polls(p.region, p.sdk_app_id, p.lo, p.hi)
                      as lacks_good_polls
             from (select p.lo < (select attr_audit_internal.polls_kept_since()) as is_old) k
           offset 0) d
     cross join lateral (
           select count(*) filter (where a.asked_at >= p.lo and a.asked_at < p.hi) as polls_good,
                  count(*) filter (where a.asked_at >= p.lo and a.asked_at < p.hi
                                     and a.api <> a.prior_api) as switches,
                  coalesce(bool_or(a.asked_at >= p.hi and a.api <> a.prior_api), false)
                      as other_source_after,
                  max(least(a.next_asked_at, p.hi) - greatest(a.confirmed_at, p.lo)) as longest,
                  max(a.next_asked_at - a.confirmed_at)
                      filter (where a.confirmed_at < p.hi and a.next_asked_at > p.lo) as widest,
                  min(a.asked_at) as first_at, max(a.asked_at) as last_asked_at,
                  max(a.confirmed_at) as last_at,
                  max(a.asked_at) filter (where a.asked_at <= p.lo) as good_before,
                  min(a.asked_at) filter (where a.asked_at >= p.hi) as good_after
             from attr_audit_internal.polls_around(p.region, p.sdk_app_id, p.lo, p.hi) a) g
     cross join lateral (
           select count(*) filter (where not s.is_baseline and s.seen_at < p.hi) as changes,
                  count(distinct s.poll_id) filter (where s.is_baseline
                      and s.possible_from is not null
                      and s.old_name is distinct from s.new_name) as sources,
                  coalesce(bool_or(s.seen_at >= p.hi), false) as may_have_changed
             from attr_audit_internal.change_seen() s
            where s.region = p.region and s.sdk_app_id = p.sdk_app_id
              -- "or": by the app's chain, not by an index of times, where every other app's are, too.
              and (s.seen_at >= p.lo and s.seen_at < p.hi
                   -- Seen after the window: it may have happened in it.
                   or not s.is_baseline and s.possible_from < p.hi and s.seen_at >= p.hi)) c
      left join lateral (
           select s.seq, s.row_hash from attr_audit_internal.change_seen() s
            where s.region = p.region and s.sdk_app_id = p.sdk_app_id and s.seen_at < p.hi
            order by s.seq desc limit 1) h on true;
end;

create or replace view attr_audit.coverage_by_month as
select p.month, p.app_group, p.region, p.sdk_app_id,
       100 - 100 * attr_audit_internal.seconds(
           coalesce(b.gaps, '{}') + p.unseen) / extract(epoch from p.hi - p.lo)::double precision
           as covered_pct,
       case when not d.lacks_good_polls
            then greatest(0, extract(epoch from least(g.first_at, p.hi) - p.lo),
                          extract(epoch from g.longest),
                          extract(epoch from p.hi - greatest(g.last_at, p.lo)))::double precision
            end as longest_gap_seconds,
       case when not d.lacks_good_polls then g.polls_good end as polls_good,
       case when not d.lacks_polls
            then (select count(*) from attr_audit.poll f
              where f.region = p.region and f.sdk_app_id = p.sdk_app_id
                and f.requested_at >= p.lo and f.requested_at < p.hi
                and f.outcome not in ('ok', 'late')) end as polls_failed
  from (select q.month::date as month, s.app_group, a.region, a.sdk_app_id, q.lo, q.hi,
               tstzmultirange(tstzrange(q.lo, q.hi)) * (
                   case when (a.seen_from - a.first_polled_at > interval '1 hour') is not false
                        then tstzmultirange(tstzrange(a.first_polled_at, a.seen_from)) else '{}' end
                   + case when now() - a.seen_to > interval '1 hour'
                          then tstzmultirange(tstzrange(a.seen_to, null)) else '{}' end) as unseen
          from attr_audit_internal.app_seen() a
         cross join lateral generate_series(
                   date_trunc('month', a.first_polled_at at time zone 'UTC'),
                   least(a.retired_at, now()) at time zone 'UTC', interval '1 month') m (month)
          join attr_audit_internal.stay() s using (region, sdk_app_id)
         cross join lateral (
               select m.month,
                      greatest(m.month at time zone 'UTC', a.first_polled_at, s.from_at) as lo,
                      least((m.month + interval '1 month') at time zone 'UTC', s.to_at, a.retired_at,
                            now()) as hi
               offset 0) q
         where q.lo < q.hi) p
 cross join lateral (
       select k.is_old and attr_audit_internal.lacks_polls(p.region, p.sdk_app_id, p.lo, p.hi) as lacks_polls,
              k.is_old and attr_audit_internal.lacks_good_polls(p.region, p.sdk_app_id, p.lo, p.hi)
                  as lacks_good_polls
         from (select p.lo < (select attr_audit_internal.polls_kept_since()) as is_old) k
       offset 0) d
  left join lateral (
       select range_agg(tstzrange(p.lo, p.hi) * tstzrange(l.gap_from, l.gap_to)) as gaps
         from attr_audit_internal.long_gaps(p.region, p.sdk_app_id, p.lo, p.hi) l) b on true
 cross join lateral (
       select count(*) filter (where a.asked_at >= p.lo and a.asked_at < p.hi) as polls_good,
              max(least(a.next_asked_at, p.hi) - greatest(a.confirmed_at, p.lo)) as longest,
              min(a.asked_at) as first_at, max(a.confirmed_at) as last_at
         from attr_audit_internal.polls_around(p.region, p.sdk_app_id, p.lo, p.hi) a) g;

create or replace function attr_audit.coverage_gaps(longer_than interval default '1 hour')
    returns table (region text, sdk_app_id bigint, gap_from timestamptz, gap_to timestamptz,
                   polls_failed bigint)
    language sql stable parallel safe
begin atomic
    with good as (
        select g.region, g.sdk_app_id, g.confirmed_at,
               lead(g.asked_at) over (partition by g.region, g.sdk_app_id
                                      order by g.asked_at) as next_asked_at
          from (select q.region, q.sdk_app_id, q.asked_at, q.confirmed_at
                  from attr_audit_internal.good_poll() q
                 union all
                select c.region, c.sdk_app_id, f.asked_at, f.confirmed_at
                  from attr_audit.coverage c
                 cross join lateral attr_audit_internal.folded_polls(
                            c.region, c.sdk_app_id, c.from_at) f) g
    ), gap as (
        select g.region, g.sdk_app_id, g.confirmed_at as gap_from, g.next_asked_at as gap_to
          from good g
         where g.next_asked_at - g.confirmed_at > longer_than
           and attr_audit_internal.is_gap(g.region, g.sdk_app_id, g.confirmed_at, g.next_asked_at)
        union all
        -- Still open: nothing good has come since, however long ago that was.
        select a.region, a.sdk_app_id, a.ok_at, null
          from (select b.region, b.sdk_app_id,
                       case when b.last_ok_at <= now() + interval '1 minute' then b.last_ok_at
                            when b.last_ok_at is not null
                            then coalesce(attr_audit_internal.trusted_ok_at(b.region, b.sdk_app_id, now()),
                                          '1970-01-01 00:00:00+00') end as ok_at
                  from attr_audit.app b) a
         where now() - a.ok_at > longer_than
    )
    select gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to,
           case when gap.gap_from >= (select attr_audit_internal.polls_kept_since())
                then count(p.poll_id) end
      from gap
      left join attr_audit.poll p
        on p.region = gap.region and p.sdk_app_id = gap.sdk_app_id
       and p.requested_at > gap.gap_from
       and (gap.gap_to is null or p.requested_at < gap.gap_to)
       and p.outcome not in ('ok', 'late')
     where attr_audit_internal.is_window('1970-01-01 00:00Z', '1970-01-02 00:00Z', longer_than)
     group by gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to;
end;

comment on column attr_audit.coverage_by_month.polls_good is
    'The number of good polls; null: the month was dropped without being folded.';
comment on column attr_audit.coverage_by_month.polls_failed is
    'The number of failed polls, late ones not counted; null: retention has dropped the month''s polls.';
comment on column attr_audit.coverage_by_month.longest_gap_seconds is
    'The longest time in the month without a good poll; null: the month was dropped without being folded.';
comment on function attr_audit.gaps(timestamptz, timestamptz, interval) is
    'When the names of an app were not known, within a window: consecutive good polls more than longer_than apart, from the request of the last read of one to the first request of the next; also from the first poll to the first good one, and from the last good poll until now (for retired apps, too). Each gap is cut to the window and to the app''s time in its group, so that seconds can be added up; longer_than applies to the whole gap. gap_from and gap_to are never null: a gap that is still open ends now, and the future is not a gap. polls_failed counts the failed polls within gap_from and gap_to (null: it begins in a month that retention has dropped). An app that had no poll in the window and was first polled later is not listed. An empty window, or one without a bound, is an error.';
comment on function attr_audit.attest(timestamptz, timestamptz, text) is
    'Whether anything changed in a window: one row for every app that was in the group in the window (of every group where app_group is null). An app that changed its group in the window has a row for each stay, and the row covers that part of the window only. changes counts the changes whose seen_at is in the window, baselines left out; source_changes counts good polls that asked another API family than the good poll before. longest_gap_seconds: the longest time in the window without a good poll, its beginning, its end and the future included. first_good_at: the newest good poll at or before the window''s begin, else the first one after it; last_good_at: the oldest good poll at or after the window''s end, else the last one before it; null: the app has none. head_seq and head_hash: the newest change seen before the window''s end (null: none). verdict: changed; source changed (another source was read, so nothing is known to have changed); unchanged (good polls at or before the begin and at or after the end, never more than an hour apart in between, and no change can have happened in the window); not watched (no good poll in the window, which no gap of at most an hour explains); no change seen, with gaps (everything else: also a change seen just after the window that can have happened in it). Where retention has dropped a month of the window, polls_failed is null; where that month was not folded, polls_good and longest_gap_seconds are null too, and the verdict counts none of its polls. An empty window, or one without a bound, is an error.';
comment on function attr_audit.coverage_gaps(interval) is
    'Consecutive good polls of an app that are more than longer_than apart. A gap begins with the request of the last read of one good poll (gap_from) and ends with the first request of the next (gap_to; null: still open, also for a retired app). polls_failed counts the failed polls in between (null: it begins in a month that retention has dropped). It reaches back as far as poll is kept, and into months that were folded. An app without any good poll has no gap: see freshness.';
comment on column attr_audit.seal.marks is
    'The first bytes of each row''s leaf hash, polls first, then changes, then planned targets: 16 of a poll and 4 of the others (4 of each in seals of earlier versions). By them `verify` names a row that is not as it was sealed, and checks the polls that remain of a folded month.';
