"""The store by itself: that its short way is the rules' way, and what a poll costs in statements
and rows, whatever the number of apps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count as counter
from json.encoder import encode_basestring
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from im_attr_audit.errors import Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.record.rules import Known, Poll, advance, judge, snapshot_digest
from im_attr_audit.record.store import Recorded, record_polls, record_unchanged
from im_attr_audit.tencent.answer import Answer
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError

from tests.conftest import AuditDb
from tests.history import START, NamesLike, polled

NAMES: NamesLike = {0: "sex", 1: "city"}
OTHERS: NamesLike = {0: "gender", 1: "city", 2: "age"}
#: Texts that an array's literal, JSON and the driver's own placeholders each write differently.
HOSTILE = (
    "",
    '"',
    "\\",
    '\\"',
    "{},",
    "NULL",
    "a,b",
    " x ",
    "%s %(x)s",
    ":name",
    "\n\t\r\b",
    "名",
    "'",
)


@pytest.fixture
def db(audit_db: AuditDb) -> AuditDb:
    """With a partition for the times that these polls are made of."""
    with audit_db.owner.begin() as connection:
        connection.execute(
            text("select attr_audit_internal.create_poll_partition(cast(:at as date))"),
            {"at": START},
        )
    return audit_db


def row(engine: Engine, sql: str, **values: Any) -> Any:
    """The one row of a query."""
    with engine.connect() as connection:
        return connection.execute(text(sql), values).one()


def first_read(poll: Poll) -> Poll:
    """The poll as it is before any second read."""
    first = poll.reads[0]
    return replace(
        poll,
        sent=1,
        reads=(first,),
        last_requested_at=first.requested_at,
        responded_at=first.responded_at,
        failure=None,
    )


def record(engine: Engine, polls: list[Poll], run: str = "r") -> list[Recorded]:
    """What a task does with what it reads; gives back what was not recorded at its first read."""
    firsts = [first_read(poll) for poll in polls if poll.reads]
    unlike = record_unchanged(engine, firsts, dag_run_id=run, try_number=1)
    rest = [a for a in polls if not a.reads or (a.region, a.sdk_app_id) in unlike]
    return record_polls(engine, rest, dag_run_id=run, try_number=1, as_read=unlike)


_APP = """
select api, ok_api, first_ok_at, last_ok_at, last_polled_at, last_outcome, last_poll_ended_at,
       consecutive_failures, emptied_seen_at, emptied_dag_run_id
  from attr_audit.app where sdk_app_id = :app
"""
_POLL = """
select outcome, reads, requested_at, last_requested_at, responded_at, http_status, api, conn_id,
       dag_run_id, try_number
  from attr_audit.poll where sdk_app_id = :app order by poll_id desc limit 1
"""

_apps = counter(1_500_000_000)

_an_answer = st.sampled_from(
    [NAMES, OTHERS, {}, {0: ("sex", 1), 1: ("city", None)}, {0: ("sex", None), 1: ("city", 0)}]
)
_a_poll = st.tuples(
    st.integers(-3, 9),  # how long after the one before it began
    st.lists(_an_answer, min_size=0, max_size=2),
    st.booleans(),  # said once more, as it mostly is
    st.sampled_from(["all_member_push"] * 5 + ["timpush"]),
    st.sampled_from(["run 1", "run 2"]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_a_poll, min_size=2, max_size=8))
def test_what_is_recorded_is_what_the_rules_say(db: AuditDb, polls: list[Any]) -> None:
    """The database records unchanged polls itself: only those that judge() would record too."""
    app = next(_apps)
    known = Known(api=polls[0][3])
    at = 0.0
    said: list[NamesLike] = []
    for after, reads, again, api, run in polls:
        at = max(0.0, at + after)
        said = said[:1] if again and said else reads
        poll = polled(
            *said,
            at=at,
            sdk_app_id=app,
            api=api,
            failure=None if said else Unavailable("no answer"),
        )
        recorded = record(db.writer, [poll], run)
        if not recorded:
            # An app that is recorded after the first read is not read again.
            poll = first_read(poll)
        verdict = judge(known, poll, run)
        after_it = advance(known, poll, verdict)
        assert [(r.outcome, r.error_info) for r in recorded] in (
            [],
            [(verdict.outcome, verdict.reason)],
        )
        assert tuple(row(db.reader, _APP, app=app)) == astuple(after_it)[:10]
        assert tuple(row(db.reader, _POLL, app=app)) == (
            *(verdict.outcome, poll.sent, poll.requested_at, poll.last_requested_at),
            *(poll.responded_at, 200 if said else None, api, poll.conn_id, run, 1),
        )
        known = after_it


@given(st.dictionaries(st.integers(0, 999), st.sampled_from(HOSTILE), max_size=12))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_recorded_as_it_is_and_its_digest_is_the_databases(
    db: AuditDb, said: dict[int, str]
) -> None:
    app = next(_apps)
    names = {slot: AttrName(name, slot % 3 or None) for slot, name in said.items()}
    answered = {slot: (name.name, name.type) for slot, name in names.items()}
    poll = polled(answered, answered, at=0, sdk_app_id=app, app_group='a "group" \\ ,{}\'%s:x')
    poll = replace(poll, conn_id=f'im "{app}" \\ %(x)s, {{}} NULL')
    record_polls(db.writer, [poll], dag_run_id="r", try_number=1)
    found = row(
        db.reader,
        "select app_group, conn_id, snapshot_digest, names_digest, "
        "(select jsonb_object_agg(slot, name) "
        "from attr_audit.snapshot s where s.sdk_app_id = a.sdk_app_id) as names "
        "from attr_audit.app a where sdk_app_id = :app",
        app=app,
    )
    assert (found.app_group, found.conn_id) == (poll.app_group, poll.conn_id)
    assert {int(slot): name for slot, name in (found.names or {}).items()} == said
    assert bytes(found.snapshot_digest) == snapshot_digest(names)
    pairs = ", ".join(f"[{slot}, {encode_basestring(name)}]" for slot, name in sorted(said.items()))
    assert bytes(found.names_digest) == sha256(f"[{pairs}]".encode()).digest()
    later = replace(polled(answered, at=100, sdk_app_id=app), conn_id=poll.conn_id)
    assert record(db.writer, [later]) == []


def crowd(size: int, *, at: float, names: NamesLike = NAMES, reads: int = 1) -> list[Poll]:
    """A poll of so many apps."""
    return [polled(*[names] * reads, at=at, sdk_app_id=2_000 + i) for i in range(size)]


@contextmanager
def watched(engine: Engine) -> Iterator[tuple[list[str], Counter[str]]]:
    """The statements sent in the block, and the rows that each table gets."""
    statements: list[str] = []
    written: Counter[str] = Counter()

    def note(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    def measure(connection: Any, sign: int = 1) -> None:
        with connection.connection.cursor() as cursor:
            cursor.execute(
                "select regexp_replace(relname, '_[0-9_]+$', ''), n_tup_ins, n_tup_upd, n_tup_del "
                "from pg_stat_xact_user_tables where schemaname like 'attr_audit%'"
            )
            for table, inserted, updated, deleted in cursor.fetchall():
                written[f"{table} inserted"] += inserted * sign
                written[f"{table} updated"] += updated * sign
                written[f"{table} deleted"] += deleted * sign

    def begin(connection: Any) -> None:
        measure(connection, -1)  # what the session did before and has not reported yet

    listeners: dict[str, Any] = {
        "before_cursor_execute": note,
        "begin": begin,
        "commit": measure,
        "rollback": measure,
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    try:
        yield statements, written
    finally:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)


@pytest.mark.parametrize("changed", ["new", "nothing", "everything", "one"])
def test_the_number_of_statements_does_not_depend_on_the_number_of_apps(
    db: AuditDb, changed: str
) -> None:
    def statements(size: int, at: float) -> int:
        polls = crowd(size, at=at)
        if changed == "new":
            polls = [replace(a, sdk_app_id=next(_apps)) for a in crowd(size, at=at, reads=2)]
        if changed == "everything":
            polls = crowd(size, at=at, names={0: f"name {at}"}, reads=2)
        if changed == "one":
            [polls[0]] = crowd(1, at=at, names={0: f"name {at}"}, reads=2)
        with watched(db.writer) as (seen, _):
            record(db.writer, polls)
        return len(seen)

    record(db.writer, crowd(60, at=0, reads=2))
    expected = {"new": 6, "nothing": 1, "everything": 6, "one": 6}[changed]
    assert [statements(size, 100.0 * i) for i, size in enumerate((2, 60), 1)] == [expected] * 2


def test_a_poll_that_changes_nothing_writes_one_poll_row_and_one_app_row_each(db: AuditDb) -> None:
    record(db.writer, crowd(30, at=0, reads=2))
    with watched(db.writer) as (_, written):
        record(db.writer, crowd(30, at=100))
    assert +written == {"poll inserted": 30, "app updated": 30}


def test_a_change_writes_its_row_and_its_slot_of_the_snapshot(db: AuditDb) -> None:
    record(db.writer, crowd(30, at=0, reads=2))
    polls = crowd(30, at=100)
    # Renamed and added; removed; and nothing at all for the others.
    polls[3] = polled(OTHERS, OTHERS, at=100, sdk_app_id=2_003)
    polls[4] = polled({0: "sex"}, {0: "sex"}, at=100, sdk_app_id=2_004)
    with watched(db.writer) as (_, written):
        record(db.writer, polls)
    of_messages = {key for key in written if key.startswith("notification")}
    assert {key: rows for key, rows in (+written).items() if key not in of_messages} == {
        "poll inserted": 30,
        "app updated": 30,
        "change inserted": 3,
        "snapshot inserted": 1,
        "snapshot updated": 1,
        "snapshot deleted": 1,
    }


def test_only_at_first_sight_is_an_app_written_twice(db: AuditDb) -> None:
    with watched(db.writer) as (_, written):
        record(db.writer, crowd(30, at=0, reads=2))
    assert +written == {
        "app inserted": 30,
        "membership inserted": 30,
        "app updated": 30,
        "poll inserted": 30,
        "change inserted": 60,
        "snapshot inserted": 60,
    }


def test_an_app_that_nobody_has_read_before_may_come_with_a_single_read(db: AuditDb) -> None:
    record(db.writer, crowd(2, at=0, reads=2))
    [old, new] = record_polls(
        db.writer,
        [*crowd(1, at=100), polled(NAMES, at=100, sdk_app_id=7)],
        dag_run_id="r",
        try_number=1,
    )
    assert (old.outcome, new.outcome) == ("ok", "unstable")
    assert row(db.reader, "select count(*) as polls from attr_audit.poll").polls == 4


def test_an_app_that_the_database_refuses_stops_no_other_although_all_are_unchanged(
    db: AuditDb,
) -> None:
    record(db.writer, crowd(3, at=0, reads=2))
    polls = crowd(3, at=100)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    polls[1] = polled(NAMES, at=tomorrow, sdk_app_id=2_001)
    with pytest.raises(IntegrityError, match="not_in_the_future"):
        record(db.writer, polls)
    found = "select array_agg(sdk_app_id order by sdk_app_id) as apps from attr_audit.poll"
    assert row(db.reader, f"{found} where requested_at > :at", at=START).apps == [2_000, 2_002]


def test_a_digest_is_worked_out_once_a_read(monkeypatch: pytest.MonkeyPatch, db: AuditDb) -> None:
    record(db.writer, crowd(5, at=0, reads=2))
    calls: list[Answer] = []

    def watch(names: Any) -> bytes:
        calls.append(names)
        return snapshot_digest(names)

    monkeypatch.setattr("im_attr_audit.record.rules.snapshot_digest", watch)
    record(db.writer, crowd(5, at=100))
    assert len(calls) == 5


def test_times_are_kept_to_the_microsecond(db: AuditDb) -> None:
    for i, micro in enumerate((0, 1, 499_999, 999_999)):
        at = START + timedelta(seconds=10 * i, microseconds=micro)
        reads = [NAMES] * (2 if i == 0 else 1)
        record(db.writer, [polled(*reads, at=at, sdk_app_id=9, apart=0.000001, took=0.000003)])
        poll = row(db.reader, _POLL, app=9)
        assert (poll.outcome, poll.requested_at) == ("ok", at)
        assert poll.responded_at == at + timedelta(microseconds=3 + (i == 0))


def test_a_first_bulk_goes_by_the_indexes_although_statistics_call_the_tables_empty(
    db: AuditDb,
) -> None:
    with db.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze attr_audit.change, attr_audit.snapshot"))
    # Not the number of scans: to scan a table while it is empty costs nothing.
    scanned: list[int] = []

    def look(connection: Any) -> None:
        with connection.connection.cursor() as cursor:
            cursor.execute(
                "select seq_tup_read from pg_stat_xact_user_tables "
                "where schemaname = 'attr_audit' and relname = 'change'"
            )
            scanned.append(cursor.fetchone()[0])

    event.listen(db.writer, "commit", look)
    record(db.writer, crowd(30, at=0, reads=2))
    assert scanned == [0, 0]
