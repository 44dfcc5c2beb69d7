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
           attr_audit.epoch_us(not_before) as not_before_us,
           attr_audit.epoch_us(seen_at) as seen_at_us,
           answer, poll_id, dag_run_id,
           attr_audit.epoch_us(recorded_at) as recorded_at_us,
           attr_audit.epoch_us(prior_ok_at) as prior_ok_at_us,
           attr_audit.epoch_us(old_not_before) as old_not_before_us,
           attr_audit.epoch_us(old_seen_at) as old_seen_at_us,
           encode(prev_hash, 'hex') as prev_hash, encode(row_hash, 'hex') as row_hash
      from attr_audit.change
     order by region, sdk_app_id, seq
) to stdout (format csv, header, encoding 'UTF8');
