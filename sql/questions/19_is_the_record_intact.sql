-- Is the chain of every app intact, and how far does it reach?
select region, sdk_app_id, rows_checked, ok, first_bad_seq, head_seq
  from attr_audit.verify_chain()
 order by region, sdk_app_id;
