-- Fails when one app is stale, and names it. `dbt source freshness` fails then too.
select region, sdk_app_id, app_group, last_ok_at, age, last_outcome, consecutive_failures
from {{ source('attr_audit', 'freshness') }}
where age > interval '{{ var("stale_after") }}'
