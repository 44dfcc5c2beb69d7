-- How often was that name missing from all slots of an app, and for how long, at least and at most?
with span as (select * from attr_audit.name_history where name = 'Membership level'),
     missing as (select region, sdk_app_id, unnest(tstzmultirange(tstzrange(min(valid_from), null))
                        - range_agg(tstzrange(valid_from, valid_to))) as gap from span group by 1, 2)
select distinct s.region, s.sdk_app_id, s.certain_to as not_before, lower(gap) as seen_at,
       coalesce(b.possible_from, c.prior_ok_at) as back_not_before, upper(gap) as back_seen_at,
       coalesce(b.possible_from, c.prior_ok_at) - lower(gap) as at_least, upper(gap) - s.certain_to as at_most
  from missing m join span s on (s.region, s.sdk_app_id, s.valid_to) = (m.region, m.sdk_app_id, lower(gap))
  left join span b on (b.region, b.sdk_app_id, b.valid_from) = (m.region, m.sdk_app_id, upper(gap))
  left join attr_audit.change c on (c.region, c.sdk_app_id, c.new_name, c.seen_at) = (b.region, b.sdk_app_id, b.name, b.valid_from)
 order by 1, 2, 3;
