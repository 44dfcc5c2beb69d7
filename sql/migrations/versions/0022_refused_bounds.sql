-- A question without a bound is refused whatever the other bound is. Where one was null and the other was
-- now(), the planner found that no row can match and never called is_window: attest and name_in_window gave
-- no rows, and gaps and coverage_gaps, without a longer_than, none either, as if nothing had been missed.
-- "offset 0", and the select in gaps, hide a null from the planner. Nothing is rewritten.

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
               and attr_audit_internal.is_window(pieces.from_at, pieces.to_at)) p;
end;

create or replace function attr_audit.gaps(from_at timestamptz, to_at timestamptz,
                                longer_than interval default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.lo, g.hi, g.app_group, g.region, g.sdk_app_id,
           extract(epoch from g.hi - g.lo)::double precision,
           (select count(*) from attr_audit.poll f
             where f.region = g.region and f.sdk_app_id = g.sdk_app_id
               and f.requested_at >= g.lo and f.requested_at < g.hi
               and f.requested_at >= gaps.from_at and f.requested_at < gaps.to_at
               and f.outcome not in ('ok', 'late'))
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
                     where longer_than < interval '1 hour'
                        or not attr_audit_internal.are_gaps_noted()
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
    select gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to, count(p.poll_id)
      from gap
      left join attr_audit.poll p
        on p.region = gap.region and p.sdk_app_id = gap.sdk_app_id
       and p.requested_at > gap.gap_from
       and (gap.gap_to is null or p.requested_at < gap.gap_to)
       and p.outcome not in ('ok', 'late')
     where attr_audit_internal.is_window('1970-01-01 00:00Z', '1970-01-02 00:00Z', longer_than)
     group by gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to;
end;
