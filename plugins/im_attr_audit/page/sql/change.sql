-- One change, with the poll that recorded it.
select c.change_id, c.region, c.sdk_app_id, a.app_group, c.seq, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type, c.not_before, c.seen_at, c.recorded_at, c.dag_run_id,
       encode(c.row_hash, 'hex') as row_hash,
       c.poll_id, encode(c.prev_hash, 'hex') as prev_hash, c.answer,
       p.requested_at, p.reads, p.conn_id,
       case when p.vendor_date between timestamptz '0002-01-01' and timestamptz '9999-01-01'
            then p.vendor_date end as vendor_date, -- a datetime of Python has no other year
       (select max(n.seq) from attr_audit.change n
         where n.region = c.region and n.sdk_app_id = c.sdk_app_id) as head_seq
  from attr_audit.change c
  join attr_audit.app a using (region, sdk_app_id)
  left join lateral (
       select * from attr_audit.poll p
        where p.region = c.region and p.sdk_app_id = c.sdk_app_id and p.poll_id = c.poll_id
          and p.outcome = any(cast(:good as text[]))
          and p.requested_at between c.seen_at - interval '1 day' and c.recorded_at
        limit 1) p on true
 where c.region = :region and c.sdk_app_id = :sdk_app_id and c.seq = :seq
