-- Good and failed polls of each app by bucket of time. Collation "C" sorts in half the time of a
-- language's rules.
select region, sdk_app_id,
       array_agg((extract(epoch from bucket - cast(:strip_from as timestamptz)) / :seconds)::int)
           as buckets,
       array_agg(ok) as ok, array_agg(failed) as failed
  from (select p.sdk_app_id, p.region collate "C" as region,
               date_bin(make_interval(secs => :seconds), p.requested_at,
                        cast(:strip_from as timestamptz)) as bucket,
               count(*) filter (where p.outcome = any(cast(:good as text[]))) as ok,
               count(*) filter (where p.outcome = any(cast(:failed as text[]))) as failed
          from attr_audit.poll p
         where p.requested_at >= :strip_from and not
               {names_no_app}
         group by 1, 2, 3) b
 group by sdk_app_id, region
