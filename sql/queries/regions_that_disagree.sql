-- Which regions disagree?
--
-- One row per app of every slot whose apps, meant to carry the same names, do not; no name: the
-- app was asked and has none there.
\pset null '(none)'

select d.app_group, d.slot, d.distinct_names, n.app, n.name
  from attr_audit.drift d
 cross join jsonb_each_text(d.names) as n (app, name)
 order by d.app_group, d.slot, n.app;
