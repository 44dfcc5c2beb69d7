-- Names and gaps are found by an index, and times given as text are parsed once. Only functions are
-- replaced, so nobody waits for a lock, except that an index of change is made here on a record without
-- changes; on another one `migrate` makes it afterwards, without blocking anybody
-- (im_attr_audit.record.upkeep.finish).

-- A name that was ever used is the old one of a change, or is still there. A baseline is not in this
-- index, and so costs nothing more.
do $$
begin
    if not exists (select from attr_audit.change) then
        create index if not exists change_by_old_name on attr_audit.change (old_name)
         where old_name is not null;
    end if;
end $$;

-- By sdk_app_id first: comparing numbers is several times as fast as comparing texts.
create or replace function attr_audit_internal.stay()
    returns table (region text, sdk_app_id bigint, app_group text, from_at timestamptz, to_at timestamptz)
    language sql stable parallel safe
begin atomic
    select m.region, m.sdk_app_id, m.app_group,
           case when row_number() over app > 1 then m.from_at else '-infinity' end as from_at,
           coalesce(lead(m.from_at) over app, 'infinity') as to_at
      from (select r.region, r.sdk_app_id, r.app_group, r.from_at as written_at,
                   coalesce(k.found_at, case when r.from_at > now() + interval '1 minute' then now()
                                             else r.from_at end) as from_at
              from attr_audit.membership r
              left join attr_audit.clock_correction k
                on k.region = r.region and k.sdk_app_id = r.sdk_app_id
               and r.from_at = any(k.wrong_from_at)) m
    window app as (partition by m.sdk_app_id, m.region order by m.from_at, m.written_at);
end;

-- "texteq", "is not true": the planner takes equal regions and equal numbers for independent, and would
-- expect so few rows that it looked up the app of each row by its index.
create or replace function attr_audit.names_as_of(at timestamptz)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, g.app_group, n.slot, n.name, n.attr_type,
           at <= least(coalesce(least(n.certain_to, k.ok_at), a.last_ok_at),
                       attr_audit_internal.ok_until_corrected(a))
      -- "is true": not to be looked up by change_by_seen_at, whose rows lie all over the table.
      from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
                   coalesce(c.not_before, c.prior_ok_at) as certain_to, c.seen_at
              from attr_audit.change c
             where c.span_class = 0 and c.span_from > at - interval '1 hour' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 1 and c.span_from > at - interval '4 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 2 and c.span_from > at - interval '16 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 3 and c.span_from > at - interval '64 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 4 and c.span_from > at - interval '256 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 5 and c.span_from > at - interval '1024 hours' and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select c.region, c.sdk_app_id, c.slot, c.old_name, c.old_type,
                   coalesce(c.not_before, c.prior_ok_at), c.seen_at
              from attr_audit.change c
             where c.span_class = 6 and c.span_from <= at
               and (c.seen_at > at) is true and (c.old_name is not null or c.span_from < at)
             union all
            select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, null::timestamptz,
                   null::timestamptz
              from attr_audit.snapshot s
              left join attr_audit.clock_correction w
                on w.region = s.region and w.sdk_app_id = s.sdk_app_id
               and s.seen_at = any(w.wrong_seen_at)
             where coalesce(w.found_at, s.seen_at) <= at) n
      join attr_audit.app a using (region, sdk_app_id)
      join attr_audit_internal.stay() g
        on texteq(g.region, n.region) and g.sdk_app_id = n.sdk_app_id
       and (at < g.from_at) is not true and (at >= g.to_at) is not true
      left join attr_audit.clock_correction k
        on k.region = n.region and k.sdk_app_id = n.sdk_app_id
       and n.seen_at = any(k.wrong_seen_at)
     where (k.found_at <= at) is not true;
end;

-- The failed polls of each gap are counted without grouping all gaps again.
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
             where w.gap_to - w.gap_from > longer_than
               and attr_audit_internal.is_window(gaps.from_at, gaps.to_at, longer_than)) g
     where g.lo < g.hi;
end;

-- "offset 0": the text is parsed once and not for every row that is read.
create or replace function attr_audit.names_as_of(at text)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, n.app_group, n.slot, n.name, n.attr_type, n.certain
      from (select names_as_of.at::timestamptz as at offset 0) t
     cross join lateral attr_audit.names_as_of(t.at) n;
end;

create or replace function attr_audit.gaps(from_at text, to_at text, longer_than text default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.gap_from, g.gap_to, g.app_group, g.region, g.sdk_app_id, g.seconds, g.polls_failed
      from (select gaps.from_at::timestamptz as from_at, gaps.to_at::timestamptz as to_at,
                   gaps.longer_than::interval as longer_than offset 0) t
     cross join lateral attr_audit.gaps(t.from_at, t.to_at, t.longer_than) g;
end;
