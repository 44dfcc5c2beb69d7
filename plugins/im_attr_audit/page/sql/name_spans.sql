-- Every span of a name that contains the text, present ones first.
select h.region, h.sdk_app_id, h.app_group, h.slot, h.name, h.attr_type, h.possible_from,
       h.valid_from, h.certain_to, h.valid_to, a.retired_at is not null as retired
  from attr_audit.name_history h
  join attr_audit.app a using (region, sdk_app_id)
 where h.name ilike :name and (cast(:app_group as text) is null or h.app_group = :app_group)
 order by h.valid_to desc nulls first, h.app_group, h.slot, h.name, h.region, h.sdk_app_id
 limit :at_most
