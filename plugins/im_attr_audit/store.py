"""The record in Postgres: the only module of the polling that speaks SQL.

Functions are verb + noun, take and give values, and do their work in one short transaction each; no
HTTP happens inside one. The number of statements does not depend on the number of apps.
Database errors are not wrapped: SQLAlchemy's come through, with parameters hidden.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError, InternalError, ProgrammingError

from im_attr_audit.clock import Clock
from im_attr_audit.errors import PollFailed
from im_attr_audit.names import AttrName, Names
from im_attr_audit.rules import (
    Attempt,
    Known,
    NewChange,
    Verdict,
    advance,
    judge,
    snapshot_digest,
)

App: TypeAlias = tuple[str, int]
"""(region, sdk_app_id): what identifies an app."""


def create_audit_engine(url: URL, connect_args: Mapping[str, Any] | None = None) -> Engine:
    """An engine for the audit database: psycopg2 whatever the URL says, UTC, bounded waits.

    A statement that waits longer than five minutes (two for a lock) is given up: the task fails,
    and Airflow tries it again.
    """
    options = "-c TimeZone=UTC -c statement_timeout=300s -c lock_timeout=120s"
    given = dict(connect_args or {})
    given["options"] = f"{given['options']} {options}" if given.get("options") else options
    given.setdefault("application_name", "im-attr-audit")
    given.setdefault("connect_timeout", 30)
    return create_engine(
        url.set(drivername="postgresql+psycopg2"),
        connect_args=given,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=2,
    )


@dataclass(frozen=True, slots=True)
class Recorded:
    """One poll as it was recorded; ``error_info`` is None where all is well."""

    poll_id: int
    conn_id: str
    region: str | None
    sdk_app_id: int | None
    app_group: str | None
    api: str | None
    outcome: str
    error_code: int | None
    error_info: str | None


def read_clock(engine: Engine) -> Clock:
    """The database's clock."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        asked = time.monotonic()
        at = connection.execute(text("select clock_timestamp()")).scalar_one()
        return Clock(at, asked=asked, answered=time.monotonic())


# Polling: what is known, and what came of it ----------------------------------------------------

_KNOWN = """
select a.region, a.sdk_app_id, a.api, a.ok_api, a.first_ok_at, a.last_ok_at, a.last_polled_at,
       a.last_outcome, a.last_poll_ended_at, a.consecutive_failures, a.emptied_seen_at,
       a.emptied_dag_run_id, a.snapshot_digest
  from attr_audit.app a
  join unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
    on a.region = u.region and a.sdk_app_id = u.sdk_app_id
 order by a.region, a.sdk_app_id
"""

_NAMES = """
select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type
  from attr_audit.snapshot s
  join unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
    on s.region = u.region and s.sdk_app_id = u.sdk_app_id
"""

_INSERT_APPS = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, conn_id, first_polled_at,
                            last_polled_at, last_outcome)
select region, sdk_app_id, app_group, api, conn_id, requested_at, requested_at, outcome
  from json_to_recordset(cast(:rows as json)) as r
       (region text, sdk_app_id bigint, app_group text, api text, conn_id text,
        requested_at timestamptz, outcome text)
 order by region, sdk_app_id
    on conflict (region, sdk_app_id) do nothing
"""

_INSERT_POLLS = """
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_code, error_info, answer, vendor_date)
select conn_id, region, sdk_app_id, api, :dag_run_id, :try_number, requested_at,
       last_requested_at, responded_at, outcome, reads, http_status,
       error_code, error_info, answer, vendor_date
  from json_to_recordset(cast(:rows as json)) as r
       (conn_id text, region text, sdk_app_id bigint, api text, requested_at timestamptz,
        last_requested_at timestamptz, responded_at timestamptz, outcome text, reads smallint,
        http_status integer, error_code integer, error_info text, answer text,
        vendor_date timestamptz)
returning poll_id, conn_id
"""

_INSERT_CHANGES = """
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
                               is_baseline, not_before, seen_at, answer, poll_id, dag_run_id)
select region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
       is_baseline, not_before, seen_at, answer, poll_id, :dag_run_id
  from json_to_recordset(cast(:rows as json)) as r
       (region text, sdk_app_id bigint, slot smallint, old_name text, new_name text,
        old_type smallint, new_type smallint, is_baseline boolean, not_before timestamptz,
        seen_at timestamptz, answer text, poll_id bigint)
"""

_UPDATE_APPS = """
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
  from json_to_recordset(cast(:rows as json)) as r
       (region text, sdk_app_id bigint, app_group text, api text, conn_id text, ok_api text,
        first_ok_at timestamptz, last_ok_at timestamptz, last_polled_at timestamptz,
        last_outcome text, last_poll_ended_at timestamptz, consecutive_failures integer,
        emptied_seen_at timestamptz, emptied_dag_run_id text, names_changed boolean)
 where a.region = r.region and a.sdk_app_id = r.sdk_app_id
"""


def read_known(engine: Engine, answered: Mapping[App, Names]) -> dict[App, Known]:
    """What is recorded of the apps that answered; an app that is not recorded yet is left out.

    Only where an answer is not what the snapshot's digest says are the names read from it.
    """
    with engine.connect() as connection:
        return _select_known(connection, answered, answered, lock=False)


def record_attempts(
    engine: Engine, attempts: Sequence[Attempt], *, dag_run_id: str, try_number: int | None
) -> list[Recorded]:
    """Judge and record attempts, each app's poll, changes, snapshot and app row together.

    All in one transaction. Should the database refuse it for what one app carries, halves are
    tried until the one is found, so that it stops no other; its error is raised when the rest is
    recorded.
    The same app may not be among the attempts twice unless it was never asked (misconfigured).
    """
    if not attempts:
        return []
    try:
        with engine.begin() as connection:
            return _record(connection, attempts, dag_run_id, try_number)
    except (DataError, IntegrityError, InternalError, ProgrammingError) as error:
        if len(attempts) == 1:
            raise
        recorded: list[Recorded] = []
        refused: Exception = error
        found = False
        middle = len(attempts) // 2
        for half in (attempts[:middle], attempts[middle:]):
            try:
                recorded += record_attempts(
                    engine, half, dag_run_id=dag_run_id, try_number=try_number
                )
            except (DataError, IntegrityError, InternalError, ProgrammingError) as again:
                refused, found = again, True
        if found:
            raise refused from None
        return recorded


def _record(
    connection: Connection, attempts: Sequence[Attempt], dag_run_id: str, try_number: int | None
) -> list[Recorded]:
    answered = {app: a.reads[-1].answer.names for a in attempts if (app := _app(a)) and a.reads}
    apps = {app: a for a in attempts if (app := _app(a))}
    if apps:
        # New apps first, then all locks in one go and in one order: whoever inserts while holding
        # locks, or locks in two goes, can wait in a circle with others who meet the same new app.
        rows = [
            {
                "region": app[0],
                "sdk_app_id": app[1],
                "app_group": a.app_group or "default",
                "api": a.api or "all_member_push",
                "conn_id": a.conn_id,
                "requested_at": a.requested_at,
                "outcome": a.failure.outcome if a.failure else "ok",
            }
            for app, a in apps.items()
        ]
        connection.execute(text(_INSERT_APPS), {"rows": _json(rows)})
    known = _select_known(connection, apps, answered, lock=True)

    before = dict(known)
    verdicts: list[Verdict] = []
    for attempt in attempts:
        app = _app(attempt)
        state = known[app] if app else Known(api="")
        verdict = judge(state, attempt, dag_run_id)
        verdicts.append(verdict)
        if app:
            known[app] = advance(state, attempt, verdict)

    poll_ids = _insert_polls(connection, attempts, verdicts, dag_run_id, try_number)
    changes = [
        _change_row(attempt, change, poll_id)
        for attempt, verdict, poll_id in zip(attempts, verdicts, poll_ids, strict=True)
        for change in verdict.changes
    ]
    if changes:
        connection.execute(
            text(_INSERT_CHANGES), {"rows": _json(changes), "dag_run_id": dag_run_id}
        )
    rows = [_app_row(apps[app], before[app], known[app]) for app in sorted(apps)]
    connection.execute(text(_UPDATE_APPS), {"rows": _json(rows)})

    return [
        Recorded(
            poll_id=poll_id,
            conn_id=attempt.conn_id,
            region=attempt.region,
            sdk_app_id=attempt.sdk_app_id,
            app_group=attempt.app_group,
            api=attempt.api,
            outcome=verdict.outcome,
            error_code=getattr(attempt.failure, "error_code", None),
            error_info=verdict.reason,
        )
        for attempt, verdict, poll_id in zip(attempts, verdicts, poll_ids, strict=True)
    ]


def _insert_polls(
    connection: Connection,
    attempts: Sequence[Attempt],
    verdicts: Sequence[Verdict],
    dag_run_id: str,
    try_number: int | None,
) -> list[int]:
    rows = [_poll_row(a, v) for a, v in zip(attempts, verdicts, strict=True)]
    result = connection.execute(
        text(_INSERT_POLLS),
        {"rows": _json(rows), "dag_run_id": dag_run_id, "try_number": try_number},
    )
    # One connection polls one app once in a task, so its id tells the rows apart.
    ids = {row.conn_id: row.poll_id for row in result}
    return [ids[a.conn_id] for a in attempts]


def _select_known(
    connection: Connection, apps: Collection[App], answered: Mapping[App, Names], *, lock: bool
) -> dict[App, Known]:
    statement = _KNOWN + ("for update of a" if lock else "")
    known: dict[App, Known] = {}
    unlike: list[App] = []
    for row in connection.execute(text(statement), _arrays(apps)):
        app = (row.region, row.sdk_app_id)
        names: Names = {}
        if app in answered:
            if bytes(row.snapshot_digest or b"") == snapshot_digest(answered[app]):
                names = answered[app]
            elif row.snapshot_digest is not None:
                unlike.append(app)
        known[app] = Known(
            api=row.api,
            ok_api=row.ok_api,
            first_ok_at=row.first_ok_at,
            last_ok_at=row.last_ok_at,
            last_polled_at=row.last_polled_at,
            last_outcome=row.last_outcome,
            last_poll_ended_at=row.last_poll_ended_at,
            consecutive_failures=row.consecutive_failures,
            emptied_seen_at=row.emptied_seen_at,
            emptied_dag_run_id=row.emptied_dag_run_id,
            names=names,
        )
    if unlike:
        found: dict[App, dict[int, AttrName]] = {app: {} for app in unlike}
        for row in connection.execute(text(_NAMES), _arrays(unlike)):
            found[row.region, row.sdk_app_id][row.slot] = AttrName(row.name, row.attr_type)
        for app, names in found.items():
            known[app] = replace(known[app], names=names)
    return known


def _poll_row(attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
    failure = attempt.failure if isinstance(attempt.failure, PollFailed) else None
    last = attempt.reads[-1].answer if attempt.reads else None
    return {
        "conn_id": attempt.conn_id,
        "region": attempt.region,
        "sdk_app_id": attempt.sdk_app_id,
        "api": attempt.api,
        "requested_at": attempt.requested_at,
        "last_requested_at": attempt.last_requested_at,
        "responded_at": attempt.responded_at,
        "outcome": verdict.outcome,
        "reads": attempt.sent,
        "http_status": failure.http_status if failure else (last.http_status if last else None),
        "error_code": failure.error_code if failure else None,
        "error_info": (failure.error_info if failure else None) or verdict.reason,
        "answer": failure.answer if failure and verdict.outcome == "invalid" else None,
        "vendor_date": failure.vendor_date if failure else (last.vendor_date if last else None),
    }


def _change_row(attempt: Attempt, change: NewChange, poll_id: int) -> dict[str, Any]:
    difference = change.difference
    return {
        "region": attempt.region,
        "sdk_app_id": attempt.sdk_app_id,
        "slot": difference.slot,
        "old_name": difference.old and difference.old.name,
        "new_name": difference.new and difference.new.name,
        "old_type": difference.old and difference.old.type,
        "new_type": difference.new and difference.new.type,
        "is_baseline": change.is_baseline,
        "not_before": change.not_before,
        "seen_at": change.seen_at,
        "answer": attempt.reads[0].answer.text or None,
        "poll_id": poll_id,
    }


def _app_row(attempt: Attempt, before: Known, after: Known) -> dict[str, Any]:
    return {
        "region": attempt.region,
        "sdk_app_id": attempt.sdk_app_id,
        "app_group": attempt.app_group,
        "conn_id": attempt.conn_id,
        "api": after.api,
        "ok_api": after.ok_api,
        "first_ok_at": after.first_ok_at,
        "last_ok_at": after.last_ok_at,
        "last_polled_at": after.last_polled_at,
        "last_outcome": after.last_outcome,
        "last_poll_ended_at": after.last_poll_ended_at,
        "consecutive_failures": after.consecutive_failures,
        "emptied_seen_at": after.emptied_seen_at,
        "emptied_dag_run_id": after.emptied_dag_run_id,
        "names_changed": before.names != after.names or before.first_ok_at != after.first_ok_at,
    }


def _app(attempt: Attempt) -> App | None:
    if attempt.region is None or attempt.sdk_app_id is None:
        return None
    return attempt.region, attempt.sdk_app_id


def _arrays(apps: Iterable[App]) -> dict[str, list[Any]]:
    pairs = list(apps)
    return {"regions": [region for region, _ in pairs], "ids": [number for _, number in pairs]}


def _json(rows: Iterable[Mapping[str, Any]]) -> str:
    return json.dumps(list(rows), ensure_ascii=False, default=datetime.isoformat)
