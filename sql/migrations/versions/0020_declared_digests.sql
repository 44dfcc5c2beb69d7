-- An app that has exactly the declared names of its group is recognised by one comparison of digests.
-- Only the other apps are compared slot by slot, and a filter by group or app reaches them. The new
-- column is empty at first: the next poll of an app fills it, and until then the app is compared slot by
-- slot. The column, the triggers and the indexes lock app and declared_term for a moment; the views are
-- replaced, so nobody waits for them.

-- Digests of an app's names ------------------------------------------------------------------------

alter table attr_audit.app add column names_digest bytea;
comment on column attr_audit.app.names_digest is
    'Set by the database with snapshot_digest: SHA-256 of the JSON array of the snapshot''s [slot, name] in slot order, without the types. Null: no good poll yet, or none since this column exists.';

-- Apps with the same names are compared once. Recording a poll that changes no name leaves both digests
-- as they are, so the index costs it nothing.
create index app_by_digest on attr_audit.app (snapshot_digest);

create function attr_audit_internal.digests_of(a_region text, an_sdk_app_id bigint)
    returns table (snapshot_digest bytea, names_digest bytea)
    language sql stable parallel safe
begin atomic
    select sha256(convert_to(coalesce(
               json_agg(json_build_array(s.slot, s.name, s.attr_type) order by s.slot),
               '[]'::json)::text, 'UTF8')),
           sha256(convert_to(coalesce(
               json_agg(json_build_array(s.slot, s.name) order by s.slot), '[]'::json)::text, 'UTF8'))
      from attr_audit.snapshot s
     where s.region = a_region and s.sdk_app_id = an_sdk_app_id;
end;
comment on function attr_audit_internal.digests_of(text, bigint) is
    'What app.snapshot_digest and app.names_digest must be.';

create or replace function attr_audit_internal.guard_digest() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    right_ones record;
begin
    select d.snapshot_digest, d.names_digest into right_ones
      from attr_audit_internal.digests_of(new.region, new.sdk_app_id) d;
    -- Empty: the database is to set it.
    if new.snapshot_digest not in ('', right_ones.snapshot_digest) then
        raise exception 'snapshot_digest of %/% is not that of its snapshot', new.region, new.sdk_app_id
            using errcode = 'check_violation';
    end if;
    if new.snapshot_digest is not null then
        new.snapshot_digest := right_ones.snapshot_digest;
        new.names_digest := right_ones.names_digest;
    else
        new.names_digest := null;
    end if;
    return new;
end $$;
comment on function attr_audit_internal.guard_digest() is
    'Sets an empty app.snapshot_digest to that of the app''s snapshot, and refuses any other; sets names_digest.';
drop trigger guard_new_digest on attr_audit.app;
create trigger guard_new_digest before insert on attr_audit.app
    for each row when (new.snapshot_digest is not null or new.names_digest is not null)
    execute function attr_audit_internal.guard_digest();
drop trigger guard_digest on attr_audit.app;
create trigger guard_digest before update on attr_audit.app
    for each row when (new.snapshot_digest is distinct from old.snapshot_digest
                       or new.names_digest is distinct from old.names_digest
                       or new.names_digest is null and new.snapshot_digest is not null)
    execute function attr_audit_internal.guard_digest();

-- Digests of declared names ------------------------------------------------------------------------

create table attr_audit_internal.declared_group (
    app_group      text primary key,
    names_digest   bytea not null,
    forbids_others boolean not null,
    has_exceptions boolean not null
);
comment on table attr_audit_internal.declared_group is
    'Derived from declared_term: one row for each group of which anything is declared now.';
comment on column attr_audit_internal.declared_group.app_group is 'The app group.';
comment on column attr_audit_internal.declared_group.names_digest is
    'What app.names_digest is where an app has the group''s names, no others, and no exception is of it.';
comment on column attr_audit_internal.declared_group.forbids_others is
    'Whether every slot that is not named must be unused.';
comment on column attr_audit_internal.declared_group.has_exceptions is
    'Whether the group has exceptions, ended ones included.';

create function attr_audit_internal.renew_declared_groups() returns void
    language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
    delete from attr_audit_internal.declared_group;
    insert into attr_audit_internal.declared_group
           (app_group, names_digest, forbids_others, has_exceptions)
    select t.app_group,
           sha256(convert_to(coalesce(
               json_agg(json_build_array(t.slot, t.name) order by t.slot)
                   filter (where t.rank = 0 and t.name is not null), '[]'::json)::text, 'UTF8')),
           bool_or(t.rank = -1), bool_or(t.rank > 0)
      from attr_audit_internal.declared_term t
     where t.to_at = 'infinity'
     group by t.app_group;
end;
comment on function attr_audit_internal.renew_declared_groups() is
    'Fills declared_group again from declared_term.';

create or replace function attr_audit_internal.unfold_declaration() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update attr_audit_internal.declared_term d
       set to_at = new.recorded_at
     where d.to_at = 'infinity'
       and jsonb_build_array(d.app_group, d.region, d.sdk_app_id, d.slot, d.name, d.reason, d.until)
           not in (select jsonb_build_array(t.app_group, t.region, t.sdk_app_id, t.slot, t.name,
                                            t.reason, t.until)
                     from attr_audit_internal.terms_of(new.document) t);
    insert into attr_audit_internal.declared_term
           (app_group, rank, region, sdk_app_id, slot, name, reason, until, from_at)
    select t.*, new.recorded_at
      from attr_audit_internal.terms_of(new.document) t
     where jsonb_build_array(t.app_group, t.region, t.sdk_app_id, t.slot, t.name, t.reason, t.until)
           not in (select jsonb_build_array(d.app_group, d.region, d.sdk_app_id, d.slot, d.name,
                                            d.reason, d.until)
                     from attr_audit_internal.declared_term d where d.to_at = 'infinity');
    perform attr_audit_internal.renew_declared_groups();
    return null;
end $$;
comment on function attr_audit_internal.unfold_declaration() is
    'Keeps declared_term and declared_group: ends what is no longer declared and begins what is new.';

-- No declaration is recorded between this and the end of the migration.
select pg_advisory_xact_lock(hashtextextended('attr_audit.declaration', 0));
select attr_audit_internal.renew_declared_groups();

-- The exceptions of one app are looked up by what they are of.
drop index attr_audit_internal.declared_term_now;
create index declared_term_now on attr_audit_internal.declared_term (app_group, rank, sdk_app_id, region)
    where to_at = 'infinity';

-- What is not as declared --------------------------------------------------------------------------

create view attr_audit_internal.watched_now as
select b.region, b.sdk_app_id, b.app_group, b.snapshot_digest, g.forbids_others, w.seen_to,
       case when b.first_polled_at <= now() then b.first_polled_at
            else '1970-01-01 00:00:00+00' end as first_polled_at,
       w.seen_from is null
           or (now() - w.seen_to <= (select k.stale_after from attr_audit_internal.watch k))
              is not true as is_unknown,
       b.names_digest is not distinct from g.names_digest as has_the_names,
       b.snapshot_digest is null
           or g.has_exceptions
              and (exists (select from attr_audit_internal.declared_term t
                            where t.app_group = b.app_group and t.rank = 1 and t.sdk_app_id is null
                              and t.region = b.region and t.to_at = 'infinity' and t.ends_at > now())
                   or exists (select from attr_audit_internal.declared_term t
                               where t.app_group = b.app_group and t.rank = 2
                                 and t.sdk_app_id = b.sdk_app_id and t.region is null
                                 and t.to_at = 'infinity' and t.ends_at > now())
                   or exists (select from attr_audit_internal.declared_term t
                               where t.app_group = b.app_group and t.rank = 3
                                 and t.sdk_app_id = b.sdk_app_id and t.region = b.region
                                 and t.to_at = 'infinity' and t.ends_at > now())) as is_alone
  from attr_audit.app b
  join attr_audit_internal.declared_group g on g.app_group = b.app_group
  join attr_audit_internal.app_seen() w on w.region = b.region and w.sdk_app_id = b.sdk_app_id
 where b.retired_at is null;
comment on view attr_audit_internal.watched_now is
    'The apps that are not retired and of whose group anything is declared now.';
comment on column attr_audit_internal.watched_now.region is 'The app''s region.';
comment on column attr_audit_internal.watched_now.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit_internal.watched_now.app_group is 'The app''s group.';
comment on column attr_audit_internal.watched_now.snapshot_digest is 'app.snapshot_digest.';
comment on column attr_audit_internal.watched_now.forbids_others is
    'Whether every slot that is not named must be unused.';
comment on column attr_audit_internal.watched_now.seen_to is 'When the names were last seen.';
comment on column attr_audit_internal.watched_now.first_polled_at is
    'When the first poll was sent; 1970 where that is in the future.';
comment on column attr_audit_internal.watched_now.is_unknown is 'Whether the names were not seen lately, or never.';
comment on column attr_audit_internal.watched_now.has_the_names is
    'Whether the app has the group''s names and no others; false where its digest is not known.';
comment on column attr_audit_internal.watched_now.is_alone is
    'Whether the app is compared on its own: an exception is of it, or its snapshot has no digest.';

-- Of apps without an exception the comparison depends on the group and the digest of the names only, so
-- that the planner may keep its result for the next app (a Memoize node).
create or replace view attr_audit.violations as
select v.since, v.app_group, v.region, v.sdk_app_id, v.slot, v.violation, v.declared_name,
       v.actual_name, attr_audit_internal.lookalike(v.declared_name, v.actual_name) as lookalike,
       greatest(extract(epoch from now() - v.since), 0)::double precision as age_seconds
  from (select q.app_group, q.region, q.sdk_app_id, q.slot, q.declared_name, q.actual_name,
               case when q.is_unknown then 'unknown'
                    when q.declared_name is null then 'undeclared'
                    when q.actual_name is null then 'missing'
                    else 'different' end as violation,
               case when q.is_unknown
                    then greatest(coalesce(q.seen_to, q.first_polled_at), least(q.from_at, now()))
                    else coalesce((select lower(s) from unnest(attr_audit_internal.violation_spans(
                                       q.region, q.sdk_app_id, q.slot)) s where s @> now()), now())
                    end as since
          from (select a.region, a.sdk_app_id, a.app_group, a.is_unknown, a.seen_to,
                       a.first_polled_at, a.forbids_others, c.slot, c.is_named, c.declared_name,
                       c.actual_name, c.from_at
                  from attr_audit_internal.watched_now a
                  left join lateral (
                       select coalesce(d.slot, s.slot) as slot, d.slot is not null as is_named,
                              d.name as declared_name, s.name as actual_name, d.from_at
                         from (select t.slot, t.name, t.from_at
                                 from attr_audit_internal.declared_term t
                                where t.app_group = a.app_group and t.rank = 0
                                  and t.to_at = 'infinity') d
                         full join (select n.slot, n.name
                                      from (select r.region, r.sdk_app_id from attr_audit.app r
                                             where r.snapshot_digest = a.snapshot_digest
                                             limit 1) r
                                      join attr_audit.snapshot n
                                        on n.region = r.region and n.sdk_app_id = r.sdk_app_id) s
                           on s.slot = d.slot) c on true
                 where not a.is_alone and (a.is_unknown or not a.has_the_names)
                   and coalesce(c.slot, -1) >= 0
                 union all
                select a.region, a.sdk_app_id, a.app_group, a.is_unknown, a.seen_to,
                       a.first_polled_at, a.forbids_others, c.slot, c.is_named, c.declared_name,
                       c.actual_name, c.from_at
                  from attr_audit_internal.watched_now a
                 cross join lateral (
                       select coalesce(d.slot, s.slot) as slot, d.slot is not null as is_named,
                              d.name as declared_name, s.name as actual_name, d.from_at
                         from (select distinct on (x.slot) x.slot, x.name, x.from_at
                                 from (select t.rank, t.slot, t.name, t.from_at
                                         from attr_audit_internal.declared_term t
                                        where t.app_group = a.app_group and t.rank = 0
                                          and t.to_at = 'infinity'
                                        union all
                                       select t.rank, t.slot, t.name, t.from_at
                                         from attr_audit_internal.declared_term t
                                        where t.app_group = a.app_group and t.rank = 1
                                          and t.sdk_app_id is null and t.region = a.region
                                          and t.to_at = 'infinity' and t.ends_at > now()
                                        union all
                                       select t.rank, t.slot, t.name, t.from_at
                                         from attr_audit_internal.declared_term t
                                        where t.app_group = a.app_group and t.rank = 2
                                          and t.sdk_app_id = a.sdk_app_id and t.region is null
                                          and t.to_at = 'infinity' and t.ends_at > now()
                                        union all
                                       select t.rank, t.slot, t.name, t.from_at
                                         from attr_audit_internal.declared_term t
                                        where t.app_group = a.app_group and t.rank = 3
                                          and t.sdk_app_id = a.sdk_app_id and t.region = a.region
                                          and t.to_at = 'infinity' and t.ends_at > now()) x
                                order by x.slot, x.rank desc) d
                         full join (select n.slot, n.name from attr_audit.snapshot n
                                     where n.region = a.region and n.sdk_app_id = a.sdk_app_id) s
                           on s.slot = d.slot) c
                 where a.is_alone) q
         where (q.is_named or q.forbids_others)
           and (q.is_unknown or q.declared_name is distinct from q.actual_name)) v;

revoke all on function
    attr_audit_internal.digests_of(text, bigint), attr_audit_internal.renew_declared_groups()
    from public;
