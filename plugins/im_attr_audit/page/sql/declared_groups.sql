-- The groups that the declaration in force names, and whether anybody reviews changes at all.
select exists (select from attr_audit.review) as is_reviewed,
       coalesce((select array(select jsonb_object_keys(d.document -> 'groups'))
                   from attr_audit.declaration d
                  order by d.declaration_id desc limit 1), '{}') as groups
