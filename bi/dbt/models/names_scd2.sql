-- Every name of every slot with its type and validity: a slowly changing dimension of type 2.
-- A join by valid_from and valid_to gives the name last seen. For what is certain join by valid_from and
-- certain_to: between certain_to and valid_to the change happened.
select
    region || '/' || sdk_app_id || '/' || slot as attribute_key,
    region,
    sdk_app_id,
    app_group,
    slot,
    name,
    attr_type,
    possible_from,
    valid_from,
    certain_to,
    coalesce(valid_to, '9999-12-31 00:00+00') as valid_to,
    valid_to is null as is_current
from {{ source('attr_audit', 'name_history') }}
