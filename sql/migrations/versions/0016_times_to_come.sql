-- Until a task corrects what was recorded while the database's clock was ahead, no view shows a time that
-- has not come: a change that is dated in the future was seen by now. And the bounds of a window are computed
-- once for each app instead of for each of its polls. Only functions and views are replaced, so nobody waits
-- for a lock.

create function attr_audit_internal.correction()
    returns table (region text, sdk_app_id bigint, found_at timestamptz, ok_at timestamptz,
                   wrong_seen_at timestamptz[], is_waiting boolean)
    language sql stable parallel safe
begin atomic
    select k.region, k.sdk_app_id, k.found_at, k.ok_at, k.wrong_seen_at, false as is_waiting
      from attr_audit.clock_correction k
     union all
    -- A tick ago: it is not in a window that begins now.
    select c.region, c.sdk_app_id, now() - interval '1 microsecond',
           coalesce(attr_audit_internal.trusted_ok_at(c.region, c.sdk_app_id, now()),
                    '1970-01-01 00:00:00+00'),
           array_agg(c.seen_at), true
      from attr_audit.change c
     where c.seen_at > now() + interval '1 minute'
       and not exists (select from attr_audit.clock_correction k
                        where k.region = c.region and k.sdk_app_id = c.sdk_app_id
                          and c.seen_at = any(k.wrong_seen_at))
     group by c.region, c.sdk_app_id;
end;
comment on function attr_audit_internal.correction() is
    'The corrections, and of each app with changes dated in the future that no task has corrected yet, the one that would be made now (is_waiting).';

create or replace function attr_audit_internal.change_seen()
    returns table (region text, sdk_app_id bigint, seq bigint, slot smallint, kind text, old_name text,
                   new_name text, old_type smallint, new_type smallint, is_baseline boolean,
                   not_before timestamptz, possible_from timestamptz, seen_at timestamptz,
                   recorded_seen_at timestamptz, poll_id bigint, dag_run_id text, change_id bigint,
                   row_hash bytea)
    language sql stable parallel safe
begin atomic
    select u.region, u.sdk_app_id, u.seq, u.slot, u.kind, u.old_name, u.new_name, u.old_type, u.new_type,
           u.is_baseline, u.not_before, u.possible_from, u.seen_at, u.recorded_seen_at, u.poll_id,
           u.dag_run_id, u.change_id, u.row_hash
      from (select c.region, c.sdk_app_id, c.seq, c.slot, c.kind, c.old_name, c.new_name, c.old_type,
                   c.new_type, c.is_baseline, c.not_before,
                   coalesce(c.not_before, c.prior_ok_at) as possible_from, c.seen_at,
                   c.seen_at as recorded_seen_at, c.poll_id, c.dag_run_id, c.change_id, c.row_hash,
                   false as is_corrected
              from attr_audit.change c
             union all
            select c.region, c.sdk_app_id, c.seq, c.slot, c.kind, c.old_name, c.new_name, c.old_type,
                   c.new_type, c.is_baseline,
                   case when c.not_before > k.ok_at then k.ok_at else c.not_before end,
                   least(coalesce(c.not_before, c.prior_ok_at), k.ok_at), k.found_at,
                   c.seen_at, c.poll_id, c.dag_run_id, c.change_id, c.row_hash, true
              from attr_audit_internal.correction() k
              join attr_audit.change c
                on c.region = k.region and c.sdk_app_id = k.sdk_app_id
               and c.seen_at = any(k.wrong_seen_at)) u
     where not exists (select from attr_audit_internal.correction() k
                        where k.region = u.region and k.sdk_app_id = u.sdk_app_id
                          and u.recorded_seen_at = any(k.wrong_seen_at) and not u.is_corrected);
end;

create or replace function attr_audit_internal.name_span()
    returns table (region text, sdk_app_id bigint, slot smallint, name text, possible_from timestamptz,
                   valid_from timestamptz, certain_to timestamptz, valid_to timestamptz)
    language sql stable parallel safe
begin atomic
    select c.region, c.sdk_app_id, c.slot, c.old_name as name,
           coalesce(case when c.old_not_before > k.ok_at then k.ok_at else c.old_not_before end,
                    (select case when o.prior_ok_at > w.ok_at then w.ok_at else o.prior_ok_at end
                       from attr_audit.change o
                       left join attr_audit_internal.correction() w
                         on w.region = o.region and w.sdk_app_id = o.sdk_app_id
                        and o.seen_at = any(w.wrong_seen_at)
                      where o.slot = c.slot and o.region = c.region and o.sdk_app_id = c.sdk_app_id
                        and o.seq < c.seq
                      order by o.seq desc limit 1), '-infinity') as possible_from,
           least(c.old_seen_at, k.found_at) as valid_from,
           case when k.is_waiting
                then least(coalesce(c.not_before, c.prior_ok_at), k.ok_at, a.seen_to)
                when c.new_name = c.old_name then coalesce(k.found_at, c.seen_at)
                else least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) end as certain_to,
           coalesce(k.found_at, c.seen_at) as valid_to
      from attr_audit.change c
      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
      left join attr_audit_internal.correction() k
        on k.region = c.region and k.sdk_app_id = c.sdk_app_id and c.seen_at = any(k.wrong_seen_at)
     where c.old_name is not null
     union all
    select s.region, s.sdk_app_id, s.slot, s.name,
           coalesce(case when s.not_before > k.ok_at then k.ok_at else s.not_before end,
                    (select case when o.prior_ok_at > w.ok_at then w.ok_at else o.prior_ok_at end
                       from attr_audit.change o
                       left join attr_audit_internal.correction() w
                         on w.region = o.region and w.sdk_app_id = o.sdk_app_id
                        and o.seen_at = any(w.wrong_seen_at)
                      where o.slot = s.slot and o.region = s.region and o.sdk_app_id = s.sdk_app_id
                      order by o.seq desc limit 1), '-infinity'),
           coalesce(k.found_at, s.seen_at), a.seen_to, 'infinity'
      from attr_audit.snapshot s
      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
      left join attr_audit_internal.correction() k
        on k.region = s.region and k.sdk_app_id = s.sdk_app_id and s.seen_at = any(k.wrong_seen_at);
end;

create or replace view attr_audit.current_names as
select s.region, s.sdk_app_id, a.app_group, s.slot, s.name, s.attr_type,
       case when s.not_before > k.ok_at then k.ok_at else s.not_before end as not_before,
       coalesce(k.found_at, s.seen_at) as seen_at, coalesce(attr_audit_internal.ok_until_corrected(a), a.last_ok_at) as confirmed_at
  from attr_audit.snapshot s
  join attr_audit.app a using (region, sdk_app_id)
  left join attr_audit_internal.correction() k
    on k.region = s.region and k.sdk_app_id = s.sdk_app_id and s.seen_at = any(k.wrong_seen_at)
 where a.retired_at is null;

create or replace view attr_audit.name_history as
select h.region, h.sdk_app_id, g.app_group, h.slot, h.name, h.attr_type, h.possible_from,
       h.valid_from, 
       least(coalesce(h.certain_to, a.last_ok_at), attr_audit_internal.ok_until_corrected(a))
           as certain_to, h.valid_to
  from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
               case when c.old_not_before > k.ok_at then k.ok_at else c.old_not_before end as possible_from,
               least(c.old_seen_at, k.found_at) as valid_from,
               least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) as certain_to,
               coalesce(k.found_at, c.seen_at) as valid_to
          from attr_audit.change c
          left join attr_audit_internal.correction() k
            on k.region = c.region and k.sdk_app_id = c.sdk_app_id
           and c.seen_at = any(k.wrong_seen_at)
         where c.old_name is not null
         union all
        select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type,
               case when s.not_before > k.ok_at then k.ok_at else s.not_before end,
               coalesce(k.found_at, s.seen_at), null::timestamptz, null::timestamptz
          from attr_audit.snapshot s
          left join attr_audit_internal.correction() k
            on k.region = s.region and k.sdk_app_id = s.sdk_app_id
           and s.seen_at = any(k.wrong_seen_at)) h
  join attr_audit.app a using (region, sdk_app_id)
  join attr_audit_internal.stay() g
    on g.region = h.region and g.sdk_app_id = h.sdk_app_id
   and h.valid_from >= g.from_at and h.valid_from < g.to_at;

-- "offset 0": otherwise the bounds are computed again wherever they are used, for each poll several times.

create or replace function attr_audit.attest(from_at timestamptz, to_at timestamptz, app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, polls_good bigint,
                   polls_failed bigint, changes bigint, source_changes bigint,
                   longest_gap_seconds double precision, first_good_at timestamptz,
                   last_good_at timestamptz, head_seq bigint, head_hash text, verdict text)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id, g.polls_good,
           (select count(*) from attr_audit.poll f
             where f.region = p.region and f.sdk_app_id = p.sdk_app_id
               and f.requested_at >= p.lo and f.requested_at < p.hi
               and f.outcome not in ('ok', 'late')),
           c.changes, greatest(g.switches, c.sources),
           greatest(0, extract(epoch from least(g.first_at, p.hi) - p.lo),
                    extract(epoch from g.longest),
                    extract(epoch from p.hi - greatest(g.last_at, p.lo)))::double precision,
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
       greatest(0, extract(epoch from least(g.first_at, p.hi) - p.lo), extract(epoch from g.longest),
                extract(epoch from p.hi - greatest(g.last_at, p.lo)))::double precision
           as longest_gap_seconds,
       g.polls_good,
       (select count(*) from attr_audit.poll f
         where f.region = p.region and f.sdk_app_id = p.sdk_app_id
           and f.requested_at >= p.lo and f.requested_at < p.hi
           and f.outcome not in ('ok', 'late')) as polls_failed
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
  left join lateral (
       select range_agg(tstzrange(p.lo, p.hi) * tstzrange(l.gap_from, l.gap_to)) as gaps
         from attr_audit_internal.long_gaps(p.region, p.sdk_app_id, p.lo, p.hi) l) b on true
 cross join lateral (
       select count(*) filter (where a.asked_at >= p.lo and a.asked_at < p.hi) as polls_good,
              max(least(a.next_asked_at, p.hi) - greatest(a.confirmed_at, p.lo)) as longest,
              min(a.asked_at) as first_at, max(a.confirmed_at) as last_at
         from attr_audit_internal.polls_around(p.region, p.sdk_app_id, p.lo, p.hi) a) g;

revoke all on function attr_audit_internal.correction() from public;
grant execute on function attr_audit_internal.correction() to attr_audit_writer, attr_audit_reader;
