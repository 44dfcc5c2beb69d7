-- A violation begins and ends with one alert each. The table of alerts is locked while its unique
-- constraint is built again: some seconds for millions of alerts.

alter table attr_audit.notification
    add column slot smallint,
    add column violation text,
    add column declared_name text,
    add column actual_name text,
    drop constraint one_row_per_fact,
    add constraint one_row_per_fact unique nulls not distinct
        (kind, region, sdk_app_id, change_id, gap_from, slot),
    drop constraint kind_is_known,
    add constraint kind_is_known check
        (kind in ('change', 'stale', 'back', 'unreviewed', 'violation', 'violation_over')) not valid,
    drop constraint a_gap_has_its_begin,
    add constraint a_gap_has_its_begin check
        ((kind in ('stale', 'back', 'violation', 'violation_over')) = (gap_from is not null)) not valid,
    drop constraint a_gap_that_is_over_has_its_end,
    add constraint a_gap_that_is_over_has_its_end check
        ((kind in ('back', 'violation_over')) = (gap_to is not null)) not valid,
    drop constraint gap_is_in_order,
    add constraint gap_is_in_order check
        (gap_to > gap_from or kind = 'violation_over' and gap_to = gap_from) not valid,
    add constraint a_violation_has_its_slot check
        ((kind in ('violation', 'violation_over')) = (slot is not null)) not valid,
    add constraint a_violation_has_its_word check
        ((violation is null or slot is not null) and (kind <> 'violation' or violation is not null)) not valid;
comment on column attr_audit.notification.kind is
    'change: a name changed; stale: no good poll for longer than the limit; back: a good poll ended that; unreviewed: a change waits for its review longer than the limit; violation: a slot is not as declared; violation_over: that has ended.';
comment on column attr_audit.notification.gap_from is
    'stale, back: when the last good poll was sent (without one: the first poll). violation, violation_over: since when the slot was not as declared. One alert of each kind.';
comment on column attr_audit.notification.gap_to is
    'back: when the good poll that ended the gap was sent. violation_over: when the violation ended.';
comment on column attr_audit.notification.slot is 'violation, violation_over: the slot.';
comment on column attr_audit.notification.violation is
    'violation: different, missing or undeclared, when it was queued. violation_over: as declared, or not declared (any longer); null: it has begun again since.';
comment on column attr_audit.notification.declared_name is
    'violation, violation_over: the declared name when it was queued; null: the slot had to be unused, or nothing was declared.';
comment on column attr_audit.notification.actual_name is
    'violation, violation_over: the actual name when it was queued; null: none.';
-- Few are open; the others are looked up by this.
create index notification_violation on attr_audit.notification (region, sdk_app_id, slot, gap_from)
    where kind = 'violation';

create function attr_audit_internal.queue_violations(a_run text) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    queued bigint;
begin
    if not exists (select from attr_audit_internal.declared_term)
       and not exists (select from attr_audit.notification n where n.kind = 'violation') then
        return 0;
    end if;
    -- An app that is stale or retired neither begins nor ends a violation: nobody looked.
    with present as materialized (
        select v.since, v.region, v.sdk_app_id, v.slot, v.violation, v.declared_name, v.actual_name
          from attr_audit.violations v
         where v.violation <> 'unknown'
    ), open as materialized (
        select n.region, n.sdk_app_id, n.slot, n.gap_from
          from attr_audit.notification n
         where n.kind = 'violation'
           and not exists (select from attr_audit.notification o
                            where o.kind = 'violation_over' and o.region = n.region
                              and o.sdk_app_id = n.sdk_app_id and o.change_id is null
                              and o.gap_from = n.gap_from and o.slot = n.slot)
    ), judged as (
        select o.region, o.sdk_app_id, o.slot, o.gap_from, p.since is not null as again,
               a.app_group,
               case when p.since is null or p.since > o.gap_from
                    then (select upper(s)
                            from unnest(attr_audit_internal.violation_spans(
                                     o.region, o.sdk_app_id, o.slot)) s
                           where s @> o.gap_from) end as ended_at
          from open o
          join attr_audit.app a on a.region = o.region and a.sdk_app_id = o.sdk_app_id
                               and a.retired_at is null
          join attr_audit_internal.app_seen() w
            on w.region = o.region and w.sdk_app_id = o.sdk_app_id and w.seen_from is not null
           and now() - w.seen_to <= (select k.stale_after from attr_audit_internal.watch k)
          left join present p
            on p.region = o.region and p.sdk_app_id = o.sdk_app_id and p.slot = o.slot
    ), over as (
        insert into attr_audit.notification (kind, region, sdk_app_id, slot, gap_from, gap_to,
                                             violation, declared_name, actual_name, dag_run_id)
        select 'violation_over', j.region, j.sdk_app_id, j.slot, j.gap_from,
               greatest(least(j.ended_at, now()), j.gap_from),
               case when j.again then null
                    when d.slot is not null or f.app_group is not null then 'as declared'
                    else 'not declared' end,
               d.name, s.name, a_run
          from judged j
          left join attr_audit.snapshot s
            on s.region = j.region and s.sdk_app_id = j.sdk_app_id and s.slot = j.slot
          left join lateral (
               select n.slot, n.name from attr_audit_internal.declared_now n
                where n.region = j.region and n.sdk_app_id = j.sdk_app_id and n.slot = j.slot
                limit 1) d on true
          left join attr_audit_internal.declared_term f
            on f.rank = -1 and f.to_at = 'infinity' and f.app_group = j.app_group
         where not j.again or j.ended_at <= now()
         order by j.region, j.sdk_app_id, j.slot
            on conflict on constraint one_row_per_fact do nothing
        returning region, sdk_app_id, slot, gap_from
    ), begun as (
        insert into attr_audit.notification (kind, region, sdk_app_id, slot, gap_from, violation,
                                             declared_name, actual_name, dag_run_id)
        select 'violation', p.region, p.sdk_app_id, p.slot, p.since, p.violation, p.declared_name,
               p.actual_name, a_run
          from present p
         where not exists (
               select from open o
                where o.region = p.region and o.sdk_app_id = p.sdk_app_id and o.slot = p.slot
                  and not exists (select from over v
                                   where v.region = o.region and v.sdk_app_id = o.sdk_app_id
                                     and v.slot = o.slot and v.gap_from = o.gap_from))
         order by p.region, p.sdk_app_id, p.slot
            on conflict on constraint one_row_per_fact do nothing
        returning 1
    )
    select (select count(*) from over) + (select count(*) from begun) into queued;
    return queued;
end $$;
comment on function attr_audit_internal.queue_violations(text) is
    'Queues an alert for each violation that began and for each that ended since the last call; gives how many. Once per violation each. What began and ended between two calls is not among them.';

revoke all on function attr_audit_internal.queue_violations(text) from public;
grant execute on function attr_audit_internal.queue_violations(text) to attr_audit_writer;
