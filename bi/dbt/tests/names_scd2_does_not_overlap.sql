select one.attribute_key, one.valid_from, other.valid_from as other_valid_from
from {{ ref('names_scd2') }} as one
inner join {{ ref('names_scd2') }} as other
    on other.attribute_key = one.attribute_key and other.valid_from > one.valid_from
where other.valid_from < one.valid_to
