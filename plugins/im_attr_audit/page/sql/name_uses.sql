-- Where a name that contains the text is used and was used, summed up.
select h.app_group, h.slot, h.name,
       count(distinct (h.region, h.sdk_app_id)) filter (where h.valid_to is null) as apps,
       count(distinct (h.region, h.sdk_app_id)) as apps_ever, min(h.valid_from) as seen_from,
       case when bool_or(h.valid_to is null) then null else max(h.valid_to) end as gone_by
  from attr_audit.name_history h
 where h.name ilike :name and (cast(:app_group as text) is null or h.app_group = :app_group)
 group by h.app_group, h.slot, h.name
 order by apps desc, apps_ever desc, h.app_group, h.slot, h.name
 limit :at_most
