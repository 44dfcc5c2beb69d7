-- Good polls that changed nothing are most of poll. `retention --fold` keeps of such a month one row for
-- each app, with the time of every poll in it, and every question is answered from both as it was from
-- the polls. Only a table is added and functions are replaced, so nobody waits for a lock.

-- No foreign key to app: its locks on app would hold up recording as long as a month is being folded.
create table attr_audit.coverage (
    region        text not null,
    sdk_app_id    bigint not null,
    from_at       timestamptz not null,
    to_at         timestamptz not null,
    polls         bigint not null,
    polls_failed  bigint not null,
    longest_gap   interval,
    api           text not null,
    first_poll_id bigint not null,
    asked_us      bigint[] not null,
    confirmed_us  bigint[],
    folded_at     timestamptz not null default now(),
    primary key (region, sdk_app_id, from_at),
    constraint span_is_in_order check (to_at >= from_at),
    constraint every_poll_has_its_times check
        (asked_us[1] = 0 and cardinality(asked_us) = polls
         and (confirmed_us is null or cardinality(confirmed_us) = polls))
);
comment on table attr_audit.coverage is
    'Good polls of months that `retention --fold` folded: one row for each app, month (UTC) and API family, another one where the API family changed in between. Append-only; kept for good.';
comment on column attr_audit.coverage.region is 'The app''s region.';
comment on column attr_audit.coverage.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.coverage.from_at is
    'When the first request of the first poll was sent.';
comment on column attr_audit.coverage.to_at is 'When the first request of the last poll was sent.';
comment on column attr_audit.coverage.polls is 'How many good polls there were.';
comment on column attr_audit.coverage.polls_failed is
    'How many polls failed between from_at and to_at. Their rows are still in poll, as long as retention keeps them.';
comment on column attr_audit.coverage.longest_gap is
    'The longest time between two of the polls; null: there is only one.';
comment on column attr_audit.coverage.api is 'The vendor''s API family that the polls asked.';
comment on column attr_audit.coverage.first_poll_id is 'The lowest poll_id of the polls.';
comment on column attr_audit.coverage.asked_us is
    'When the first request of each poll was sent, in microseconds since from_at, in order.';
comment on column attr_audit.coverage.confirmed_us is
    'When the request of each poll''s last read was sent, in the same way; null: every poll took one read.';
comment on column attr_audit.coverage.folded_at is 'When the polls were folded.';

alter table attr_audit.poll add column is_folded boolean;
comment on column attr_audit.poll.is_folded is
    'True: a good poll of a folded month, so coverage has it as well; its row is kept because a change cites it. Null: it is in no row of coverage.';

create trigger append_only before update or delete or truncate on attr_audit.coverage
    for each statement execute function attr_audit_internal.refuse_rewriting();

create function attr_audit_internal.folded_polls(a_region text, an_sdk_app_id bigint,
                                                 a_span timestamptz)
    returns table (asked_at timestamptz, confirmed_at timestamptz, api text)
    language sql stable parallel safe
begin atomic
    select f.asked_at, f.confirmed_at, c.api
      from attr_audit.coverage c
     cross join lateral unnest(c.asked_us, coalesce(c.confirmed_us, c.asked_us)) u (asked_us, confirmed_us)
     cross join lateral (select c.from_at + u.asked_us * interval '1 microsecond' as asked_at,
                                c.from_at + u.confirmed_us * interval '1 microsecond' as confirmed_at) f
     where c.region = a_region and c.sdk_app_id = an_sdk_app_id and c.from_at = a_span
       and not exists (select from attr_audit.clock_correction k
                        where k.region = c.region and k.sdk_app_id = c.sdk_app_id
                          and f.asked_at > k.found_at and c.first_poll_id <= k.last_poll_id);
end;
comment on function attr_audit_internal.folded_polls(text, bigint, timestamptz) is
    'The good polls of a row of coverage, without those that were recorded under a wrong clock.';

-- Of rows only: what was recorded lately, and is read for every app, is not folded.
create or replace function attr_audit_internal.good_poll()
    returns table (region text, sdk_app_id bigint, poll_id bigint, api text, asked_at timestamptz,
                   confirmed_at timestamptz)
    language sql stable parallel safe
begin atomic
    select p.region, p.sdk_app_id, p.poll_id, p.api, p.requested_at as asked_at,
           coalesce(p.last_requested_at, p.requested_at) as confirmed_at
      from attr_audit.poll p
     where p.outcome = 'ok' and p.requested_at <= now() + interval '1 minute'
       and p.is_folded is not true
       and not exists (select from attr_audit.clock_correction k
                        where k.region = p.region and k.sdk_app_id = p.sdk_app_id
                          and p.requested_at > k.found_at and p.poll_id <= k.last_poll_id);
end;
comment on function attr_audit_internal.good_poll() is
    'Good polls that are not folded, without those recorded under a wrong clock: from its first request (asked_at) to the request of its last read (confirmed_at).';

create function attr_audit_internal.first_good_at(a_region text, an_sdk_app_id bigint)
    returns timestamptz
    language sql stable parallel safe
    return least((select g.asked_at from attr_audit_internal.good_poll() g
                   where g.region = a_region and g.sdk_app_id = an_sdk_app_id
                   order by g.asked_at limit 1),
                 (select f.asked_at
                    from attr_audit.coverage c
                   cross join lateral attr_audit_internal.folded_polls(
                              c.region, c.sdk_app_id, c.from_at) f
                   where c.region = a_region and c.sdk_app_id = an_sdk_app_id
                   order by c.from_at, f.asked_at limit 1));
comment on function attr_audit_internal.first_good_at(text, bigint) is
    'When the app''s first good poll was sent, folded or not; null: it has none.';

create or replace function attr_audit_internal.trusted_ok_at(a_region text, an_sdk_app_id bigint, until timestamptz)
    returns timestamptz
    language sql stable parallel safe set enable_seqscan = off
begin atomic
    select greatest(
        (select coalesce(p.last_requested_at, p.requested_at)
           from attr_audit.poll p
          where p.region = a_region and p.sdk_app_id = an_sdk_app_id and p.outcome = 'ok'
            and p.requested_at <= until
            and coalesce(p.last_requested_at, p.requested_at) <= until
            and not exists (select from attr_audit.clock_correction k
                             where k.region = a_region and k.sdk_app_id = an_sdk_app_id
                               and p.requested_at > k.found_at and p.poll_id <= k.last_poll_id)
          order by p.requested_at desc
          limit 1),
        (select f.confirmed_at
           from attr_audit.coverage c
          cross join lateral attr_audit_internal.folded_polls(c.region, c.sdk_app_id, c.from_at) f
          where c.region = a_region and c.sdk_app_id = an_sdk_app_id
            and c.from_at <= until and f.confirmed_at <= until
          order by c.from_at desc, f.asked_at desc
          limit 1));
end;

create or replace function attr_audit_internal.polls_around(a_region text, an_sdk_app_id bigint,
                                                 lo timestamptz, hi timestamptz)
    returns table (asked_at timestamptz, confirmed_at timestamptz, next_asked_at timestamptz,
                   api text, prior_api text)
    language sql stable parallel safe
begin atomic
    select p.asked_at, p.confirmed_at, lead(p.asked_at) over polls, p.api, lag(p.api) over polls
      from ((select b.asked_at, b.confirmed_at, b.api
               from ((select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
                       where g.region = a_region and g.sdk_app_id = an_sdk_app_id and g.asked_at < lo
                       order by g.asked_at desc limit 1)
                      union all
                     (select f.asked_at, f.confirmed_at, f.api
                        from attr_audit.coverage c
                       cross join lateral attr_audit_internal.folded_polls(
                                  c.region, c.sdk_app_id, c.from_at) f
                       where c.region = a_region and c.sdk_app_id = an_sdk_app_id
                         and c.from_at < lo and f.asked_at < lo
                       order by c.from_at desc, f.asked_at desc limit 1)) b
              order by b.asked_at desc limit 1)
             union all
            select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
             where g.region = a_region and g.sdk_app_id = an_sdk_app_id
               and g.asked_at >= lo and g.asked_at < hi
             union all
            select f.asked_at, f.confirmed_at, f.api
              from attr_audit.coverage c
             cross join lateral attr_audit_internal.folded_polls(c.region, c.sdk_app_id, c.from_at) f
             where c.region = a_region and c.sdk_app_id = an_sdk_app_id
               and c.from_at < hi and c.to_at >= lo and f.asked_at >= lo and f.asked_at < hi
             union all
            (select b.asked_at, b.confirmed_at, b.api
               from ((select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
                       where g.region = a_region and g.sdk_app_id = an_sdk_app_id and g.asked_at >= hi
                       order by g.asked_at limit 1)
                      union all
                     (select f.asked_at, f.confirmed_at, f.api
                        from attr_audit.coverage c
                       cross join lateral attr_audit_internal.folded_polls(
                                  c.region, c.sdk_app_id, c.from_at) f
                       where c.region = a_region and c.sdk_app_id = an_sdk_app_id
                         and c.to_at >= hi and f.asked_at >= hi
                       order by c.from_at, f.asked_at limit 1)) b
              order by b.asked_at limit 1)) p
    window polls as (order by p.asked_at);
end;

create or replace function attr_audit_internal.app_seen()
    returns table (region text, sdk_app_id bigint, first_polled_at timestamptz, seen_from timestamptz,
                   seen_to timestamptz, retired_at timestamptz)
    language sql stable parallel safe
begin atomic
    select a.region, a.sdk_app_id, a.first_polled_at,
           case when a.first_ok_at > now() + interval '1 minute'
                  or exists (select from attr_audit.clock_correction k
                              where k.region = a.region and k.sdk_app_id = a.sdk_app_id
                                and k.found_at = a.first_ok_at)
                then attr_audit_internal.first_good_at(a.region, a.sdk_app_id)
                else a.first_ok_at end as seen_from,
           case when a.last_ok_at <= now() + interval '1 minute' then a.last_ok_at
                when a.last_ok_at is not null
                then coalesce(attr_audit_internal.trusted_ok_at(a.region, a.sdk_app_id, now()),
                              '1970-01-01 00:00:00+00') end as seen_to,
           coalesce(a.retired_at, 'infinity') as retired_at
      from attr_audit.app a;
end;

-- The gaps of every kind are collected first and joined to the groups once.
create or replace function attr_audit.gaps(from_at timestamptz, to_at timestamptz,
                                longer_than interval default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.lo, g.hi, g.app_group, g.region, g.sdk_app_id,
           extract(epoch from g.hi - g.lo)::double precision, count(f.requested_at)
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
      left join attr_audit.poll f
        on f.region = g.region and f.sdk_app_id = g.sdk_app_id
       and f.requested_at >= g.lo and f.requested_at < g.hi
       and f.requested_at >= gaps.from_at and f.requested_at < gaps.to_at
       and f.outcome not in ('ok', 'late')
     where g.lo < g.hi
     group by g.lo, g.hi, g.app_group, g.region, g.sdk_app_id;
end;

-- As far back as poll is kept, also where it is folded.
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
     group by gap.region, gap.sdk_app_id, gap.gap_from, gap.gap_to;
end;

comment on view attr_audit.polls is
    'Every poll with its outcome and what to do about it, without those that retention folded (see coverage). Filter by requested_at, which is never null.';

grant select on attr_audit.coverage to attr_audit_writer, attr_audit_reader, attr_audit_sealer;
revoke all on function attr_audit_internal.folded_polls(text, bigint, timestamptz),
    attr_audit_internal.first_good_at(text, bigint) from public;
grant execute on function attr_audit_internal.folded_polls(text, bigint, timestamptz),
    attr_audit_internal.first_good_at(text, bigint)
    to attr_audit_writer, attr_audit_reader;
