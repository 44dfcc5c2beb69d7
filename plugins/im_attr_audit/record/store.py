"""Recording polls in Postgres.

Each function does its work in one short transaction; no HTTP happens inside one. The number of
statements does not depend on the number of apps. Database errors are not wrapped: SQLAlchemy's are
raised, with their parameters hidden.

Nearly every poll finds what is on record. The database recognises those by the snapshot's digest
and records them in the one statement that takes their locks (`record_unchanged`). Only the others
are returned as rows, read again, judged one by one (`rules.judge`); they cost several times as
much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError, InternalError, ProgrammingError

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import PollFailed
from im_attr_audit.record.arrays import Rows, microseconds
from im_attr_audit.record.clock import TOLERANCE, Clock
from im_attr_audit.record.known import KNOWN_COLUMNS, AsRead, lock_apps, read_known
from im_attr_audit.record.rules import Known, NewChange, Poll, Verdict, advance, judge


class Recorded(NamedTuple):
    """One poll as it was recorded; ``error_info`` is None where all is well.

    ``calls``: how long each call to the vendor took. ``changes``: those recorded, no baselines.
    """

    conn_id: str
    region: str | None
    sdk_app_id: int | None
    app_group: str | None
    api: str | None
    outcome: str
    error_info: str | None
    error_code: int | None
    calls: tuple[timedelta, ...] = ()
    changes: int = 0


#: Errors by which the database refuses what it is given; a retry does not change them.
_REFUSALS = (DataError, IntegrityError, InternalError, ProgrammingError)

# A poll changes nothing when judge() would give nothing but "ok" and advance() nothing but later
# times: one read, of the names that are known, from the same source, not late, with no removal
# that awaits its confirmation. Its times must also be those of the database's clock now.
_CHANGES_NOTHING = """(a.snapshot_digest = r.digest and a.ok_api = r.asked_api
       and a.api = r.asked_api and a.emptied_seen_at is null
       and a.last_poll_ended_at <= r.requested_at and a.last_polled_at <= r.requested_at
       and a.last_ok_at <= r.requested_at and r.clock_is_right) is true"""

_NEW = Rows(
    "new",
    "region text, sdk_app_id bigint, app_group text, api text, conn_id text, "
    "requested_at timestamptz, outcome text",
)
_INSERT_APPS = text(f"""
insert into attr_audit.app (region, sdk_app_id, app_group, api, conn_id, first_polled_at,
                            last_polled_at, last_outcome)
select region, sdk_app_id, app_group, api, conn_id, requested_at, requested_at, outcome
  from ({_NEW.sql}) r
 order by region, sdk_app_id
    on conflict (region, sdk_app_id) do nothing
""")

# The app's newest change, of an app whose row is locked: the database refuses another.
_HEAD = """(select c.seq from attr_audit.change c
             where c.region = r.region and c.sdk_app_id = r.sdk_app_id
             order by c.seq desc limit 1)"""

_ASKED = Rows(
    "asked",
    "region text, sdk_app_id bigint, asked_api text, digest bytea, requested_at timestamptz, "
    "responded_at timestamptz, conn_id text, app_group text, http_status integer, "
    "vendor_date timestamptz",
)
# All locks in one statement and in one order: two tasks cannot block each other.
_RECORD_UNCHANGED = text(f"""
with asked as materialized (
    select q.*, (clock_timestamp() between to_timestamp(cast(:clock_from as float8) / 1e6)
                     and to_timestamp(cast(:clock_to as float8) / 1e6)) is not false
                as clock_is_right
      from ({_ASKED.sql}) q
), locked as materialized (
    select r.*, {KNOWN_COLUMNS}, {_CHANGES_NOTHING} as changes_nothing
      from asked r
      join attr_audit.app a using (region, sdk_app_id)
     order by region, sdk_app_id
       for update of a
), polls as (
    insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number,
                                 requested_at, last_requested_at, responded_at, outcome, reads,
                                 http_status, vendor_date, head_seq)
    select conn_id, region, sdk_app_id, asked_api, :dag_run_id, :try_number,
           requested_at, requested_at, responded_at, 'ok', 1, http_status, vendor_date, {_HEAD}
      from locked r
     where changes_nothing
), apps as (
    update attr_audit.app a
       set app_group = r.app_group, conn_id = r.conn_id, last_polled_at = r.requested_at,
           last_ok_at = r.requested_at, last_outcome = 'ok', last_poll_ended_at = r.responded_at,
           consecutive_failures = 0
      from locked r
     where r.changes_nothing and a.region = r.region and a.sdk_app_id = r.sdk_app_id
)
select r.region, r.sdk_app_id, {KNOWN_COLUMNS}
  from asked r
  left join locked a using (region, sdk_app_id)
 where a.changes_nothing is not true
""")

_POLLS = Rows(
    "poll",
    "conn_id text, region text, sdk_app_id bigint, api text, requested_at timestamptz, "
    "last_requested_at timestamptz, responded_at timestamptz, outcome text, reads smallint, "
    "http_status integer, error_code integer, error_info text, answer text, "
    "vendor_date timestamptz, names_read smallint, first_responded_at timestamptz",
)
_INSERT_POLLS = text(f"""
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_code, error_info, answer, vendor_date, names_read,
                             first_responded_at, head_seq)
select conn_id, region, sdk_app_id, api, :dag_run_id, :try_number, requested_at,
       last_requested_at, responded_at, outcome, reads, http_status,
       error_code, error_info, answer, vendor_date, names_read, first_responded_at, {_HEAD}
  from ({_POLLS.sql}) r
returning poll_id, conn_id
""")

# What all changes of a poll share is sent once: an answer is longer than its names.
_CHANGED = Rows(
    "changed",
    "place integer, region text, sdk_app_id bigint, not_before timestamptz, seen_at timestamptz, "
    "answer text, poll_id bigint",
)
_CHANGES = Rows(
    "change",
    "place integer, slot smallint, old_name text, new_name text, old_type smallint, "
    "new_type smallint, is_baseline boolean",
)
_INSERT_CHANGES = text(f"""
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
                               is_baseline, not_before, seen_at, answer, poll_id, dag_run_id)
select region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
       is_baseline, case when not is_baseline then not_before end, seen_at, answer, poll_id,
       :dag_run_id
  from ({_CHANGED.sql}) p
  join ({_CHANGES.sql}) c using (place)
 order by place, slot
""")

_AFTER = Rows(
    "after",
    "region text, sdk_app_id bigint, app_group text, conn_id text, names_changed boolean, "
    "api text, ok_api text, first_ok_at timestamptz, last_ok_at timestamptz, "
    "last_polled_at timestamptz, last_outcome text, last_poll_ended_at timestamptz, "
    "consecutive_failures integer",
)
# Not emptied_*: the database sets it itself, by the polls. An empty digest is its to compute.
_UPDATE_APPS = text(f"""
update attr_audit.app a
   set app_group = coalesce(r.app_group, a.app_group), api = r.api, conn_id = r.conn_id,
       ok_api = r.ok_api,
       first_ok_at = r.first_ok_at, last_ok_at = r.last_ok_at, last_polled_at = r.last_polled_at,
       last_outcome = r.last_outcome, last_poll_ended_at = r.last_poll_ended_at,
       consecutive_failures = r.consecutive_failures,
       snapshot_digest = case when r.names_changed then '' else a.snapshot_digest end
  from ({_AFTER.sql}) r
 where a.region = r.region and a.sdk_app_id = r.sdk_app_id
""")


def record_unchanged(
    engine: Engine,
    polls: Iterable[Poll],
    *,
    dag_run_id: str,
    try_number: int | None,
    clock: Clock | None = None,
) -> AsRead:
    """Record the polls whose answer is what is on record; gives what is on record of the others.

    All in one transaction. The others, and polls without an answer, are left to `record_polls`; so
    is everything where the database refuses an app, which is found out there. A poll that was
    answered has one read here: the caller decides which apps to read again.
    ``clock``: the one that the polls' times come from. Nothing is recorded here where it differs
    from the database's clock by now.
    """
    answered = {app: poll for poll in polls if (app := poll.app) and poll.reads}
    if not answered:
        return {}
    given: dict[str, Any] = {
        **_ASKED.parameters(map(_asked_row, answered.values())),
        "dag_run_id": dag_run_id,
        "try_number": try_number,
        "clock_from": clock and microseconds(clock.earliest() - TOLERANCE),
        "clock_to": clock and microseconds(clock.latest() + TOLERANCE),
    }
    try:
        with engine.begin() as connection:
            rows = connection.execute(_RECORD_UNCHANGED, given).all()
            found = [row for row in rows if row.api is not None]
            known = read_known(connection, found, answered, {})
    except _REFUSALS:
        return dict.fromkeys(answered)
    apps = [AppKey(row.region, row.sdk_app_id) for row in rows]
    return {app: known.get(app) for app in apps}


def record_polls(
    engine: Engine,
    polls: Sequence[Poll],
    *,
    dag_run_id: str,
    try_number: int | None,
    as_read: AsRead | None = None,
) -> list[Recorded]:
    """Judge and record polls, each app's poll, changes, snapshot and app row together.

    All in one transaction. Where the database refuses it because of one app, halves are tried
    until that app is found, so that it stops no other; its error is raised when the rest is
    recorded.
    The same app may not be among the polls twice unless it was never asked (misconfigured).
    ``as_read``: what `record_unchanged` gave, so that names need not be read again; it is used for
    nothing else.
    """
    if not polls:
        return []
    run: dict[str, Any] = {"dag_run_id": dag_run_id, "try_number": try_number}
    try:
        with engine.begin() as connection:
            return _record(connection, polls, run, as_read or {})
    except _REFUSALS as error:
        if len(polls) == 1:
            raise
        recorded: list[Recorded] = []
        refused: Exception = error
        found = False
        middle = len(polls) // 2
        for half in (polls[:middle], polls[middle:]):
            try:
                recorded += record_polls(engine, half, as_read=as_read, **run)
            except _REFUSALS as again:
                refused, found = again, True
        if found:
            raise refused from None
        return recorded


def _record(
    connection: Connection, polls: Sequence[Poll], run: Mapping[str, Any], as_read: AsRead
) -> list[Recorded]:
    apps = {app: poll for poll in polls if (app := poll.app)}
    known: dict[AppKey, Known] = {}
    if apps:
        # Before any lock is taken: a task that inserts while it holds one can block, and be
        # blocked by, another that meets the same new app.
        new = [_new_row(poll) for app, poll in apps.items() if not as_read.get(app)]
        if new:
            connection.execute(_INSERT_APPS, _NEW.parameters(new))
        known = read_known(connection, lock_apps(connection, apps), apps, as_read)

    before = dict(known)
    verdicts: list[Verdict] = []
    for poll in polls:
        state = known[poll.app] if poll.app else Known(api="")
        verdict = judge(state, poll, run["dag_run_id"])
        verdicts.append(verdict)
        if poll.app:
            known[poll.app] = advance(state, poll, verdict)
    rows = _POLLS.parameters(map(_poll_row, polls, verdicts))
    # One connection polls one app once in a task, so its id identifies the row.
    inserted = connection.execute(_INSERT_POLLS, {**rows, **run})
    poll_ids = {row.conn_id: row.poll_id for row in inserted}
    changed = [(p, v.changes) for p, v in zip(polls, verdicts, strict=True) if v.changes]
    if changed:
        changes = _change_rows(changed, poll_ids)
        connection.execute(_INSERT_CHANGES, {**changes, **run})
    if apps:
        after = [_after_row(poll, before[app], known[app]) for app, poll in apps.items()]
        connection.execute(_UPDATE_APPS, _AFTER.parameters(after))
    return [
        recorded_as(
            poll,
            verdict.outcome,
            verdict.reason,
            sum(not change.is_baseline for change in verdict.changes),
        )
        for poll, verdict in zip(polls, verdicts, strict=True)
    ]


def recorded_as(poll: Poll, outcome: str, reason: str | None = None, changes: int = 0) -> Recorded:
    """A poll with its outcome."""
    return Recorded(
        poll.conn_id,
        poll.region,
        poll.sdk_app_id,
        poll.app_group,
        poll.api,
        outcome,
        reason,
        getattr(poll.failure, "error_code", None),
        poll.calls,
        changes,
    )


def _new_row(poll: Poll) -> tuple[Any, ...]:
    return (
        poll.region,
        poll.sdk_app_id,
        poll.app_group or "default",
        poll.api or "all_member_push",
        poll.conn_id,
        poll.requested_at,
        poll.failure.outcome if poll.failure else "ok",
    )


def _asked_row(poll: Poll) -> tuple[Any, ...]:
    [read] = poll.reads
    return (
        poll.region,
        poll.sdk_app_id,
        poll.api,
        read.digest,
        poll.requested_at,
        poll.responded_at,
        poll.conn_id,
        poll.app_group,
        read.answer.http_status,
        read.answer.vendor_date,
    )


def _poll_row(poll: Poll, verdict: Verdict) -> tuple[Any, ...]:
    failure = poll.failure if isinstance(poll.failure, PollFailed) else None
    last = failure or (poll.reads[-1].answer if poll.reads else None)
    return (
        poll.conn_id,
        poll.region,
        poll.sdk_app_id,
        poll.api,
        poll.requested_at,
        poll.last_requested_at,
        poll.responded_at,
        verdict.outcome,
        poll.sent,
        last.http_status if last else None,
        failure.error_code if failure else None,
        (failure.error_info if failure else None) or verdict.reason,
        failure.answer if failure and verdict.outcome == "invalid" else None,
        last.vendor_date if last else None,
        max((len(read.answer.names) for read in poll.reads), default=None),
        poll.reads[0].responded_at if poll.reads else None,
    )


def _change_rows(
    changed: Sequence[tuple[Poll, tuple[NewChange, ...]]], poll_ids: Mapping[str, int]
) -> dict[str, str]:
    polls, rows = [], []
    for place, (poll, changes) in enumerate(changed):
        # The changes of a poll have one seen_at, and one not_before unless they are baselines.
        not_before = next((c.not_before for c in changes if not c.is_baseline), None)
        answer = poll.reads[0].answer.text or None
        times = (not_before, changes[0].seen_at)
        polls.append((place, poll.region, poll.sdk_app_id, *times, answer, poll_ids[poll.conn_id]))
        for change in changes:
            slot, old, new = change.difference.slot, change.difference.old, change.difference.new
            names = (old and old.name, new and new.name, old and old.type, new and new.type)
            rows.append((place, slot, *names, change.is_baseline))
    return {**_CHANGED.parameters(polls), **_CHANGES.parameters(rows)}


def _after_row(poll: Poll, before: Known, after: Known) -> tuple[Any, ...]:
    return (
        poll.region,
        poll.sdk_app_id,
        poll.app_group,
        poll.conn_id,
        before.names != after.names or before.first_ok_at != after.first_ok_at,
        after.api,
        after.ok_api,
        after.first_ok_at,
        after.last_ok_at,
        after.last_polled_at,
        after.last_outcome,
        after.last_poll_ended_at,
        after.consecutive_failures,
    )
