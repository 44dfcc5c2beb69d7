-- The newest poll of each connection in a run.
select distinct on (conn_id) conn_id, region, sdk_app_id, outcome, error_code, error_info,
       requested_at, try_number
  from attr_audit.poll
 where dag_run_id = :dag_run_id
 order by conn_id, poll_id desc
