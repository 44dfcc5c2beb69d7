-- What is not as declared is found once for all apps of a group that have the same names, which
-- app.snapshot_digest says. So the database itself makes sure that the digest is right.
-- The new triggers and the index lock app for a moment: it has one row for each app. The views are
-- replaced, so nobody waits for them.

create function attr_audit_internal.guard_digest() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.snapshot_digest <> attr_audit_internal.snapshot_digest_of(new.region, new.sdk_app_id) then
        raise exception 'snapshot_digest of %/% is not that of its snapshot', new.region, new.sdk_app_id
            using errcode = 'check_violation';
    end if;
    return new;
end $$;
comment on function attr_audit_internal.guard_digest() is
    'Refuses an app.snapshot_digest that is not that of the app''s snapshot.';
create trigger guard_new_digest before insert on attr_audit.app
    for each row when (new.snapshot_digest is not null)
    execute function attr_audit_internal.guard_digest();
create trigger guard_digest before update on attr_audit.app
    for each row when (new.snapshot_digest is distinct from old.snapshot_digest)
    execute function attr_audit_internal.guard_digest();
revoke all on function attr_audit_internal.guard_digest() from public;

-- The apps of a group that has an exception. Recording a poll leaves app_group as it is, so the index
-- costs it nothing.
create index app_by_group on attr_audit.app (app_group);

-- Of which slots of which apps an exception is open ---------------------------------------------------

create view attr_audit_internal.excepted_now as
    with open_exception as (
        select t.* from attr_audit_internal.declared_term t
         where t.to_at = 'infinity' and t.ends_at > now() and t.rank > 0
    )
    -- Three joins, each by equal columns: a group may have thousands of apps and of exceptions.
    select distinct on (x.region, x.sdk_app_id, x.slot)
           x.region, x.sdk_app_id, x.app_group, x.slot, x.name, x.reason, x.until, x.from_at
      from (select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until, t.from_at,
                   t.rank
              from attr_audit.app a
              join open_exception t
                on t.rank = 3 and t.app_group = a.app_group and t.region = a.region
               and t.sdk_app_id = a.sdk_app_id
             where a.retired_at is null
             union all
            select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until, t.from_at,
                   t.rank
              from attr_audit.app a
              join open_exception t
                on t.rank = 2 and t.app_group = a.app_group and t.sdk_app_id = a.sdk_app_id
             where a.retired_at is null
             union all
            select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until, t.from_at,
                   t.rank
              from attr_audit.app a
              join open_exception t
                on t.rank = 1 and t.app_group = a.app_group and t.region = a.region
             where a.retired_at is null) x
     order by x.region, x.sdk_app_id, x.slot, x.rank desc;
comment on view attr_audit_internal.excepted_now is
    'What exceptions declare now, one row for each slot of an app that is not retired.';
comment on column attr_audit_internal.excepted_now.region is 'The app''s region.';
comment on column attr_audit_internal.excepted_now.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit_internal.excepted_now.app_group is 'The app''s group.';
comment on column attr_audit_internal.excepted_now.slot is 'The attribute''s number.';
comment on column attr_audit_internal.excepted_now.name is 'The declared name; null: the slot must be unused.';
comment on column attr_audit_internal.excepted_now.reason is 'Why it is an exception.';
comment on column attr_audit_internal.excepted_now.until is 'The UTC date on which the exception ends.';
comment on column attr_audit_internal.excepted_now.from_at is 'Since when the row of declared_term is declared.';

create or replace view attr_audit_internal.declared_now as
    select e.region, e.sdk_app_id, e.app_group, e.slot, e.name, e.reason, e.until, e.from_at
      from attr_audit_internal.excepted_now e
     union all
    select a.region, a.sdk_app_id, a.app_group, t.slot, t.name, t.reason, t.until, t.from_at
      from attr_audit.app a
      join attr_audit_internal.declared_term t
        on t.rank = 0 and t.to_at = 'infinity' and t.app_group = a.app_group
     where a.retired_at is null
       and not exists (select from attr_audit_internal.excepted_now e
                        where e.region = a.region and e.sdk_app_id = a.sdk_app_id
                          and e.slot = t.slot);

-- An app stands for all of its group that have the same names, no exception, and a good poll lately.
create or replace view attr_audit.violations as
    with excepted as materialized (
        select e.region, e.sdk_app_id, e.slot, e.name, e.from_at from attr_audit_internal.excepted_now e
    ), watched as materialized (
        select b.region, b.sdk_app_id, b.app_group, w.seen_to, u.is_unknown,
               case when b.first_polled_at <= now() then b.first_polled_at
                    else '1970-01-01 00:00:00+00' end as first_polled_at,
               case when u.is_unknown or b.snapshot_digest is null or x.region is not null
                    then b.region || '/' || b.sdk_app_id
                    else b.app_group || E'\n' || encode(b.snapshot_digest, 'hex') end as alike
          from attr_audit.app b
          join attr_audit_internal.app_seen() w using (region, sdk_app_id)
          left join (select distinct e.region, e.sdk_app_id from excepted e) x
            on x.region = b.region and x.sdk_app_id = b.sdk_app_id
         cross join lateral (
               select w.seen_from is null
                      or (now() - w.seen_to <= (select k.stale_after from attr_audit_internal.watch k))
                         is not true as is_unknown) u
         where b.retired_at is null
           and b.app_group in (select t.app_group from attr_audit_internal.declared_term t
                                where t.to_at = 'infinity')
    ), one as materialized (
        select distinct on (a.alike) a.alike, a.region, a.sdk_app_id, a.app_group, a.is_unknown
          from watched a
         order by a.alike
    ), declared as (
        select e.region, e.sdk_app_id, e.slot, e.name, e.from_at from excepted e
         union all
        select o.region, o.sdk_app_id, t.slot, t.name, t.from_at
          from one o
          join attr_audit_internal.declared_term t
            on t.rank = 0 and t.to_at = 'infinity' and t.app_group = o.app_group
         where not exists (select from excepted e
                            where e.region = o.region and e.sdk_app_id = o.sdk_app_id
                              and e.slot = t.slot)
    ), compared as (
        select coalesce(d.region, s.region) as region,
               coalesce(d.sdk_app_id, s.sdk_app_id) as sdk_app_id,
               coalesce(d.slot, s.slot) as slot, d.slot is not null as is_named,
               d.name as declared_name, s.name as actual_name, d.from_at
          from declared d
          full join (select n.region, n.sdk_app_id, n.slot, n.name
                       from attr_audit.snapshot n
                       join one o using (region, sdk_app_id)) s
            on s.region = d.region and s.sdk_app_id = d.sdk_app_id and s.slot = d.slot
    )
    select v.since, v.app_group, v.region, v.sdk_app_id, v.slot, v.violation, v.declared_name,
           v.actual_name, attr_audit_internal.lookalike(v.declared_name, v.actual_name) as lookalike,
           greatest(extract(epoch from now() - v.since), 0)::double precision as age_seconds
      from (select a.app_group, a.region, a.sdk_app_id, q.slot, q.declared_name, q.actual_name,
                   case when a.is_unknown then 'unknown'
                        when q.declared_name is null then 'undeclared'
                        when q.actual_name is null then 'missing'
                        else 'different' end as violation,
                   case when a.is_unknown
                        then greatest(coalesce(a.seen_to, a.first_polled_at), least(q.from_at, now()))
                        else coalesce((select lower(s) from unnest(attr_audit_internal.violation_spans(
                                           a.region, a.sdk_app_id, q.slot)) s where s @> now()), now())
                        end as since
              from compared q
              join one o on o.region = q.region and o.sdk_app_id = q.sdk_app_id
              left join attr_audit_internal.declared_term f
                on f.rank = -1 and f.to_at = 'infinity' and f.app_group = o.app_group and not q.is_named
              join watched a on a.alike = o.alike
             where (q.is_named or f.app_group is not null)
               and (o.is_unknown or q.declared_name is distinct from q.actual_name)) v;
