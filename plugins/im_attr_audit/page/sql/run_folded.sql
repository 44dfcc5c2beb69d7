-- Whether good polls of a run's month are folded: its own may be among them.
select exists (
    select from (select p.recorded_at as at from attr_audit.planned p where p.dag_run_id = :dag_run_id
                  union all
                 select p.requested_at from attr_audit.poll p where p.dag_run_id = :dag_run_id) t
      join attr_audit.coverage c
        on date_trunc('month', c.from_at, 'UTC') = date_trunc('month', t.at, 'UTC')) as is_folded
