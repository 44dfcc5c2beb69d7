-- A copy of every change, loaded by a cursor per app. Neither change_id nor recorded_at is a cursor: a row
-- of an earlier transaction can appear later. What can change afterwards (reviews) is not copied.
{{ config(materialized='incremental', incremental_strategy='append') }}

select
    c.region,
    c.sdk_app_id,
    c.seq,
    c.seen_at,
    c.not_before,
    c.app_group,
    c.slot,
    c.kind,
    c.old_name,
    c.new_name,
    c.lookalike,
    c.moved_from_slot,
    c.detect_seconds,
    c.dag_run_id,
    c.row_hash
from {{ source('attr_audit', 'changes') }} as c
{% if is_incremental() %}
left join (
    select region, sdk_app_id, max(seq) as seq from {{ this }} group by region, sdk_app_id
) as loaded on loaded.region = c.region and loaded.sdk_app_id = c.sdk_app_id
where c.seq > coalesce(loaded.seq, 0)
{% endif %}
