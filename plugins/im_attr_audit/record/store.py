"""The record in Postgres: the only module of the polling that speaks SQL.

Functions are verb + noun, take and give values, and do their work in one short transaction each; no
HTTP happens inside one. The number of statements does not depend on the number of apps.
Database errors are not wrapped: SQLAlchemy's come through, with parameters hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError, InternalError, ProgrammingError

from im_attr_audit.errors import PollFailed
from im_attr_audit.names import AttrName, Names
from im_attr_audit.record.clock import Clock
from im_attr_audit.record.rules import (
    Attempt,
    Known,
    NewChange,
    Verdict,
    advance,
    judge,
)

App: TypeAlias = tuple[str, int]
"""(region, sdk_app_id): what identifies an app."""


class Recorded(NamedTuple):
    """One poll as it was recorded; ``error_info`` is None where all is well."""

    conn_id: str
    region: str | None
    sdk_app_id: int | None
    app_group: str | None
    api: str | None
    outcome: str
    error_info: str | None
    error_code: int | None


def read_clock(engine: Engine) -> Clock:
    """The database's clock."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        asked = time.monotonic()
        at = connection.execute(text("select clock_timestamp()")).scalar_one()
        return Clock(at, asked=asked, answered=time.monotonic())


#: What the database says no to, whoever asks and however often.
_REFUSALS = (DataError, IntegrityError, InternalError, ProgrammingError)


# Polling: what is known, and what came of it ----------------------------------------------------
#
# Nearly every poll finds what is on record. The database tells those apart by the snapshot's digest
# and records them in the one statement that takes their locks (record_unchanged); only the others
# come back as rows, are read again, judged one by one (rules.judge) and cost several times as much.


class _Rows:
    """Rows that go into a statement as one array per column.

    JSON and lists that the driver writes out cost several times as much on both sides. Times go as
    microseconds since 1970, which a float8 holds exactly up to the year 2255.
    """

    def __init__(self, name: str, columns: str) -> None:
        self._columns = [
            (f"{name}_{column}", column, kind)
            for column, kind in (declared.split() for declared in columns.split(","))
        ]
        shown = ", ".join(
            f"to_timestamp({column} / 1e6) as {column}" if kind == "timestamptz" else column
            for _, column, kind in self._columns
        )
        arrays = ", ".join(
            f"cast(:{parameter} as {'float8' if kind == 'timestamptz' else kind}[])"
            for parameter, _, kind in self._columns
        )
        names = ", ".join(column for _, column, _ in self._columns)
        self.sql = f"select {shown} from unnest({arrays}) as {name} ({names})"

    def parameters(self, rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
        """The rows, each a tuple of the columns in their order, as the statement's parameters."""
        found = list(zip(*rows, strict=True)) or [()] * len(self._columns)
        return {
            parameter: "{" + ",".join(_ELEMENTS.get(kind, _plain)(values)) + "}"
            for (parameter, _, kind), values in zip(self._columns, found, strict=True)
        }


def _plain(values: Iterable[object]) -> list[str]:
    return ["NULL" if value is None else str(value) for value in values]


def _texts(values: Iterable[str | None]) -> list[str]:
    return [
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for value in values
    ]


def _bytes(values: Iterable[bytes | None]) -> list[str]:
    return ["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _times(values: Iterable[datetime | None]) -> list[str]:
    return ["NULL" if at is None else str((at - _EPOCH) // _MICROSECOND) for at in values]


_ELEMENTS: Mapping[str, Callable[[Iterable[Any]], list[str]]] = {
    "text": _texts,
    "bytea": _bytes,
    "timestamptz": _times,
}

_KNOWN = """a.api, a.ok_api, a.first_ok_at, a.last_ok_at, a.last_polled_at, a.last_outcome,
       a.last_poll_ended_at, a.consecutive_failures, a.emptied_seen_at, a.emptied_dag_run_id,
       a.snapshot_digest"""

# An app is as ever when judge() would find nothing but "ok" and advance() nothing but later times:
# one read, of the names that are known, from the same source, that is not late, with nothing that
# awaits its confirmation.
_AS_EVER = """(a.snapshot_digest = r.digest and a.ok_api = r.asked_api and a.api = r.asked_api
       and a.emptied_seen_at is null and a.last_poll_ended_at <= r.requested_at
       and a.last_polled_at <= r.requested_at) is true"""

_APPS = _Rows("app", "region text, sdk_app_id bigint")
_READ_NAMES = text(f"""
select r.region, r.sdk_app_id, s.slots, s.names, s.types
  from ({_APPS.sql}) r
 cross join lateral (select array_agg(slot) as slots, array_agg(name) as names,
                            array_agg(attr_type) as types
                       from attr_audit.snapshot s
                      where s.region = r.region and s.sdk_app_id = r.sdk_app_id) s
 where s.slots is not null
""")

_NEW = _Rows(
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

_ASKED = _Rows(
    "asked",
    "region text, sdk_app_id bigint, asked_api text, digest bytea, requested_at timestamptz, "
    "responded_at timestamptz, conn_id text, app_group text, http_status integer, "
    "vendor_date timestamptz",
)
# All locks in one go and in one order: whoever locks in two goes can wait in a circle with others.
_RECORD_UNCHANGED = text(f"""
with asked as materialized ({_ASKED.sql}), locked as materialized (
    select r.*, {_KNOWN}, {_AS_EVER} as as_ever
      from asked r
      join attr_audit.app a using (region, sdk_app_id)
     order by region, sdk_app_id
       for update of a
), polls as (
    insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number,
                                 requested_at, last_requested_at, responded_at, outcome, reads,
                                 http_status, vendor_date)
    select conn_id, region, sdk_app_id, asked_api, :dag_run_id, :try_number,
           requested_at, requested_at, responded_at, 'ok', 1, http_status, vendor_date
      from locked
     where as_ever
), apps as (
    update attr_audit.app a
       set app_group = r.app_group, conn_id = r.conn_id, last_polled_at = r.requested_at,
           last_ok_at = r.requested_at, last_outcome = 'ok', last_poll_ended_at = r.responded_at,
           consecutive_failures = 0
      from locked r
     where r.as_ever and a.region = r.region and a.sdk_app_id = r.sdk_app_id
)
select r.region, r.sdk_app_id, {_KNOWN}
  from asked r
  left join locked a using (region, sdk_app_id)
 where a.as_ever is not true
""")

_LOCK = text(f"""
select a.region, a.sdk_app_id, {_KNOWN}
  from ({_APPS.sql}) r
  join attr_audit.app a using (region, sdk_app_id)
 order by a.region, a.sdk_app_id
   for update of a
""")

_POLLS = _Rows(
    "poll",
    "conn_id text, region text, sdk_app_id bigint, api text, requested_at timestamptz, "
    "last_requested_at timestamptz, responded_at timestamptz, outcome text, reads smallint, "
    "http_status integer, error_code integer, error_info text, answer text, "
    "vendor_date timestamptz",
)
_INSERT_POLLS = text(f"""
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_code, error_info, answer, vendor_date)
select conn_id, region, sdk_app_id, api, :dag_run_id, :try_number, requested_at,
       last_requested_at, responded_at, outcome, reads, http_status,
       error_code, error_info, answer, vendor_date
  from ({_POLLS.sql}) r
returning poll_id, conn_id
""")

_CHANGES = _Rows(
    "change",
    "region text, sdk_app_id bigint, slot smallint, old_name text, new_name text, "
    "old_type smallint, new_type smallint, is_baseline boolean, not_before timestamptz, "
    "seen_at timestamptz, answer text, poll_id bigint",
)
_INSERT_CHANGES = text(f"""
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
                               is_baseline, not_before, seen_at, answer, poll_id, dag_run_id)
select region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
       is_baseline, not_before, seen_at, answer, poll_id, :dag_run_id
  from ({_CHANGES.sql}) r
""")

_AFTER = _Rows(
    "after",
    "region text, sdk_app_id bigint, app_group text, conn_id text, names_changed boolean, "
    "api text, ok_api text, first_ok_at timestamptz, last_ok_at timestamptz, "
    "last_polled_at timestamptz, last_outcome text, last_poll_ended_at timestamptz, "
    "consecutive_failures integer, emptied_seen_at timestamptz, emptied_dag_run_id text",
)
_UPDATE_APPS = text(f"""
update attr_audit.app a
   set app_group = coalesce(r.app_group, a.app_group), api = r.api, conn_id = r.conn_id,
       ok_api = r.ok_api,
       first_ok_at = r.first_ok_at, last_ok_at = r.last_ok_at, last_polled_at = r.last_polled_at,
       last_outcome = r.last_outcome, last_poll_ended_at = r.last_poll_ended_at,
       consecutive_failures = r.consecutive_failures, emptied_seen_at = r.emptied_seen_at,
       emptied_dag_run_id = r.emptied_dag_run_id,
       snapshot_digest = case when r.names_changed
                              then attr_audit.snapshot_digest_of(a.region, a.sdk_app_id)
                              else a.snapshot_digest end
  from ({_AFTER.sql}) r
 where a.region = r.region and a.sdk_app_id = r.sdk_app_id
""")

AsRead: TypeAlias = Mapping[App, Known | None]
"""What is on record of apps at some moment; None: nothing yet."""


def record_unchanged(
    engine: Engine, attempts: Iterable[Attempt], *, dag_run_id: str, try_number: int | None
) -> AsRead:
    """Record the polls whose answer is just what is on record; what is, of the other answered apps.

    All in one transaction. Those others, and attempts without an answer, are left to
    `record_attempts`; so is everything should the database refuse an app, to be told apart there.
    An attempt that was answered has one read here: whom to read again is what the caller asks.
    """
    answered = {app: a for a in attempts if (app := _app(a)) and a.reads}
    if not answered:
        return {}
    asked = _ASKED.parameters(map(_asked_row, answered.values()))
    run = {"dag_run_id": dag_run_id, "try_number": try_number}
    try:
        with engine.begin() as connection:
            rows = connection.execute(_RECORD_UNCHANGED, {**asked, **run}).all()
            known = _known(connection, [r for r in rows if r.api is not None], answered, {})
    except _REFUSALS:
        return dict.fromkeys(answered)
    return {app: known.get(app) for app in ((row.region, row.sdk_app_id) for row in rows)}


def record_attempts(
    engine: Engine,
    attempts: Sequence[Attempt],
    *,
    dag_run_id: str,
    try_number: int | None,
    as_read: AsRead | None = None,
) -> list[Recorded]:
    """Judge and record attempts, each app's poll, changes, snapshot and app row together.

    All in one transaction. Should the database refuse it for what one app carries, halves are
    tried until the one is found, so that it stops no other; its error is raised when the rest is
    recorded.
    The same app may not be among the attempts twice unless it was never asked (misconfigured).
    ``as_read``: what `record_unchanged` gave, so that names need not be read again; nothing else
    of it is relied upon.
    """
    if not attempts:
        return []
    run: dict[str, Any] = {"dag_run_id": dag_run_id, "try_number": try_number}
    try:
        with engine.begin() as connection:
            return _record(connection, attempts, run, as_read or {})
    except _REFUSALS as error:
        if len(attempts) == 1:
            raise
        recorded: list[Recorded] = []
        refused: Exception = error
        found = False
        middle = len(attempts) // 2
        for half in (attempts[:middle], attempts[middle:]):
            try:
                recorded += record_attempts(engine, half, as_read=as_read, **run)
            except _REFUSALS as again:
                refused, found = again, True
        if found:
            raise refused from None
        return recorded


def _record(
    connection: Connection, attempts: Sequence[Attempt], run: Mapping[str, Any], as_read: AsRead
) -> list[Recorded]:
    apps = {app: a for a in attempts if (app := _app(a))}
    known: dict[App, Known] = {}
    if apps:
        # Before any lock is taken: who inserts while holding one can wait in a circle with others
        # who meet the same new app.
        new = [_new_row(a) for app, a in apps.items() if not as_read.get(app)]
        if new:
            connection.execute(_INSERT_APPS, _NEW.parameters(new))
        rows = connection.execute(_LOCK, _APPS.parameters(apps)).all()
        known = _known(connection, rows, apps, as_read)

    before = dict(known)
    verdicts: list[Verdict] = []
    for attempt in attempts:
        app = _app(attempt)
        state = known[app] if app else Known(api="")
        verdict = judge(state, attempt, run["dag_run_id"])
        verdicts.append(verdict)
        if app:
            known[app] = advance(state, attempt, verdict)
    polls = _POLLS.parameters(map(_poll_row, attempts, verdicts))
    # One connection polls one app once in a task, so its id tells the rows apart.
    inserted = connection.execute(_INSERT_POLLS, {**polls, **run})
    poll_ids = {row.conn_id: row.poll_id for row in inserted}
    changes = [
        _change_row(attempt, change, poll_ids[attempt.conn_id])
        for attempt, verdict in zip(attempts, verdicts, strict=True)
        for change in verdict.changes
    ]
    if changes:
        connection.execute(_INSERT_CHANGES, {**_CHANGES.parameters(changes), **run})
    if apps:
        after = [_after_row(a, before[app], known[app]) for app, a in apps.items()]
        connection.execute(_UPDATE_APPS, _AFTER.parameters(after))
    return [
        recorded_as(attempt, verdict.outcome, verdict.reason)
        for attempt, verdict in zip(attempts, verdicts, strict=True)
    ]


def recorded_as(attempt: Attempt, outcome: str, reason: str | None = None) -> Recorded:
    """What became of an attempt."""
    return Recorded(
        attempt.conn_id,
        attempt.region,
        attempt.sdk_app_id,
        attempt.app_group,
        attempt.api,
        outcome,
        reason,
        getattr(attempt.failure, "error_code", None),
    )


def _known(
    connection: Connection,
    rows: Iterable[Sequence[Any]],
    attempts: Mapping[App, Attempt],
    as_read: AsRead,
) -> dict[App, Known]:
    """What rows of region, sdk_app_id and _KNOWN say, with the names where the app was read.

    By their digest the names are those of the answer, or those that were read before; only else
    are they read from the snapshot.
    """
    known: dict[App, Known] = {}
    to_read: dict[App, dict[int, AttrName]] = {}
    for region, sdk_app_id, *columns, digest in rows:
        app = (region, sdk_app_id)
        reads, earlier = attempts[app].reads, as_read.get(app)
        digest = digest and bytes(digest)  # the driver gives a memoryview
        names: Names = {}
        if digest and reads:
            if digest == reads[-1].digest:
                names = reads[-1].answer.names
            elif earlier and digest == earlier.digest:
                names = earlier.names
            else:
                names = to_read[app] = {}
        fields = [*columns, digest, names]
        known[app] = Known(*fields)
    if to_read:
        for region, sdk_app_id, *found in connection.execute(
            _READ_NAMES, _APPS.parameters(to_read)
        ):
            to_read[region, sdk_app_id].update(
                (slot, AttrName(name, kind)) for slot, name, kind in zip(*found, strict=True)
            )
    return known


def _new_row(attempt: Attempt) -> tuple[Any, ...]:
    return (
        attempt.region,
        attempt.sdk_app_id,
        attempt.app_group or "default",
        attempt.api or "all_member_push",
        attempt.conn_id,
        attempt.requested_at,
        attempt.failure.outcome if attempt.failure else "ok",
    )


def _asked_row(attempt: Attempt) -> tuple[Any, ...]:
    [read] = attempt.reads
    return (
        attempt.region,
        attempt.sdk_app_id,
        attempt.api,
        read.digest,
        attempt.requested_at,
        attempt.responded_at,
        attempt.conn_id,
        attempt.app_group,
        read.answer.http_status,
        read.answer.vendor_date,
    )


def _poll_row(attempt: Attempt, verdict: Verdict) -> tuple[Any, ...]:
    failure = attempt.failure if isinstance(attempt.failure, PollFailed) else None
    said = failure or (attempt.reads[-1].answer if attempt.reads else None)
    return (
        attempt.conn_id,
        attempt.region,
        attempt.sdk_app_id,
        attempt.api,
        attempt.requested_at,
        attempt.last_requested_at,
        attempt.responded_at,
        verdict.outcome,
        attempt.sent,
        said.http_status if said else None,
        failure.error_code if failure else None,
        (failure.error_info if failure else None) or verdict.reason,
        failure.answer if failure and verdict.outcome == "invalid" else None,
        said.vendor_date if said else None,
    )


def _change_row(attempt: Attempt, change: NewChange, poll_id: int) -> tuple[Any, ...]:
    slot, old, new = change.difference.slot, change.difference.old, change.difference.new
    return (
        attempt.region,
        attempt.sdk_app_id,
        slot,
        old and old.name,
        new and new.name,
        old and old.type,
        new and new.type,
        change.is_baseline,
        change.not_before,
        change.seen_at,
        attempt.reads[0].answer.text or None,
        poll_id,
    )


def _after_row(attempt: Attempt, before: Known, after: Known) -> tuple[Any, ...]:
    return (
        attempt.region,
        attempt.sdk_app_id,
        attempt.app_group,
        attempt.conn_id,
        before.names != after.names or before.first_ok_at != after.first_ok_at,
        after.api,
        after.ok_api,
        after.first_ok_at,
        after.last_ok_at,
        after.last_polled_at,
        after.last_outcome,
        after.last_poll_ended_at,
        after.consecutive_failures,
        after.emptied_seen_at,
        after.emptied_dag_run_id,
    )


def _app(attempt: Attempt) -> App | None:
    if attempt.region is None or attempt.sdk_app_id is None:
        return None
    return attempt.region, attempt.sdk_app_id
