-- One relation for each question an analyst asks: windows of time, changes, polls, episodes of drift.
-- Nothing here reads or rewrites a large table, and no lock on poll or change is held for longer than a
-- moment. Two indexes and the gaps of earlier polls are made after this step, outside its transaction
-- (im_attr_audit.record.upkeep.migrate).

-- What every question needs --------------------------------------------------------------------

create function attr_audit_internal.is_window(from_at timestamptz, to_at timestamptz,
                                              longer_than interval default '0') returns boolean
    language plpgsql immutable parallel safe as $$
begin
    if from_at is null or to_at is null then
        raise exception 'from_at and to_at must not be null' using errcode = 'null_value_not_allowed';
    elsif not isfinite(from_at) or not isfinite(to_at) then
        raise exception 'from_at and to_at must be finite times'
            using errcode = 'invalid_parameter_value';
    elsif from_at >= to_at then
        raise exception 'the window is empty: from_at (%) must be before to_at (%)', from_at, to_at
            using errcode = 'invalid_parameter_value';
    elsif longer_than is null then
        raise exception 'longer_than must not be null' using errcode = 'null_value_not_allowed';
    end if;
    return true;
end $$;
comment on function attr_audit_internal.is_window(timestamptz, timestamptz, interval) is
    'True. Raises an error for a window that is empty, endless or not given, where every answer would mislead.';

create function attr_audit_internal.seconds(spans tstzmultirange) returns double precision
    language sql immutable parallel safe
begin atomic
    select coalesce(sum(extract(epoch from upper(s) - lower(s))), 0)::double precision
      from unnest(spans) s;
end;
comment on function attr_audit_internal.seconds(tstzmultirange) is
    'The total length of the spans in seconds.';

create function attr_audit_internal.stay()
    returns table (region text, sdk_app_id bigint, app_group text, from_at timestamptz, to_at timestamptz)
    language sql stable parallel safe
begin atomic
    select m.region, m.sdk_app_id, m.app_group,
           case when row_number() over app > 1 then m.from_at else '-infinity' end as from_at,
           coalesce(lead(m.from_at) over app, 'infinity') as to_at
      from attr_audit.membership m
    window app as (partition by m.region, m.sdk_app_id order by m.from_at);
end;
comment on function attr_audit_internal.stay() is
    'From when to when an app was in a group. Its first group counts for the time before it was polled, too.';

create function attr_audit_internal.good_poll()
    returns table (region text, sdk_app_id bigint, poll_id bigint, api text, asked_at timestamptz,
                   confirmed_at timestamptz)
    language sql stable parallel safe
begin atomic
    select p.region, p.sdk_app_id, p.poll_id, p.api, p.requested_at as asked_at,
           coalesce(p.last_requested_at, p.requested_at) as confirmed_at
      from attr_audit.poll p
     where p.outcome = 'ok' and p.requested_at <= now() + interval '1 minute'
       and not exists (select from attr_audit.clock_correction k
                        where k.region = p.region and k.sdk_app_id = p.sdk_app_id
                          and p.requested_at > k.found_at and p.poll_id <= k.last_poll_id);
end;
comment on function attr_audit_internal.good_poll() is
    'Good polls without those recorded under a wrong clock: from its first request (asked_at) to the request of its last read (confirmed_at).';

create function attr_audit_internal.app_seen()
    returns table (region text, sdk_app_id bigint, first_polled_at timestamptz, seen_from timestamptz,
                   seen_to timestamptz, retired_at timestamptz)
    language sql stable parallel safe
begin atomic
    select a.region, a.sdk_app_id, a.first_polled_at,
           case when exists (select from attr_audit.clock_correction k
                              where k.region = a.region and k.sdk_app_id = a.sdk_app_id
                                and k.found_at = a.first_ok_at)
                then (select g.asked_at from attr_audit_internal.good_poll() g
                       where g.region = a.region and g.sdk_app_id = a.sdk_app_id
                       order by g.asked_at limit 1)
                else a.first_ok_at end as seen_from,
           case when a.last_ok_at <= now() + interval '1 minute' then a.last_ok_at
                when a.last_ok_at is not null
                then attr_audit_internal.trusted_ok_at(a.region, a.sdk_app_id, now()) end as seen_to,
           coalesce(a.retired_at, 'infinity') as retired_at
      from attr_audit.app a;
end;
comment on function attr_audit_internal.app_seen() is
    'Apps with the first and the last time at which their names are known (null: never); retired_at is infinity where it is not retired.';

-- The closing change of a span holds what began it, except the last good poll before a baseline: that is
-- in the change that opened the span, the slot's previous one.
create function attr_audit_internal.name_span()
    returns table (region text, sdk_app_id bigint, slot smallint, name text, possible_from timestamptz,
                   valid_from timestamptz, certain_to timestamptz, valid_to timestamptz)
    language sql stable parallel safe
begin atomic
    select c.region, c.sdk_app_id, c.slot, c.old_name as name,
           coalesce(case when c.old_not_before > k.ok_at then k.ok_at else c.old_not_before end,
                    (select case when o.prior_ok_at > w.ok_at then w.ok_at else o.prior_ok_at end
                       from attr_audit.change o
                       left join attr_audit.clock_correction w
                         on w.region = o.region and w.sdk_app_id = o.sdk_app_id
                        and o.seen_at = any(w.wrong_seen_at)
                      where o.slot = c.slot and o.region = c.region and o.sdk_app_id = c.sdk_app_id
                        and o.seq < c.seq
                      order by o.seq desc limit 1), '-infinity') as possible_from,
           least(c.old_seen_at, k.found_at) as valid_from,
           case when c.new_name = c.old_name then coalesce(k.found_at, c.seen_at)
                else least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) end as certain_to,
           coalesce(k.found_at, c.seen_at) as valid_to
      from attr_audit.change c
      left join attr_audit.clock_correction k
        on k.region = c.region and k.sdk_app_id = c.sdk_app_id and c.seen_at = any(k.wrong_seen_at)
     where c.old_name is not null
     union all
    select s.region, s.sdk_app_id, s.slot, s.name,
           coalesce(case when s.not_before > k.ok_at then k.ok_at else s.not_before end,
                    (select case when o.prior_ok_at > w.ok_at then w.ok_at else o.prior_ok_at end
                       from attr_audit.change o
                       left join attr_audit.clock_correction w
                         on w.region = o.region and w.sdk_app_id = o.sdk_app_id
                        and o.seen_at = any(w.wrong_seen_at)
                      where o.slot = s.slot and o.region = s.region and o.sdk_app_id = s.sdk_app_id
                      order by o.seq desc limit 1), '-infinity'),
           coalesce(k.found_at, s.seen_at), a.seen_to, 'infinity'
      from attr_audit.snapshot s
      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
      left join attr_audit.clock_correction k
        on k.region = s.region and k.sdk_app_id = s.sdk_app_id and s.seen_at = any(k.wrong_seen_at);
end;
comment on function attr_audit_internal.name_span() is
    'As name_history, without a null: a span of the first good poll is possible since -infinity, one that is still open is possible to infinity. A change of type alone does not interrupt what is certain.';

-- The first part is one table, so that a condition on the view reaches its indexes; what was recorded under
-- a wrong clock is taken out of it afterwards and has its trusted bounds in the second part.
create function attr_audit_internal.change_seen()
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
              from attr_audit.clock_correction k
              join attr_audit.change c
                on c.region = k.region and c.sdk_app_id = k.sdk_app_id
               and c.seen_at = any(k.wrong_seen_at)) u
     where not exists (select from attr_audit.clock_correction k
                        where k.region = u.region and k.sdk_app_id = u.sdk_app_id
                          and u.recorded_seen_at = any(k.wrong_seen_at) and not u.is_corrected);
end;
comment on function attr_audit_internal.change_seen() is
    'Changes with the bounds that can be trusted where they were recorded under a wrong clock (as name_history).';

-- Gaps of more than an hour ------------------------------------------------------------------------

-- Between two polls of one app lie those of every other app: without a table of gaps a question about a
-- week would read every poll of it.
create table attr_audit_internal.noted_gap (
    region     text not null,
    sdk_app_id bigint not null,
    gap_from   timestamptz not null,
    gap_to     timestamptz not null,
    poll_id    bigint not null,
    primary key (region, sdk_app_id, gap_from),
    constraint a_gap_is_longer_than_an_hour check (gap_to - gap_from > interval '1 hour')
);
create index noted_gap_by_time on attr_audit_internal.noted_gap using gist (tstzrange(gap_from, gap_to));
comment on table attr_audit_internal.noted_gap is
    'Derived from poll: consecutive good polls of an app that are more than an hour apart. Kept for good.';
comment on column attr_audit_internal.noted_gap.region is 'The app''s region.';
comment on column attr_audit_internal.noted_gap.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit_internal.noted_gap.gap_from is
    'When the request of the last read of the good poll before was sent.';
comment on column attr_audit_internal.noted_gap.gap_to is
    'When the first request of the good poll after it was sent.';
comment on column attr_audit_internal.noted_gap.poll_id is 'The good poll after it; 0: last_ok_at was moved without one.';

-- Written once: from then on noted_gap holds the gaps of every poll.
create table attr_audit_internal.gaps_noted (
    since timestamptz primary key default now()
);
comment on table attr_audit_internal.gaps_noted is
    'A row: noted_gap is complete. No row: `migrate` has not yet noted the gaps of earlier polls.';
comment on column attr_audit_internal.gaps_noted.since is 'When that was found.';

create function attr_audit_internal.note_gap() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    good record;
begin
    if exists (select from attr_audit.clock_correction k
                where k.region = old.region and k.sdk_app_id = old.sdk_app_id
                  and k.found_at = old.first_ok_at and k.ok_at = old.last_ok_at) then
        return null;  -- no good poll before this one has a time that can be trusted
    end if;
    select g.asked_at, g.poll_id into good
      from attr_audit_internal.good_poll() g
     where g.region = new.region and g.sdk_app_id = new.sdk_app_id
       and g.asked_at > old.last_ok_at and g.asked_at <= new.last_ok_at
     order by g.asked_at limit 1;
    insert into attr_audit_internal.noted_gap (region, sdk_app_id, gap_from, gap_to, poll_id)
    select new.region, new.sdk_app_id, old.last_ok_at, coalesce(good.asked_at, new.last_ok_at),
           coalesce(good.poll_id, 0)
     where coalesce(good.asked_at, new.last_ok_at) - old.last_ok_at > interval '1 hour'
        on conflict (region, sdk_app_id, gap_from) do update
       set gap_to = excluded.gap_to, poll_id = excluded.poll_id;
    return null;
end $$;
comment on function attr_audit_internal.note_gap() is
    'Keeps noted_gap: a good poll has moved the app''s last_ok_at by more than an hour.';

-- On app, whose last_ok_at tells by a comparison whether there was a gap: a look-up for every row of
-- poll would cost a tenth of recording it.
create trigger note_gap after update of last_ok_at on attr_audit.app
    for each row when (new.last_ok_at - old.last_ok_at > interval '1 hour')
    execute function attr_audit_internal.note_gap();

create function attr_audit_internal.note_earlier_gaps() returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from attr_audit_internal.gaps_noted) then
        return false;
    end if;
    insert into attr_audit_internal.noted_gap (region, sdk_app_id, gap_from, gap_to, poll_id)
    select g.region, g.sdk_app_id, g.gap_from, g.gap_to, g.poll_id
      from (select p.region, p.sdk_app_id, lag(p.confirmed_at) over polls as gap_from,
                   p.asked_at as gap_to, p.poll_id
              from attr_audit_internal.good_poll() p
            window polls as (partition by p.region, p.sdk_app_id order by p.asked_at)) g
     where g.gap_to - g.gap_from > interval '1 hour'
        on conflict do nothing;
    insert into attr_audit_internal.gaps_noted default values;
    return true;
end $$;
comment on function attr_audit_internal.note_earlier_gaps() is
    'Notes the gaps between polls that were recorded before the trigger was there; false if that is done.';

-- A new database has none.
insert into attr_audit_internal.gaps_noted
select now() where not exists (select from attr_audit.poll);

create function attr_audit_internal.polls_around(a_region text, an_sdk_app_id bigint,
                                                 lo timestamptz, hi timestamptz)
    returns table (asked_at timestamptz, confirmed_at timestamptz, next_asked_at timestamptz,
                   api text, prior_api text)
    language sql stable parallel safe
begin atomic
    select p.asked_at, p.confirmed_at, lead(p.asked_at) over polls, p.api, lag(p.api) over polls
      from ((select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
              where g.region = a_region and g.sdk_app_id = an_sdk_app_id and g.asked_at < lo
              order by g.asked_at desc limit 1)
             union all
            select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
             where g.region = a_region and g.sdk_app_id = an_sdk_app_id
               and g.asked_at >= lo and g.asked_at < hi
             union all
            (select g.asked_at, g.confirmed_at, g.api from attr_audit_internal.good_poll() g
              where g.region = a_region and g.sdk_app_id = an_sdk_app_id and g.asked_at >= hi
              order by g.asked_at limit 1)) p
    window polls as (order by p.asked_at);
end;
comment on function attr_audit_internal.polls_around(text, bigint, timestamptz, timestamptz) is
    'The good polls of an app in a window, the last one before it and the first one after it.';

-- Functions, since the reader has no rights in attr_audit_internal but to call what it needs.
create function attr_audit_internal.are_gaps_noted() returns boolean
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select exists (select from attr_audit_internal.gaps_noted);
end;
comment on function attr_audit_internal.are_gaps_noted() is 'Whether noted_gap is complete.';

create function attr_audit_internal.noted_gaps(a_region text, an_sdk_app_id bigint,
                                               from_at timestamptz, to_at timestamptz)
    returns table (region text, sdk_app_id bigint, gap_from timestamptz, gap_to timestamptz,
                   poll_id bigint)
    language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if not attr_audit_internal.are_gaps_noted() then
        return;
    elsif a_region is null then
        return query
        select n.region, n.sdk_app_id, n.gap_from, n.gap_to, n.poll_id
          from attr_audit_internal.noted_gap n
         where tstzrange(n.gap_from, n.gap_to) && tstzrange(noted_gaps.from_at, noted_gaps.to_at);
    else
        return query
        select n.region, n.sdk_app_id, n.gap_from, n.gap_to, n.poll_id
          from attr_audit_internal.noted_gap n
         where n.region = a_region and n.sdk_app_id = an_sdk_app_id
           and n.gap_from < noted_gaps.to_at and n.gap_to > noted_gaps.from_at;
    end if;
end $$;
comment on function attr_audit_internal.noted_gaps(text, bigint, timestamptz, timestamptz) is
    'The rows of noted_gap in a window, of one app or (region null) of all; none until it is complete.';

create function attr_audit_internal.long_gaps(a_region text, an_sdk_app_id bigint,
                                              from_at timestamptz, to_at timestamptz)
    returns table (gap_from timestamptz, gap_to timestamptz)
    language sql stable parallel safe
begin atomic
    select n.gap_from, n.gap_to
      from attr_audit_internal.noted_gaps(a_region, an_sdk_app_id, long_gaps.from_at,
                                          long_gaps.to_at) n
     where n.gap_to <= now() + interval '1 minute'
       and not exists (select from attr_audit.clock_correction k
                        where k.region = n.region and k.sdk_app_id = n.sdk_app_id
                          and n.gap_to > k.found_at and n.poll_id <= k.last_poll_id)
     union all
    select p.confirmed_at, p.next_asked_at
      from attr_audit_internal.polls_around(a_region, an_sdk_app_id, long_gaps.from_at,
                                            long_gaps.to_at) p
     where not attr_audit_internal.are_gaps_noted()
       and p.next_asked_at - p.confirmed_at > interval '1 hour';
end;
comment on function attr_audit_internal.long_gaps(text, bigint, timestamptz, timestamptz) is
    'The gaps of more than an hour between good polls of an app that reach into a window, without polls recorded under a wrong clock.';

-- Where the polls do not show the names ----------------------------------------------------------

create function attr_audit.gaps(from_at timestamptz, to_at timestamptz,
                                longer_than interval default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.lo, g.hi, g.app_group, g.region, g.sdk_app_id,
           extract(epoch from g.hi - g.lo)::double precision, count(f.requested_at)
      from (select w.app_group, w.region, w.sdk_app_id,
                   greatest(w.gap_from, w.from_at, gaps.from_at) as lo,
                   least(w.gap_to, w.to_at, gaps.to_at, now()) as hi
              from (select s.*, n.gap_from, n.gap_to
                      from attr_audit_internal.stay() s
                      join attr_audit_internal.noted_gaps(null, null, gaps.from_at, gaps.to_at) n
                           using (region, sdk_app_id)
                     where longer_than >= interval '1 hour'
                       and n.gap_to <= now() + interval '1 minute'
                       and not exists (select from attr_audit.clock_correction k
                                        where k.region = n.region and k.sdk_app_id = n.sdk_app_id
                                          and n.gap_to > k.found_at and n.poll_id <= k.last_poll_id)
                     union all
                    -- Shorter ones are not noted anywhere.
                    select s.*, p.confirmed_at, p.next_asked_at
                      from attr_audit_internal.stay() s
                     cross join lateral attr_audit_internal.polls_around(
                               s.region, s.sdk_app_id, gaps.from_at, gaps.to_at) p
                     where longer_than < interval '1 hour'
                        or not attr_audit_internal.are_gaps_noted()
                     union all
                    -- Not seen yet.
                    select s.*, a.first_polled_at,
                           case when a.seen_from is null then now()
                                else least(a.seen_from, g.asked_at) end
                      from attr_audit_internal.stay() s
                      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
                      left join lateral (select q.asked_at from attr_audit_internal.good_poll() q
                                          where q.region = a.region and q.sdk_app_id = a.sdk_app_id
                                          order by q.asked_at limit 1) g on true
                     where a.first_polled_at < gaps.to_at
                       and (a.seen_from > gaps.from_at) is not false
                       and (a.seen_from - a.first_polled_at > longer_than) is not false
                     union all
                    -- Not seen since.
                    select s.*, a.seen_to, now()
                      from attr_audit_internal.stay() s
                      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
                     where a.seen_to < gaps.to_at) w
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
comment on function attr_audit.gaps(timestamptz, timestamptz, interval) is
    'When the names of an app were not known, within a window: consecutive good polls more than longer_than apart, from the request of the last read of one to the first request of the next; also from the first poll to the first good one, and from the last good poll until now (for retired apps, too). Each gap is cut to the window and to the app''s time in its group, so that seconds can be added up; longer_than applies to the whole gap. gap_from and gap_to are never null: a gap that is still open ends now, and the future is not a gap. polls_failed counts the failed polls within gap_from and gap_to. An app that had no poll in the window and was first polled later is not listed. An empty window, or one without a bound, is an error.';

-- Was the name there, did anything change ----------------------------------------------------------

create function attr_audit_internal.pieces(from_at timestamptz, to_at timestamptz, a_group text)
    returns table (app_group text, region text, sdk_app_id bigint, span tstzrange, unseen tstzmultirange)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id, p.span,
           tstzmultirange(p.span) - case when p.seen_from < p.seen_to
                                         then tstzmultirange(tstzrange(p.seen_from, p.seen_to))
                                         else '{}' end
      from (select s.app_group, s.region, s.sdk_app_id, a.seen_from, a.seen_to,
                   tstzrange(greatest(s.from_at, pieces.from_at), least(s.to_at, pieces.to_at)) as span
              from attr_audit_internal.stay() s
              join attr_audit_internal.app_seen() a using (region, sdk_app_id)
             where (a_group is null or s.app_group = a_group)
               and s.from_at < pieces.to_at and s.to_at > pieces.from_at
               and a.retired_at > pieces.from_at
               and attr_audit_internal.is_window(pieces.from_at, pieces.to_at)) p;
end;
comment on function attr_audit_internal.pieces(timestamptz, timestamptz, text) is
    'The apps of a window, each with the part of it in which it was in the group (span), and where in it nothing is known: before its first good poll and after its last one (unseen).';

create function attr_audit.name_in_window(name text, from_at timestamptz, to_at timestamptz,
                                          app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, slots smallint[],
                   certain_pct double precision, possible_pct double precision,
                   blind_seconds double precision, verdict text)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id, coalesce(n.slots, '{}'),
           100 * attr_audit_internal.seconds(v.certain) / v.seconds,
           100 * attr_audit_internal.seconds(v.possible) / v.seconds,
           attr_audit_internal.seconds(v.blind),
           case when p.span <@ v.certain and isempty(v.blind) then 'yes'
                when not isempty(v.certain) and p.span <@ v.possible then 'yes, with gaps'
                when not isempty(v.certain) then 'partly'
                when not isempty(v.possible) then 'unknown'
                else 'no' end
      from attr_audit_internal.pieces(name_in_window.from_at, name_in_window.to_at, $4) p
      left join lateral (
           select array_agg(distinct s.slot order by s.slot) as slots,
                  range_agg(p.span * case when s.valid_from < s.certain_to
                                          then tstzrange(s.valid_from, s.certain_to)
                                          else 'empty' end) as certain,
                  range_agg(p.span * tstzrange(least(s.possible_from, s.valid_from), s.valid_to))
                      as possible
             from attr_audit_internal.name_span() s
            where s.region = p.region and s.sdk_app_id = p.sdk_app_id and s.name = $1
              and tstzrange(least(s.possible_from, s.valid_from), s.valid_to) && p.span) n on true
      left join lateral (
           select range_agg(p.span * tstzrange(g.gap_from, g.gap_to)) as blind
             from attr_audit_internal.long_gaps(p.region, p.sdk_app_id, lower(p.span),
                                                upper(p.span)) g) b on true
     cross join lateral (
           select coalesce(n.certain, '{}') as certain,
                  coalesce(n.possible, '{}') + p.unseen as possible,
                  coalesce(b.blind, '{}') + p.unseen as blind,
                  extract(epoch from upper(p.span) - lower(p.span))::double precision as seconds) v;
end;
comment on function attr_audit.name_in_window(text, timestamptz, timestamptz, text) is
    'Whether apps had the name in a window, whatever the slot: one row for every app that was in the group in the window (of every group where app_group is null), also for apps that never had the name. An app that changed its group in the window has a row for each stay, and the row covers that part of the window only. certain_pct: the share of the window in which the polls on both sides show the name. possible_pct: also between the bounds of the changes that brought or removed it, and where nothing is known: before the app''s first good poll, after its last one, in the future. blind_seconds: where nobody looked, that is where nothing is known and gaps of more than an hour between good polls. verdict: yes (certain in all of the window, no blind part); yes, with gaps (never contradicted); partly (certain at some time, certainly absent at another); no (certainly absent throughout); unknown (never certain, not excluded: also an app that was not polled yet). slots: where it was or can have been seen; empty if nowhere. Names are compared exactly. An empty window, or one without a bound, is an error.';

create function attr_audit.attest(from_at timestamptz, to_at timestamptz, app_group text default null)
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
              from attr_audit_internal.pieces(attest.from_at, attest.to_at, $3) q) p
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
comment on function attr_audit.attest(timestamptz, timestamptz, text) is
    'Whether anything changed in a window: one row for every app that was in the group in the window (of every group where app_group is null). An app that changed its group in the window has a row for each stay, and the row covers that part of the window only. changes counts the changes whose seen_at is in the window, baselines left out; source_changes counts good polls that asked another API family than the good poll before. longest_gap_seconds: the longest time in the window without a good poll, its beginning, its end and the future included. first_good_at: the newest good poll at or before the window''s begin, else the first one after it; last_good_at: the oldest good poll at or after the window''s end, else the last one before it; null: the app has none. head_seq and head_hash: the newest change seen before the window''s end (null: none). verdict: changed; source changed (another source was read, so nothing is known to have changed); unchanged (good polls at or before the begin and at or after the end, never more than an hour apart in between, and no change can have happened in the window); not watched (no good poll in the window, which no gap of at most an hour explains); no change seen, with gaps (everything else: also a change seen just after the window that can have happened in it). An empty window, or one without a bound, is an error.';

-- Text arguments (as in the step before).

create function attr_audit.gaps(from_at text, to_at text, longer_than text default '1 hour')
    returns table (gap_from timestamptz, gap_to timestamptz, app_group text, region text,
                   sdk_app_id bigint, seconds double precision, polls_failed bigint)
    language sql stable parallel safe
begin atomic
    select g.gap_from, g.gap_to, g.app_group, g.region, g.sdk_app_id, g.seconds, g.polls_failed
      from attr_audit.gaps(from_at::timestamptz, to_at::timestamptz, longer_than::interval) g;
end;
comment on function attr_audit.gaps(text, text, text) is
    'The same for times and an interval given as text, as JDBC and psycopg send them. Without an offset a time is in the session''s time zone.';

create function attr_audit.name_in_window(name text, from_at text, to_at text,
                                          app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, slots smallint[],
                   certain_pct double precision, possible_pct double precision,
                   blind_seconds double precision, verdict text)
    language sql stable parallel safe
begin atomic
    select w.app_group, w.region, w.sdk_app_id, w.slots, w.certain_pct, w.possible_pct,
           w.blind_seconds, w.verdict
      from attr_audit.name_in_window($1, from_at::timestamptz, to_at::timestamptz, $4) w;
end;
comment on function attr_audit.name_in_window(text, text, text, text) is
    'The same for times given as text, as JDBC and psycopg send them. Without an offset a time is in the session''s time zone.';

create function attr_audit.attest(from_at text, to_at text, app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, polls_good bigint,
                   polls_failed bigint, changes bigint, source_changes bigint,
                   longest_gap_seconds double precision, first_good_at timestamptz,
                   last_good_at timestamptz, head_seq bigint, head_hash text, verdict text)
    language sql stable parallel safe
begin atomic
    select a.app_group, a.region, a.sdk_app_id, a.polls_good, a.polls_failed, a.changes,
           a.source_changes, a.longest_gap_seconds, a.first_good_at, a.last_good_at, a.head_seq,
           a.head_hash, a.verdict
      from attr_audit.attest(from_at::timestamptz, to_at::timestamptz, $3) a;
end;
comment on function attr_audit.attest(text, text, text) is
    'The same for times given as text, as JDBC and psycopg send them. Without an offset a time is in the session''s time zone.';

-- Changes and polls -----------------------------------------------------------------------------

create view attr_audit.changes as
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
       null::text as verdict, null::text as reviewer, null::text as ticket,
       null::timestamptz as reviewed_at, c.dag_run_id, c.poll_id, c.seq, c.change_id,
       encode(c.row_hash, 'hex') as row_hash
  from attr_audit_internal.change_seen() c
  join attr_audit_internal.stay() s
    on s.region = c.region and s.sdk_app_id = c.sdk_app_id
   and c.seen_at >= s.from_at and c.seen_at < s.to_at
 where not c.is_baseline;

comment on view attr_audit.changes is
    'Every change of a name or type, baselines left out. Filter by seen_at, which is never null. The change happened between not_before and seen_at.';
comment on column attr_audit.changes.seen_at is
    'When the answer of the first read that saw the new state arrived. Never null.';
comment on column attr_audit.changes.not_before is
    'When the request of the last read that saw the old state was sent. Never null here.';
comment on column attr_audit.changes.app_group is 'The group in which the app was at seen_at.';
comment on column attr_audit.changes.region is 'The app''s region.';
comment on column attr_audit.changes.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.changes.slot is 'The attribute''s number.';
comment on column attr_audit.changes.kind is
    'added, renamed, removed; retyped: same name, both types known and different.';
comment on column attr_audit.changes.old_name is 'The name before; null: the slot had none.';
comment on column attr_audit.changes.new_name is 'The name after; null: the slot has none.';
comment on column attr_audit.changes.old_type is 'The type before; null: unknown.';
comment on column attr_audit.changes.new_type is 'The type after; null: unknown.';
comment on column attr_audit.changes.lookalike is
    'Why the new name of a renamed slot looks like the old one: case, whitespace, normalization, confusable (UTS 39); null: it does not, or the slot was not renamed.';
comment on column attr_audit.changes.moved_from_slot is
    'The slot which the new name left in the same poll (the lowest one if there are several); null: it left none.';
comment on column attr_audit.changes.declared is
    'Whether the new name is as declared at that time; null: nothing was declared then.';
comment on column attr_audit.changes.detect_seconds is
    'From not_before to seen_at: the change was there at most so long before it was seen.';
comment on column attr_audit.changes.verdict is 'The last review: expected or not_expected; null: not reviewed.';
comment on column attr_audit.changes.reviewer is 'The Airflow user of the last review; null: not reviewed.';
comment on column attr_audit.changes.ticket is 'The ticket of the last review; null: none.';
comment on column attr_audit.changes.reviewed_at is 'When it was last reviewed; null: not reviewed.';
comment on column attr_audit.changes.dag_run_id is 'The Airflow run that recorded it.';
comment on column attr_audit.changes.poll_id is 'The poll that recorded it.';
comment on column attr_audit.changes.seq is
    '1, 2, 3 … per app, baselines counted too: with region and sdk_app_id the cursor of incremental readers.';
comment on column attr_audit.changes.change_id is 'Number of the row in change. Not a cursor.';
comment on column attr_audit.changes.row_hash is 'The row''s hash in the app''s chain, hexadecimal.';

-- On the parent alone, which takes a moment: `migrate` makes it on partitions with rows afterwards,
-- without blocking anybody. New partitions have it from the beginning.
create index poll_late on only attr_audit.poll (region, sdk_app_id, requested_at) where outcome = 'late';
do $$
declare
    part     name;
    has_rows boolean;
begin
    for part in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
                 where i.inhparent = 'attr_audit.poll'::regclass and not i.inhdetachpending loop
        execute format('select exists (select from attr_audit_internal.%I)', part) into has_rows;
        if not has_rows then
            execute format('create index %I on attr_audit_internal.%I (region, sdk_app_id, requested_at) '
                           'where outcome = ''late''', part || '_late', part);
            execute format('alter index attr_audit.poll_late attach partition attr_audit_internal.%I',
                           part || '_late');
        end if;
    end loop;
end $$;

-- Three parts, each with an index of its own, and a join of its own, so that a group reaches it.
create view attr_audit.polls as
select p.requested_at, p.app_group, p.region, p.sdk_app_id, p.outcome, p.outcome = 'ok' as is_good,
       extract(epoch from p.responded_at - p.requested_at)::double precision as seconds, p.reads,
       p.error_code, coalesce(k.meaning, f.meaning, o.meaning) as meaning,
       coalesce(k.advice, f.advice, o.advice) as advice, p.dag_run_id, p.try_number, p.poll_id
  from (select p.*, s.app_group
          from attr_audit.poll p
          left join attr_audit_internal.stay() s
            on s.region = p.region and s.sdk_app_id = p.sdk_app_id
           and p.requested_at >= s.from_at and p.requested_at < s.to_at
         where p.outcome = 'ok'
         union all
        select p.*, s.app_group
          from attr_audit.poll p
          left join attr_audit_internal.stay() s
            on s.region = p.region and s.sdk_app_id = p.sdk_app_id
           and p.requested_at >= s.from_at and p.requested_at < s.to_at
         where p.outcome not in ('ok', 'late')
         union all
        select p.*, s.app_group
          from attr_audit.poll p
          left join attr_audit_internal.stay() s
            on s.region = p.region and s.sdk_app_id = p.sdk_app_id
           and p.requested_at >= s.from_at and p.requested_at < s.to_at
         where p.outcome = 'late') p
  left join attr_audit_internal.error_code k on k.code = p.error_code
  left join attr_audit_internal.error_code_family f
    on k.code is null and p.error_code <> 0 and p.error_code between f.first_code and f.last_code
  left join attr_audit_internal.outcome o
    on coalesce(k.code, f.first_code) is null and o.outcome = p.outcome;

comment on view attr_audit.polls is
    'Every poll with its outcome and what to do about it. Filter by requested_at, which is never null.';
comment on column attr_audit.polls.requested_at is
    'When the first request was sent; if none was sent, when the poll was made. Never null.';
comment on column attr_audit.polls.app_group is
    'The group in which the app was at requested_at; null: misconfigured, so the app is unknown.';
comment on column attr_audit.polls.region is 'The app''s region; null only if misconfigured.';
comment on column attr_audit.polls.sdk_app_id is 'The app''s SDKAppID; null only if misconfigured.';
comment on column attr_audit.polls.outcome is 'The poll''s outcome (see poll.outcome).';
comment on column attr_audit.polls.is_good is 'True if the poll saw the names: its outcome is ok. Never null.';
comment on column attr_audit.polls.seconds is
    'From the first request to the last answer, the wait before a confirming read included; null: nothing was sent.';
comment on column attr_audit.polls.reads is 'How many reads the poll took.';
comment on column attr_audit.polls.error_code is 'The vendor''s ErrorCode; null: it gave none.';
comment on column attr_audit.polls.meaning is 'What the error code means; without a code, what the outcome means. Never null.';
comment on column attr_audit.polls.advice is 'What to do about it; null: nothing.';
comment on column attr_audit.polls.dag_run_id is 'The Airflow run of the poll.';
comment on column attr_audit.polls.try_number is 'The task''s try, 1 for the first.';
comment on column attr_audit.polls.poll_id is 'Number of the poll.';

-- When the apps of a group had different names -----------------------------------------------------

-- For each group and slot a sweep over the times at which something was seen: how many apps are known,
-- how many of them have a name, and how many different names those are. Everything of one time counts
-- together. One group at a time, so that a filter by group reads that group only.
create view attr_audit.drift_episodes as
select e.began_at as began_seen_at, e.began_not_before, e.ended_not_before,
       e.ended_at as ended_seen_at, g.app_group, e.slot, e.region as first_region,
       e.sdk_app_id as first_sdk_app_id, e.name as first_name,
       extract(epoch from coalesce(e.ended_at, now()) - e.began_at)::double precision as seconds
  from (select distinct m.app_group from attr_audit.membership m) g
 cross join lateral (
    with member as materialized (
        select s.region, s.sdk_app_id, greatest(s.from_at, a.seen_from) as from_at,
               least(s.to_at, a.retired_at) as to_at,
               case when s.from_at >= a.seen_from then s.from_at end as not_before
          from attr_audit_internal.stay() s
          join attr_audit_internal.app_seen() a using (region, sdk_app_id)
         where s.app_group = g.app_group
           and greatest(s.from_at, a.seen_from) < least(s.to_at, a.retired_at)
           and a.seen_from is not null
    ), named as materialized (
        select n.slot, m.region, m.sdk_app_id, n.name, greatest(n.valid_from, m.from_at) as from_at,
               least(n.valid_to, m.to_at) as to_at,
               case when n.valid_from < m.from_at then m.from_at
                    else nullif(n.possible_from, '-infinity') end as from_not_before,
               case when n.valid_to > m.to_at then m.to_at else n.certain_to end as to_not_before
          from member m
         -- Not a join: one app at a time, by the indexes.
         cross join lateral (select q.* from attr_audit_internal.name_span() q
                              where q.region = m.region and q.sdk_app_id = m.sdk_app_id
                             offset 0) n
         where greatest(n.valid_from, m.from_at) < least(n.valid_to, m.to_at)
    ), event as materialized (
        select slot, from_at as at, region, sdk_app_id, name, 1 as names, 0 as apps,
               from_not_before as not_before
          from named
         union all
        select slot, to_at, region, sdk_app_id, name, -1, 0, to_not_before
          from named where to_at < 'infinity'
         union all
        select s.slot, m.from_at, m.region, m.sdk_app_id, null, 0, 1, m.not_before
          from member m cross join (select distinct slot from named) s
         union all
        select s.slot, m.to_at, m.region, m.sdk_app_id, null, 0, -1, m.to_at
          from member m cross join (select distinct slot from named) s
         where m.to_at < 'infinity'
    ), kind as (
        -- A name appears with its first app and disappears with its last one.
        select n.slot, n.at,
               (n.now_has > 0)::integer - (n.now_has - n.names > 0)::integer as kinds
          from (select v.slot, v.at, sum(v.names) as names,
                       sum(sum(v.names)) over (partition by v.slot, v.name order by v.at) as now_has
                  from event v where v.name is not null
                 group by v.slot, v.name, v.at) n
    ), state as (
        select t.slot, t.at,
               sum(sum(t.kinds)) over swept > 1
               or sum(sum(t.kinds)) over swept = 1
                  and sum(sum(t.names)) over swept < sum(sum(t.apps)) over swept as drifts
          from (select slot, at, names, apps, 0 as kinds from event
                 union all
                select slot, at, 0, 0, kinds from kind) t
         group by t.slot, t.at
        window swept as (partition by t.slot order by t.at)
    ), turn as (
        select t.slot, t.at, t.drifts, lead(t.at) over (partition by t.slot order by t.at) as ended_at
          from (select s.*, lag(s.drifts, 1, false) over (partition by s.slot order by s.at) as drifted
                  from state s) t
         where t.drifts <> t.drifted
    ), cause as (
        -- What each app did at a time: it came or left, or its slot got another name.
        select v.slot, v.at, v.region, v.sdk_app_id,
               max(v.name) filter (where v.names = 1) as name,
               case when bool_or(v.names = 1) then min(v.not_before) filter (where v.names = 1)
                    when bool_or(v.apps <> 0) then min(v.not_before) filter (where v.apps <> 0)
                    else min(v.not_before) end as not_before
          from event v
         group by v.slot, v.at, v.region, v.sdk_app_id
        having bool_or(v.apps <> 0)
            or max(v.name) filter (where v.names = 1) is distinct from
               max(v.name) filter (where v.names = -1)
    )
    select t.slot, t.at as began_at, t.ended_at, b.region, b.sdk_app_id, b.name,
           b.not_before as began_not_before, f.not_before as ended_not_before
      from turn t
      left join lateral (select c.* from cause c where c.slot = t.slot and c.at = t.at
                          order by c.region, c.sdk_app_id limit 1) b on true
      left join lateral (select c.* from cause c where c.slot = t.slot and c.at = t.ended_at
                          order by c.region, c.sdk_app_id limit 1) f on true
     where t.drifts) e;

comment on view attr_audit.drift_episodes is
    'When apps of one group had different names in a slot: from the time at which the difference was first seen until the apps were seen to agree again. Filter by began_seen_at, which is never null. As in drift, an app with a good poll and no name in the slot differs from one that has a name; an app counts from its first good poll until it is retired, and in the group in which it was then. Names are compared exactly. Where nobody looked, the names last seen count.';
comment on column attr_audit.drift_episodes.began_seen_at is
    'When the difference was first seen. Never null.';
comment on column attr_audit.drift_episodes.began_not_before is
    'The earliest time at which the first app can have got its name; null: unknown, as it was there at its first good poll.';
comment on column attr_audit.drift_episodes.ended_not_before is
    'The earliest time at which the apps can have agreed again; null: still different.';
comment on column attr_audit.drift_episodes.ended_seen_at is
    'When the apps were seen to agree again; null: still different.';
comment on column attr_audit.drift_episodes.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.drift_episodes.slot is 'The attribute''s number.';
comment on column attr_audit.drift_episodes.first_region is
    'Region of the app whose change, first good poll or new group opened the episode (of several at the same time, the first by region and SDKAppID).';
comment on column attr_audit.drift_episodes.first_sdk_app_id is 'SDKAppID of that app.';
comment on column attr_audit.drift_episodes.first_name is
    'The name that app then had in the slot; null: none.';
comment on column attr_audit.drift_episodes.seconds is
    'From began_seen_at to ended_seen_at, or to now if it is still open.';

create view attr_audit.coverage_by_month as
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
                            now()) as hi) q
         where q.lo < q.hi) p
  left join lateral (
       select range_agg(tstzrange(p.lo, p.hi) * tstzrange(l.gap_from, l.gap_to)) as gaps
         from attr_audit_internal.long_gaps(p.region, p.sdk_app_id, p.lo, p.hi) l) b on true
 cross join lateral (
       select count(*) filter (where a.asked_at >= p.lo and a.asked_at < p.hi) as polls_good,
              max(least(a.next_asked_at, p.hi) - greatest(a.confirmed_at, p.lo)) as longest,
              min(a.asked_at) as first_at, max(a.confirmed_at) as last_at
         from attr_audit_internal.polls_around(p.region, p.sdk_app_id, p.lo, p.hi) a) g;

comment on view attr_audit.coverage_by_month is
    'How much of each month (UTC) the good polls cover, from the app''s first poll until now or until it was retired. Filter by month, which is never null. An app that changed its group has a row for each stay in the month in which it did.';
comment on column attr_audit.coverage_by_month.month is 'The first day of the month (UTC). Never null.';
comment on column attr_audit.coverage_by_month.app_group is 'The group in which the app was then.';
comment on column attr_audit.coverage_by_month.region is 'The app''s region.';
comment on column attr_audit.coverage_by_month.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.coverage_by_month.covered_pct is
    'The share of the month without gaps of more than an hour between good polls (see gaps). Time before the app''s first poll, after its retirement and in the future does not count; time before its first good poll is not covered.';
comment on column attr_audit.coverage_by_month.longest_gap_seconds is
    'The longest time in the month without a good poll.';
comment on column attr_audit.coverage_by_month.polls_good is 'The number of good polls.';
comment on column attr_audit.coverage_by_month.polls_failed is
    'The number of failed polls; late ones are not counted.';

-- The past with the groups of then -----------------------------------------------------------------

create or replace view attr_audit.name_history as
select h.region, h.sdk_app_id, g.app_group, h.slot, h.name, h.attr_type, h.possible_from,
       h.valid_from, coalesce(h.certain_to, a.last_ok_at) as certain_to, h.valid_to
  from (select c.region, c.sdk_app_id, c.slot, c.old_name as name, c.old_type as attr_type,
               case when c.old_not_before > k.ok_at then k.ok_at else c.old_not_before end as possible_from,
               least(c.old_seen_at, k.found_at) as valid_from,
               least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) as certain_to,
               coalesce(k.found_at, c.seen_at) as valid_to
          from attr_audit.change c
          left join attr_audit.clock_correction k
            on k.region = c.region and k.sdk_app_id = c.sdk_app_id
           and c.seen_at = any(k.wrong_seen_at)
         where c.old_name is not null
         union all
        select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type,
               case when s.not_before > k.ok_at then k.ok_at else s.not_before end,
               coalesce(k.found_at, s.seen_at), null::timestamptz, null::timestamptz
          from attr_audit.snapshot s
          left join attr_audit.clock_correction k
            on k.region = s.region and k.sdk_app_id = s.sdk_app_id
           and s.seen_at = any(k.wrong_seen_at)) h
  join attr_audit.app a using (region, sdk_app_id)
  join attr_audit_internal.stay() g
    on g.region = h.region and g.sdk_app_id = h.sdk_app_id
   and h.valid_from >= g.from_at and h.valid_from < g.to_at;
comment on column attr_audit.name_history.app_group is 'The group in which the app was at valid_from.';

create or replace function attr_audit.names_as_of(at timestamptz)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, g.app_group, n.slot, n.name, n.attr_type,
           at <= coalesce(least(n.certain_to, k.ok_at), a.last_ok_at)
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
        on g.region = n.region and g.sdk_app_id = n.sdk_app_id and at >= g.from_at and at < g.to_at
      left join attr_audit.clock_correction k
        on k.region = n.region and k.sdk_app_id = n.sdk_app_id
       and n.seen_at = any(k.wrong_seen_at)
     where (k.found_at <= at) is not true;
end;

create or replace view attr_audit.daily_changes as
select (c.seen_at at time zone 'UTC')::date as day, c.region, s.app_group, c.kind, count(*) as changes
  from attr_audit_internal.change_seen() c
  join attr_audit_internal.stay() s
    on s.region = c.region and s.sdk_app_id = c.sdk_app_id
   and c.seen_at >= s.from_at and c.seen_at < s.to_at
 group by 1, 2, 3, 4;
comment on view attr_audit.daily_changes is
    'Changes by UTC day of seen_at, region, app group of then and kind, baselines included.';
comment on column attr_audit.daily_changes.app_group is 'The group in which the apps were at seen_at.';

-- On a record that has changes `migrate` makes it afterwards, without blocking anybody.
do $$
begin
    if not exists (select from attr_audit.change) then
        create index change_by_day on attr_audit.change (((seen_at at time zone 'UTC')::date));
    end if;
end $$;

-- A condition on region or sdk_app_id reaches both parts.
create or replace function attr_audit.verify_chain()
    returns table (region text, sdk_app_id bigint, rows_checked bigint, ok boolean,
                   first_bad_seq bigint, head_seq bigint, head_hash bytea)
    language sql stable parallel safe
begin atomic
    select h.region, h.sdk_app_id, h.rows_checked, h.first_bad_seq is null, h.first_bad_seq,
           h.head_seq, c.row_hash
      from (select k.region, k.sdk_app_id, count(*) as rows_checked,
                   min(k.seq) filter (where not k.good) as first_bad_seq, max(k.seq) as head_seq
              from (select r.region, r.sdk_app_id, r.seq,
                           r.seq = row_number() over chain
                           and r.prev_hash is not distinct from lag(r.row_hash) over chain
                           and r.row_hash = sha256(convert_to(attr_audit_internal.change_canonical(r), 'UTF8'))
                               as good
                      from attr_audit.change r
                    window chain as (partition by r.region, r.sdk_app_id order by r.seq)) k
             group by k.region, k.sdk_app_id) h
      left join attr_audit.change c
        on c.region = h.region and c.sdk_app_id = h.sdk_app_id and c.seq = h.head_seq
     union all
    select a.region, a.sdk_app_id, 0, true, null, null, null
      from attr_audit.app a
     where not exists (select from attr_audit.change c
                        where c.region = a.region and c.sdk_app_id = a.sdk_app_id);
end;

-- Who may what ------------------------------------------------------------------------------------

revoke all on all functions in schema attr_audit, attr_audit_internal from public;
grant execute on function
    attr_audit_internal.stay(), attr_audit_internal.good_poll(), attr_audit_internal.app_seen(),
    attr_audit_internal.name_span(), attr_audit_internal.change_seen(),
    attr_audit_internal.are_gaps_noted(),
    attr_audit_internal.noted_gaps(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.long_gaps(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.is_window(timestamptz, timestamptz, interval),
    attr_audit_internal.seconds(tstzmultirange),
    attr_audit_internal.polls_around(text, bigint, timestamptz, timestamptz),
    attr_audit_internal.pieces(timestamptz, timestamptz, text),
    attr_audit.gaps(timestamptz, timestamptz, interval),
    attr_audit.name_in_window(text, timestamptz, timestamptz, text),
    attr_audit.attest(timestamptz, timestamptz, text),
    attr_audit.gaps(text, text, text), attr_audit.name_in_window(text, text, text, text),
    attr_audit.attest(text, text, text)
    to attr_audit_writer, attr_audit_reader;
grant select on attr_audit.changes, attr_audit.polls, attr_audit.drift_episodes,
    attr_audit.coverage_by_month to attr_audit_writer, attr_audit_reader;
