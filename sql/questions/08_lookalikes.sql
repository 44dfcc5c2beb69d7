-- Which new names look like the old one on a screen, but are different for a campaign?
select seen_at, app_group, region, slot, old_name, new_name, lookalike
  from attr_audit.changes
 where lookalike is not null
 order by seen_at;
