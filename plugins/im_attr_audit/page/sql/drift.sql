-- Slots with drift.
select app_group, slot, distinct_names from attr_audit.drift
