-- Until a task corrects what was recorded while the database's clock was ahead, views answer as they will
-- after the correction. Nothing here reads or rewrites a large table; the one new column has a default.

alter table attr_audit.clock_correction add column wrong_from_at timestamptz[] not null default '{}';
comment on column attr_audit.clock_correction.wrong_from_at is
    'from_at of the app''s rows of membership that were recorded under the wrong clock; they hold from found_at on.';

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
                then (select g.asked_at from attr_audit_internal.good_poll() g
                       where g.region = a.region and g.sdk_app_id = a.sdk_app_id
                       order by g.asked_at limit 1)
                else a.first_ok_at end as seen_from,
           case when a.last_ok_at <= now() + interval '1 minute' then a.last_ok_at
                when a.last_ok_at is not null
                then coalesce(attr_audit_internal.trusted_ok_at(a.region, a.sdk_app_id, now()),
                              '1970-01-01 00:00:00+00') end as seen_to,
           coalesce(a.retired_at, 'infinity') as retired_at
      from attr_audit.app a;
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
                       left join attr_audit.clock_correction w
                         on w.region = o.region and w.sdk_app_id = o.sdk_app_id
                        and o.seen_at = any(w.wrong_seen_at)
                      where o.slot = c.slot and o.region = c.region and o.sdk_app_id = c.sdk_app_id
                        and o.seq < c.seq
                      order by o.seq desc limit 1), '-infinity') as possible_from,
           least(c.old_seen_at, k.found_at) as valid_from,
           case when coalesce(k.found_at, c.seen_at) > now() + interval '1 minute'
                then least(coalesce(c.not_before, c.prior_ok_at), k.ok_at, a.seen_to)
                when c.new_name = c.old_name then coalesce(k.found_at, c.seen_at)
                else least(coalesce(c.not_before, c.prior_ok_at), k.ok_at) end as certain_to,
           coalesce(k.found_at, c.seen_at) as valid_to
      from attr_audit.change c
      join attr_audit_internal.app_seen() a using (region, sdk_app_id)
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

create function attr_audit_internal.ok_until_corrected(a attr_audit.app) returns timestamptz
    language sql stable parallel safe
    return case when a.last_ok_at > now() + interval '1 minute'
                then coalesce(attr_audit_internal.trusted_ok_at(a.region, a.sdk_app_id, now()),
                              '1970-01-01 00:00:00+00') end;
comment on function attr_audit_internal.ok_until_corrected(attr_audit.app) is
    'Where last_ok_at is in the future: when the newest good poll was sent whose time is not; otherwise null.';

create or replace view attr_audit.current_names as
select s.region, s.sdk_app_id, a.app_group, s.slot, s.name, s.attr_type,
       case when s.not_before > k.ok_at then k.ok_at else s.not_before end as not_before,
       coalesce(k.found_at, s.seen_at) as seen_at, coalesce(attr_audit_internal.ok_until_corrected(a), a.last_ok_at) as confirmed_at
  from attr_audit.snapshot s
  join attr_audit.app a using (region, sdk_app_id)
  left join attr_audit.clock_correction k
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
        on g.region = n.region and g.sdk_app_id = n.sdk_app_id and at >= g.from_at and at < g.to_at
      left join attr_audit.clock_correction k
        on k.region = n.region and k.sdk_app_id = n.sdk_app_id
       and n.seen_at = any(k.wrong_seen_at)
     where (k.found_at <= at) is not true;
end;

-- The group of an app ----------------------------------------------------------------------------

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
    window app as (partition by m.region, m.sdk_app_id order by m.from_at, m.written_at);
end;

create or replace function attr_audit_internal.record_correction(
        a_region text, an_sdk_app_id bigint, found timestamptz, latest timestamptz, ok_at timestamptz)
    returns void
    language sql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
    delete from attr_audit.clock_correction k
     where k.region = a_region and k.sdk_app_id = an_sdk_app_id and k.found_at > found;
    insert into attr_audit.clock_correction
           (region, sdk_app_id, found_at, ahead, ok_at, wrong_seen_at, last_poll_id, wrong_from_at)
    select a_region, an_sdk_app_id, found, latest - found, ok_at,
           array(select distinct c.seen_at from attr_audit.change c
                  where c.region = a_region and c.sdk_app_id = an_sdk_app_id and c.seen_at > found
                    and not exists (select from attr_audit.clock_correction k
                                     where k.region = a_region and k.sdk_app_id = an_sdk_app_id
                                       and c.seen_at = any(k.wrong_seen_at))),
           greatest((select max(p.poll_id) from attr_audit.poll p
                      where p.region = a_region and p.sdk_app_id = an_sdk_app_id
                        and p.outcome = 'ok' and p.requested_at > found),
                    (select max(p.poll_id) from attr_audit.poll p
                      where p.region = a_region and p.sdk_app_id = an_sdk_app_id
                        and p.outcome not in ('ok', 'late') and p.requested_at > found), 0),
           array(select m.from_at from attr_audit.membership m
                  where m.region = a_region and m.sdk_app_id = an_sdk_app_id and m.from_at > found
                    and not exists (select from attr_audit.clock_correction k
                                     where k.region = a_region and k.sdk_app_id = an_sdk_app_id
                                       and m.from_at = any(k.wrong_from_at)))
        on conflict do nothing
$$;

create or replace function attr_audit_internal.note_membership() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    latest constant timestamptz := clock_timestamp();
    -- A poll tells when its group held. An update without a poll is dated now.
    since timestamptz := latest;
    last_at timestamptz;
begin
    if tg_op = 'INSERT' then
        since := least(new.first_polled_at, latest);
    elsif new.last_polled_at > old.last_polled_at then
        since := least(new.last_polled_at, latest);
    end if;
    select max(m.from_at) into last_at
      from attr_audit.membership m
     where m.region = new.region and m.sdk_app_id = new.sdk_app_id
       and not exists (select from attr_audit.clock_correction k
                        where k.region = m.region and k.sdk_app_id = m.sdk_app_id
                          and m.from_at = any(k.wrong_from_at));
    if last_at > latest + interval '1 minute' then
        -- Recorded under a wrong clock: it held until now. Nothing else of the app is corrected here.
        insert into attr_audit.clock_correction
               (region, sdk_app_id, found_at, ahead, ok_at, wrong_seen_at, last_poll_id, wrong_from_at)
        select new.region, new.sdk_app_id, since - interval '1 microsecond', last_at - since,
               coalesce(attr_audit_internal.trusted_ok_at(new.region, new.sdk_app_id, since),
                        '1970-01-01 00:00:00+00'), '{}', 0, array_agg(m.from_at)
          from attr_audit.membership m
         where m.region = new.region and m.sdk_app_id = new.sdk_app_id
           and m.from_at > latest + interval '1 minute'
           and not exists (select from attr_audit.clock_correction k
                            where k.region = m.region and k.sdk_app_id = m.sdk_app_id
                              and m.from_at = any(k.wrong_from_at))
            on conflict do nothing;
        last_at := null;
    end if;
    insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
    values (new.region, new.sdk_app_id, new.app_group,
            greatest(since, last_at + interval '1 microsecond'));
    return null;
end $$;

-- Corrections from before this step.
update attr_audit.clock_correction k
   set wrong_from_at = array(select m.from_at from attr_audit.membership m
                              where m.region = k.region and m.sdk_app_id = k.sdk_app_id
                                and m.from_at > now() + interval '1 minute')
 where k.found_at = (select max(o.found_at) from attr_audit.clock_correction o
                      where o.region = k.region and o.sdk_app_id = k.sdk_app_id)
   and exists (select from attr_audit.membership m
                where m.region = k.region and m.sdk_app_id = k.sdk_app_id
                  and m.from_at > now() + interval '1 minute');

revoke all on function attr_audit_internal.ok_until_corrected(attr_audit.app) from public;
grant execute on function attr_audit_internal.ok_until_corrected(attr_audit.app)
    to attr_audit_writer, attr_audit_reader;
