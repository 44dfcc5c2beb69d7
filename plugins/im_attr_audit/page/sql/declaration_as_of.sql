-- The declaration that was in force at an instant.
select document::text as document
  from attr_audit.declaration
 where recorded_at <= :at
 order by declaration_id desc
 limit 1
