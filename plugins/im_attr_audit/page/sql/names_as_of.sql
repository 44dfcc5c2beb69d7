-- The names at an instant.
select region, sdk_app_id, slot, name, attr_type, certain from attr_audit.names_as_of(:at)
