-- The changes with a name that contains the text, found by indexes; null where they are too many for that.
-- `known` goes from each name to the next one. A new name is the old one of the slot's next change, or is
-- still there.
with recursive known (name) as (
    (select c.old_name from attr_audit.change c
      where c.old_name is not null
      order by c.old_name limit 1)
     union all
    select (select c.old_name from attr_audit.change c
             where c.old_name > k.name order by c.old_name limit 1)
      from known k
     where k.name is not null
), matching as materialized (
    select array_agg(k.name) filter (where k.name ilike :name) as names, count(*) as looked_at
      from (select name from known limit 10001) k
), ended as materialized (
    select c.change_id, c.region, c.sdk_app_id, c.slot, c.seq
      from attr_audit.change c
     where c.old_name = any((select names from matching)::text[])
     limit 2001
), present as materialized (
    select s.region, s.sdk_app_id, s.slot from attr_audit.snapshot s
     where s.name ilike :name
     limit 2001
)
select case when m.looked_at <= 10000 and (select count(*) from ended) <= 2000
                 and (select count(*) from present) <= 2000
            then array(select e.change_id from ended e
                        union all
                       select b.change_id
                         from ended e
                        cross join lateral (
                              select c.change_id from attr_audit.change c
                               where c.slot = e.slot and c.region = e.region
                                 and c.sdk_app_id = e.sdk_app_id and c.seq < e.seq
                               order by c.seq desc limit 1) b
                        union all
                       select b.change_id
                         from present p
                        cross join lateral (
                              select c.change_id from attr_audit.change c
                               where c.slot = p.slot and c.region = p.region
                                 and c.sdk_app_id = p.sdk_app_id
                               order by c.seq desc limit 1) b) end as change_ids
  from matching m
