-- Which changes are not in my copy yet, given the last seq that it has for each app?
select c.region, c.sdk_app_id, c.seq, c.seen_at, c.slot, c.kind, c.old_name, c.new_name
  from attr_audit.changes c
  left join (values ('frankfurt', 1400000001, 5), ('singapore', 1400000002, 4),
                    ('china', 1400000012, 2), ('seoul', 1400000003, 3)) as mine (region, sdk_app_id, seq)
    on mine.region = c.region and mine.sdk_app_id = c.sdk_app_id
 where c.seq > coalesce(mine.seq, 0)
 order by c.region, c.sdk_app_id, c.seq;
