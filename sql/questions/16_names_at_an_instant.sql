-- What was slot 2 called when a campaign was sent, and is that certain?
select region, sdk_app_id, name, certain
  from attr_audit.names_as_of('2026-05-12 08:30Z')
 where app_group = 'shop' and slot = 2
 order by region;
