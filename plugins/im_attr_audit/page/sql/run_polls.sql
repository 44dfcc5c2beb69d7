-- The newest poll of each connection in a run.
select distinct on (conn_id) conn_id, region, sdk_app_id, outcome, error_code, error_info,
       requested_at, try_number,
       not
       {names_no_app}
       and poll_id <= (select max(last_poll_id) from attr_audit.seal
                        where leaf like '["run-v1",%') is true as is_sealed
  from attr_audit.poll p
 where dag_run_id = :dag_run_id
 order by conn_id, poll_id desc
