-- How many apps are listed, and their groups.
select count(*) as apps, array_agg(distinct app_group) as app_groups from attr_audit.app where retired_at is null
