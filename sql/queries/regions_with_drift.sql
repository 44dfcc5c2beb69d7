-- Which apps of a group have different names?
--
-- One row per app, for every slot whose apps should have the same name but do not. No name: the app
-- was polled and has no name in this slot.
\pset null '(none)'

select d.app_group, d.slot, d.distinct_names, n.app, n.name
  from attr_audit.drift d
 cross join jsonb_each_text(d.names) as n (app, name)
 order by d.app_group, d.slot, n.app;
