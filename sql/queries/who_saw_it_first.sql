-- Which run was the first to record each name of slot 2, and where?
--
-- Variables: slot (2).
-- One row per app group and name: the app whose poll saw it first. Connection and try are those of
-- that poll; they are empty once retention has dropped it.
\if :{?slot}
\else
    \set slot 2
\endif
\pset null '(none)'

with first as (
    select distinct on (a.app_group, c.new_name)
           a.app_group, c.new_name as name, c.region, c.sdk_app_id, c.kind,
           c.not_before, c.seen_at, c.dag_run_id, c.poll_id
      from attr_audit.change c
      join attr_audit.app a using (region, sdk_app_id)
     where c.slot = :'slot' and c.new_name is not null
       and c.new_name is distinct from c.old_name
     order by a.app_group, c.new_name, c.seen_at, c.region, c.sdk_app_id
)
select f.app_group, f.name, f.region, f.sdk_app_id, f.kind, f.not_before, f.seen_at,
       f.dag_run_id, p.try_number, p.conn_id
  from first f
  left join attr_audit.poll p on p.dag_run_id = f.dag_run_id and p.poll_id = f.poll_id
 order by f.app_group, f.seen_at, f.name;
