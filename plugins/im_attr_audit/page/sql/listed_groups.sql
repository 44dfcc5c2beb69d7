-- How many apps are listed, and the first of their groups.
select count(*) as apps, min(app_group) as first from attr_audit.app where retired_at is null
