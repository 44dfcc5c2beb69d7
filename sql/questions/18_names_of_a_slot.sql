-- What was slot 2 of one app called over time?
select name, possible_from, valid_from, certain_to, valid_to
  from attr_audit.name_history
 where region = 'frankfurt' and sdk_app_id = 1400000001 and slot = 2
 order by valid_from;
