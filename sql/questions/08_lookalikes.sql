-- Which renames look like the old name on a screen, and are another name to a campaign?
select seen_at, app_group, region, slot, old_name, new_name, lookalike
  from attr_audit.changes
 where lookalike is not null
 order by seen_at;
