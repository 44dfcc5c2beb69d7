-- Which of my campaigns' attribute names no longer exist, and since when?
--
-- Variables: names, a JSON array such as ["city", "Membership level"] ([]: every name ever seen).
-- One row per app that had the name and now has it in no slot. The name disappeared between
-- last_seen_at and gone_by. A name that no app ever had gives one row without an app.
\if :{?names}
\else
    \set names []
\endif
\pset null '(none)'

with listed as (
    select j.name
      from jsonb_array_elements_text(:'names') as j (name)
     union
    select h.name
      from attr_audit.name_history h
     where :'names'::jsonb = '[]'
), newest as (
    select distinct on (h.name, h.region, h.sdk_app_id)
           h.name, h.region, h.sdk_app_id, h.app_group, h.slot, h.certain_to, h.valid_to,
           a.retired_at
      from attr_audit.name_history h
      join listed using (name)
      join attr_audit.app a using (region, sdk_app_id)
     order by h.name, h.region, h.sdk_app_id, h.valid_to desc nulls first
)
select name, n.app_group, n.region, n.sdk_app_id, n.slot as last_slot,
       case when n.region is null then 'never seen'
            when n.valid_to is not null then 'gone'
            else 'app is no longer listed'
        end as what,
       n.certain_to as last_seen_at, n.valid_to as gone_by
  from listed
  left join newest n using (name)
 where n.region is null or n.valid_to is not null or n.retired_at is not null
 order by name, n.region, n.sdk_app_id;
