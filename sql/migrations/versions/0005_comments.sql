-- Comments of the released objects in plain English. Nothing but comments.

comment on table attr_audit.app is
    'One SDKAppID in one region, the unit that is polled, with its current state.';
comment on column attr_audit.app.region is 'Label of the vendor''s data centre, such as frankfurt.';
comment on column attr_audit.app.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.app.app_group is
    'Apps that are meant to have the same names (one product in several regions).';
comment on column attr_audit.app.api is
    'The vendor''s API family set in the connection: all_member_push or timpush.';
comment on column attr_audit.app.first_polled_at is 'When the request of the first poll was sent.';
comment on column attr_audit.app.first_ok_at is
    'When the first answer of the first good poll arrived; null: no good poll yet.';
comment on column attr_audit.app.last_polled_at is 'When the first request of the newest poll was sent.';
comment on column attr_audit.app.last_ok_at is
    'When the request of the last read that saw the present state was sent; null: no good poll yet.';
comment on column attr_audit.app.last_outcome is 'The outcome of the newest poll (see poll.outcome).';
comment on column attr_audit.app.retired_at is
    'Since when the app is no longer listed in im_attr_audit_conn_ids; null: it is listed.';
comment on column attr_audit.app.conn_id is 'The Airflow connection of the newest poll.';
comment on column attr_audit.app.snapshot_digest is
    'SHA-256 of the snapshot''s [slot, name, attr_type] triples. It detects an unchanged answer without reading the snapshot.';

comment on table attr_audit.poll is
    'Every poll with its outcome. Append-only; one partition per month (UTC), kept as long as retention is configured.';
comment on column attr_audit.poll.poll_id is 'Number of the poll, set by the database.';
comment on column attr_audit.poll.conn_id is 'The Airflow connection that was used.';
comment on column attr_audit.poll.region is 'The app''s region; null only if misconfigured.';
comment on column attr_audit.poll.sdk_app_id is 'The app''s SDKAppID; null only if misconfigured.';
comment on column attr_audit.poll.api is 'The vendor''s API family that was called.';
comment on column attr_audit.poll.dag_run_id is 'The Airflow run of the poll.';
comment on column attr_audit.poll.try_number is 'The task''s try, 1 for the first.';
comment on column attr_audit.poll.requested_at is
    'When the first request was sent; if none was sent, when the poll was made.';
comment on column attr_audit.poll.responded_at is
    'When the last answer arrived or the wait for it ended; null: nothing was sent.';
comment on column attr_audit.poll.outcome is
    'ok; unstable: the reads gave different names, or a removal of all names awaits confirmation; rejected: the vendor refused the call; unavailable: network error, 5xx, vendor busy or rate limit; invalid: the answer is not a valid one; misconfigured: nothing was sent; late: older than what is already recorded. Only ok changes snapshot or change.';
comment on column attr_audit.poll.reads is 'How many reads the poll took.';
comment on column attr_audit.poll.error_info is 'The vendor''s ErrorInfo, or our reason if it gave none.';
comment on column attr_audit.poll.answer is
    'If invalid: the answer, clipped, without secrets and with unprintable characters escaped.';
comment on column attr_audit.poll.recorded_at is 'When the database recorded the poll.';

comment on table attr_audit.snapshot is
    'The names as last known. The database derives it from change; no role writes it directly.';
comment on column attr_audit.snapshot.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.snapshot.name is 'The slot''s name, exactly as sent; may be empty.';
comment on column attr_audit.snapshot.attr_type is
    'timpush only: 0 IM UserID, 1 RegistrationID; null: never sent.';

comment on table attr_audit.change is
    'A change of one slot''s name or type. Append-only; each app''s rows form a hash chain.';
comment on column attr_audit.change.change_id is
    'Number of the row, set by the database. The order within an app is that of seq.';
comment on column attr_audit.change.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.change.seq is '1, 2, 3 … without gaps per app: the order of its changes.';
comment on column attr_audit.change.kind is
    'baseline: the first names known of an app, of a type or of another API family; added, renamed, removed; retyped: same name, both types known and different.';
comment on column attr_audit.change.old_type is 'The type before; null: unknown.';
comment on column attr_audit.change.new_type is 'The type after; null: unknown.';
comment on column attr_audit.change.is_baseline is
    'True for the first state known of an app or of a new source: not a change.';
comment on column attr_audit.change.seen_at is
    'When the answer of the first read that saw the new state arrived.';
comment on column attr_audit.change.prior_ok_at is
    'The app''s last_ok_at when this was recorded (for a baseline too); null: the app had no good poll before.';
comment on column attr_audit.change.span_from is
    'Derived: seen_at is the end and this the start of the span that the row closes. For an addition it is the span in which it is unknown whether the slot had a name. Null for the app''s first baseline.';
comment on column attr_audit.change.span_class is
    'Derived, for names_as_of: the span is shorter than 1 hour (0), 4 hours (1), 16 hours (2), 64 hours (3), 256 hours (4), 1,024 hours (5), or longer (6).';
comment on column attr_audit.change.prev_hash is 'row_hash of the app''s previous change; null for the first.';

comment on table attr_audit.notification is
    'The queue of alerts, one row each. Alerts of one kind from one run are sent as one message by that run''s report, or by a later one if the messenger is down.';
comment on column attr_audit.notification.notification_id is
    'Number of the alert, set by the database: the order of sending.';
comment on column attr_audit.notification.kind is
    'change: a slot has a different name; stale: the app had no good poll for longer than the limit; back: it has a good poll again.';
comment on column attr_audit.notification.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.notification.change_id is 'For change: the row of change.';
comment on column attr_audit.notification.gap_from is
    'For stale and back: the last good poll before the gap, or the first poll if there was no good one. Each gap causes one alert of each kind.';
comment on column attr_audit.notification.gap_to is 'For back: the good poll that ended the gap.';
comment on column attr_audit.notification.dag_run_id is 'The Airflow run that queued the alert.';
comment on column attr_audit.notification.created_at is 'When the database recorded the alert.';
comment on column attr_audit.notification.sent_to is
    'Digests of the destinations that accepted the alert while another one was down. No addresses.';
comment on column attr_audit.notification.sent_at is
    'When every destination had accepted it; null: it waits, or is too old to be sent.';

comment on view attr_audit.name_history is
    'Every span in which a slot had a name, retired apps included. It began between possible_from and valid_from and ended between certain_to and valid_to. A type that became known or changed begins a new span of the same name.';
comment on column attr_audit.name_history.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.name_history.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.name_history.name is 'The slot''s name in this span.';
comment on column attr_audit.name_history.attr_type is 'timpush only: 0 IM UserID, 1 RegistrationID; null: unknown.';
comment on column attr_audit.name_history.possible_from is
    'The earliest time at which it can have begun; null for a baseline.';
comment on column attr_audit.name_history.valid_from is 'When the answer of the first read that saw it arrived.';
comment on column attr_audit.name_history.valid_to is 'When another name, or none, was first seen; null: still so.';

comment on view attr_audit.current_names is
    'The names as last known, without retired apps. confirmed_at is the last good poll.';
comment on column attr_audit.current_names.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.current_names.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.current_names.name is 'The slot''s name.';
comment on column attr_audit.current_names.attr_type is 'timpush only: 0 IM UserID, 1 RegistrationID; null: unknown.';
comment on column attr_audit.current_names.not_before is
    'The name was set after this; null: it is part of the baseline.';
comment on column attr_audit.current_names.seen_at is
    'The name was set before this: the answer of the first read that saw it arrived.';

comment on view attr_audit.drift is
    'Slots that now have different names in apps of one group. Only apps with a good poll, without retired ones. Names are compared exactly; types are not compared.';
comment on column attr_audit.drift.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.drift.distinct_names is
    'How many different names the slot has. An absent name is not counted: 1 if some apps have that name and the others none.';
comment on column attr_audit.drift.names is
    '"region/sdk_app_id" to name; null: the app was polled and has no name in this slot.';

comment on column attr_audit.freshness.sdk_app_id is 'The app''s SDKAppID.';
comment on column attr_audit.freshness.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.freshness.last_ok_at is
    'When the request of the last read that saw the present state was sent; null: no good poll yet.';
comment on column attr_audit.freshness.age is 'Time since last_ok_at, or since the first poll if there is no good one.';
comment on column attr_audit.freshness.last_outcome is 'The outcome of the newest poll.';

comment on column attr_audit.daily_changes.app_group is 'Apps that are meant to have the same names.';
comment on column attr_audit.daily_changes.changes is 'The number of changes.';

comment on function attr_audit.names_as_of(timestamptz) is
    'The names last seen at or before the given time, retired apps included. certain is false strictly between the bounds of the slot''s next change (for a baseline: after the app''s prior_ok_at) and after the app''s last_ok_at; on a bound itself it is true. A slot within the bounds of its addition is a row with name null, not certain. There are no rows for an app before its first good poll. Certain means that the polls on both sides agree: a change that was reverted between two polls cannot be seen.';
comment on function attr_audit.coverage_gaps(interval) is
    'Consecutive good polls of an app that are more than longer_than apart. A gap begins with the request of the last read of one good poll (gap_from) and ends with the first request of the next (gap_to; null: still open, also for a retired app). polls_failed counts the failed polls in between. It reaches back as far as poll is kept. An app without any good poll has no gap: see freshness.';
comment on function attr_audit.verify_chain() is
    'Recomputes every app''s chain. Returns ok, or the first seq whose row does not follow from the previous one. It cannot find a consistent rewrite, a cut tail or a dropped app: `im-attr-audit verify` compares with heads saved outside the database.';
comment on function attr_audit.change_canonical(attr_audit.change) is
    'The text whose SHA-256 is row_hash: a JSON array of the row''s columns without row_hash and the derived kind, span_from and span_class.';
comment on function attr_audit.snapshot_digest_of(text, bigint) is
    'The expected app.snapshot_digest: SHA-256 of the JSON array of [slot, name, attr_type] in slot order.';
comment on function attr_audit.refuse_rewriting() is
    'Refuses update, delete and truncate of the record, by its owner too.';
comment on function attr_audit.create_poll_partition(date) is
    'Creates the partition of poll for the date''s month (UTC); false if it exists.';
comment on function attr_audit.ensure_poll_partitions() is
    'Creates the missing partitions of poll from this month to three months ahead; returns their number.';
comment on function attr_audit.note_changes() is
    'Queues an alert for every new change that is not a baseline, in the change''s own transaction.';
comment on function attr_audit.refuse_sending_again() is
    'Refuses to mark a sent alert again, or as unsent.';
