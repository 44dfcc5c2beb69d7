-- The chains, recomputed by the database itself.
select count(*) as chains, coalesce(sum(rows_checked), 0)::bigint as rows_checked,
       coalesce(bool_and(ok), true) as ok,
       jsonb_agg(jsonb_build_array(region, sdk_app_id, first_bad_seq) order by region, sdk_app_id)
           filter (where not ok) as broken
  from attr_audit.verify_chain()
