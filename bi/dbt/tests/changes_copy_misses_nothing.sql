-- Up to the newest change that was copied of an app. What was recorded since the last run comes with the next.
select c.region, c.sdk_app_id, c.seq
from {{ source('attr_audit', 'changes') }} as c
inner join (
    select region, sdk_app_id, max(seq) as seq
    from {{ ref('changes_copy') }}
    group by region, sdk_app_id
) as newest on newest.region = c.region and newest.sdk_app_id = c.sdk_app_id and newest.seq >= c.seq
left join {{ ref('changes_copy') }} as copied
    on copied.region = c.region and copied.sdk_app_id = c.sdk_app_id and copied.seq = c.seq
where copied.seq is null
