-- Which database this is: another one, at the same address too, has other values.
select d.oid::bigint as oid, pg_postmaster_start_time() as server_since
  from pg_database d
 where d.datname = current_database()
