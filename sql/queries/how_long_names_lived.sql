-- How long was each name in use?
--
-- Variables: region, slot (all).
-- at_least: from the first to the last poll that saw the name. at_most: from its earliest possible
-- start until another name was seen; none for a name of the baseline and for one still in use.
-- A change of type alone does not end the use of a name.
\if :{?region}
\else
    \set region ''
\endif
\if :{?slot}
\else
    \set slot ''
\endif
\pset null '(none)'

with spans as (
    select h.*, lag(h.name) over slots is not distinct from h.name
                and lag(h.valid_to) over slots = h.valid_from as goes_on
      from attr_audit.name_history h
     where (:'region' = '' or h.region = :'region')
       and (:'slot' = '' or h.slot = nullif(:'slot', '')::smallint)
    window slots as (partition by h.region, h.sdk_app_id, h.slot order by h.valid_from)
), lives as (
    select s.*, count(*) filter (where not s.goes_on) over slots as life
      from spans s
    window slots as (partition by s.region, s.sdk_app_id, s.slot order by s.valid_from)
)
select region, sdk_app_id, slot, name, min(valid_from) as first_seen_at,
       greatest(max(certain_to) - min(valid_from), interval '0') as at_least,
       case when bool_and(valid_to is not null)
            then max(valid_to) - (array_agg(possible_from order by valid_from))[1]
        end as at_most,
       bool_or(valid_to is null) as still_so
  from lives
 group by region, sdk_app_id, slot, name, life
 order by region, sdk_app_id, slot, first_seen_at;
