-- Stretches without a good poll that are longer than the limit, read with the limit's margin on both
-- sides of the window; as far back as polls are kept, also where they are folded.
with kept as (
    select greatest(
               least((select min(requested_at) from attr_audit.poll),
                     (select min(c.from_at)
                        from unnest(cast(:regions as text[]), cast(:ids as bigint[]))
                             as u (region, sdk_app_id)
                        join attr_audit.coverage c using (region, sdk_app_id))),
               cast(:window_from as timestamptz) - :longer_than) as since
), good as (
    select u.region, u.sdk_app_id, p.requested_at as asked_at,
           coalesce(p.last_requested_at, p.requested_at) as confirmed_at
      from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
      join attr_audit.poll p on p.region = u.region and p.sdk_app_id = u.sdk_app_id
     where p.outcome = any(cast(:good as text[]))
       and p.requested_at >= cast(:window_from as timestamptz) - :longer_than
       and p.requested_at <= cast(:window_to as timestamptz) + :longer_than
    union all
    select u.region, u.sdk_app_id, c.from_at + t.asked_us * interval '1 microsecond',
           c.from_at + t.confirmed_us * interval '1 microsecond'
      from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
      join attr_audit.coverage c on c.region = u.region and c.sdk_app_id = u.sdk_app_id
     cross join lateral unnest(c.asked_us, coalesce(c.confirmed_us, c.asked_us))
                as t (asked_us, confirmed_us)
     where c.to_at >= cast(:window_from as timestamptz) - :longer_than
       and c.from_at <= cast(:window_to as timestamptz) + :longer_than
    union all
    select u.region, u.sdk_app_id, edge.at, edge.at
      from unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
      join attr_audit.app a on a.region = u.region and a.sdk_app_id = u.sdk_app_id,
           kept,
           lateral (values (greatest(kept.since, a.first_ok_at)),
                           (least(now(), cast(:window_to as timestamptz) + :longer_than))) edge (at)
     where a.first_ok_at is not null and edge.at >= a.first_ok_at
), pair as (
    select region, sdk_app_id, confirmed_at as gap_from,
           lead(asked_at) over (partition by region, sdk_app_id order by asked_at) as gap_to
      from good
)
select region, sdk_app_id, gap_from, gap_to
  from pair
 where gap_to - gap_from > :longer_than and gap_to > :window_from and gap_from < :window_to
 order by gap_from
