-- The newest checkpoint at each witness of a log, among its last 3,000: a month of quarters of an hour.
select distinct on (target) target, size, witnessed_at
  from attr_audit.witnessed
 where origin = :origin and size > cast(:n as bigint) - 3000
 order by target, size desc
