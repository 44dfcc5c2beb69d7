-- What was recorded, as a CSV from which an outsider can recompute every app's hash chain?
--
-- One row per change. Times are microseconds since 1970 UTC, hashes hex. A CSV cannot
-- distinguish an empty name from none; old_known and new_known do (t: there was a name, maybe empty).
-- kind is derived from the other columns and is not hashed. docs/data-model.md has the twenty lines
-- of Python that check the file; `im-attr-audit verify --export FILE` does the same.
copy (
    select change_id, region, sdk_app_id, seq, slot, kind,
           old_name is not null as old_known, old_name,
           new_name is not null as new_known, new_name,
           old_type, new_type, is_baseline,
           (extract(epoch from not_before) * 1000000)::bigint as not_before_us,
           (extract(epoch from seen_at) * 1000000)::bigint as seen_at_us,
           answer, poll_id, dag_run_id,
           (extract(epoch from recorded_at) * 1000000)::bigint as recorded_at_us,
           (extract(epoch from prior_ok_at) * 1000000)::bigint as prior_ok_at_us,
           (extract(epoch from old_not_before) * 1000000)::bigint as old_not_before_us,
           (extract(epoch from old_seen_at) * 1000000)::bigint as old_seen_at_us,
           encode(prev_hash, 'hex') as prev_hash, encode(row_hash, 'hex') as row_hash
      from attr_audit.change
     order by region, sdk_app_id, seq
) to stdout (format csv, header, encoding 'UTF8');
