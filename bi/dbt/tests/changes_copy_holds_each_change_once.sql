select region, sdk_app_id, seq, count(*) as times
from {{ ref('changes_copy') }}
group by region, sdk_app_id, seq
having count(*) > 1
