"""`im-attr-audit verify` in several processes and by the column: the same findings, or an error."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from im_attr_audit.apps import AppKey
from im_attr_audit.record.checks import parts
from im_attr_audit.record.checks.canonical import NULL, Chains, kind_of, token
from im_attr_audit.record.checks.heads import Head, watch
from im_attr_audit.record.checks.quick_chains import QuickChains
from im_attr_audit.record.checks.tables import Microseconds, Range, prepare, read_rows
from im_attr_audit.record.checks.verify import Checked, check_database
from im_attr_audit.record.engine import Connector, connector_of
from im_attr_audit.record.store import record_polls
from sqlalchemy import text

from launch.processes import wait_until
from tests.conftest import AuditDb
from tests.history import polled
from tests.test_schema import as_a_forger, months_before, run
from tests.test_verify import dated

Row = list[bytes]


@pytest.fixture
def recorded(audit_db: AuditDb) -> AuditDb:
    """Twelve apps with two changes each, and an edit in two of them."""
    months_before(audit_db)
    for number, names in enumerate(({0: "sex"}, {0: "gender"})):
        polls = [polled(names, names, at=900 * number, sdk_app_id=app) for app in range(1, 13)]
        record_polls(audit_db.writer, polls, dag_run_id=f"run {number}", try_number=1)
    dated(audit_db, "responded_at")
    as_a_forger(
        audit_db,
        "update attr_audit.change set answer = 'x' where sdk_app_id in (2, 11) and seq = 2",
    )
    return audit_db


def in_order(checked: Checked) -> Checked:
    return replace(
        checked,
        heads=tuple(sorted(checked.heads, key=str)),
        findings=tuple(sorted(checked.findings, key=str)),
    )


# Several processes -------------------------------------------------------------------------------


def test_several_processes_find_what_one_finds(recorded: AuditDb) -> None:
    heads = [Head("frankfurt", app, 2, "00", "a file") for app in (1, 12)]
    alone = check_database(recorded.reader, heads, processes=1)
    assert [str(finding) for finding in alone.findings] == [
        "frankfurt/2 seq 2: the chain is broken at this row",
        "frankfurt/11 seq 2: the chain is broken at this row",
        "frankfurt/1 seq 1: rewritten: seq 2 had another hash when witnessed by a file; the edit "
        "is in seq 1 to 2",
        "frankfurt/12 seq 1: rewritten: seq 2 had another hash when witnessed by a file; the edit "
        "is in seq 1 to 2",
    ]
    together = check_database(recorded.reader, heads, processes=3)
    assert in_order(together) == in_order(alone)


def test_the_ranges_hold_every_number_once(recorded: AuditDb) -> None:
    with parts.reading(recorded.reader) as connection:
        ranges = parts.split(connection, 4)
        assert [(each.first, each.end) for each in ranges] == [
            (None, 4), (4, 7), (7, 10), (10, None)
        ]  # fmt: skip
    with recorded.server.connect(recorded.name) as superuser, superuser.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")  # no trigger refuses it
        cursor.execute("truncate attr_audit.app cascade")
    with parts.reading(recorded.reader) as connection:
        assert parts.split(connection, 4) == [Range()]


class OrderedWork(parts.Work):
    """The helper takes the first range; ``then`` happens before it gets it."""

    then: Any = staticmethod(lambda: None)

    def __init__(self, ranges: Sequence[Range]) -> None:
        super().__init__(ranges)
        self._taken = threading.Event()

    def take(self) -> int | None:
        if threading.current_thread() is threading.main_thread():
            assert self._taken.wait(60)
            return super().take()
        number = super().take()
        self.then()
        self._taken.set()
        return number


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[parts.Helper]:
    """Every other process that is started."""
    started: list[parts.Helper] = []

    class Noted(parts.Helper):
        def __init__(self, *given: Any) -> None:
            started.append(self)
            super().__init__(*given)

    monkeypatch.setattr(parts, "Helper", Noted)
    return started


def test_a_process_that_is_killed_is_an_error_and_not_a_good_answer(
    recorded: AuditDb, monkeypatch: pytest.MonkeyPatch, helpers: list[parts.Helper]
) -> None:
    def kill() -> None:
        helpers[0].process.kill()
        helpers[0].process.join()

    monkeypatch.setattr(OrderedWork, "then", staticmethod(kill))
    monkeypatch.setattr(parts, "Work", OrderedWork)
    with pytest.raises(parts.PartFailed, match="nothing is known of that part"):
        check_database(recorded.reader, processes=2)


@contextmanager
def connecting_as(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Iterator[None]:
    """Other processes connect with other options than this one."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "im_attr_audit.record.checks.parts.connector_of",
            lambda engine: Connector({**connector_of(engine).options, **changed}),
        )
        yield


def test_a_process_that_cannot_connect_leaves_the_work_to_the_others(
    recorded: AuditDb, monkeypatch: pytest.MonkeyPatch, helpers: list[parts.Helper]
) -> None:
    with connecting_as(monkeypatch, port=9):
        together = check_database(recorded.reader, processes=2)
    assert in_order(together) == in_order(check_database(recorded.reader, processes=1))
    assert not helpers[0].process.is_alive()


def test_what_goes_wrong_in_another_process_is_reported(
    recorded: AuditDb, monkeypatch: pytest.MonkeyPatch, helpers: list[parts.Helper]
) -> None:
    role = "half_blind"
    recorded.server.ensure_role(role)
    run(recorded.owner, f"grant usage on schema attr_audit to {role}")
    run(recorded.owner, f"grant select on attr_audit.change, attr_audit.app to {role}")
    monkeypatch.setattr(parts, "Work", OrderedWork)
    password = recorded.server.password(role)
    with (
        connecting_as(monkeypatch, user=role, password=password),
        pytest.raises(parts.PartFailed, match="permission denied for table snapshot"),
    ):
        check_database(recorded.reader, processes=2)
    assert helpers[0].process.exitcode is not None


_VERIFY = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.checks.verify import check_database
from sqlalchemy.engine import make_url
check_database(create_audit_engine(make_url(sys.argv[1])), processes=3)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(
    recorded: AuditDb, sent: signal.Signals
) -> None:
    waiting = text(
        "select count(*) from pg_locks where not granted "
        "and relation = 'attr_audit.change'::regclass"
    )
    with recorded.owner.connect() as connection, recorded.writer.connect() as other:
        connection.execute(text("lock table attr_audit.change in access exclusive mode"))
        command = psutil.Popen(
            [sys.executable, "-c", _VERIFY, recorded.url("attr_audit_reader")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def all_wait() -> bool:
            assert command.poll() is None
            return bool(other.execute(waiting).scalar_one() >= 3)

        assert wait_until(all_wait, seconds=60)
        processes = command.children(recursive=True)
        assert len(processes) >= 2
        if sent == signal.SIGINT:
            os.killpg(command.pid, sent)  # as a terminal does at Ctrl-C
            connection.rollback()  # the driver looks at signals between two pieces of data
        else:
            command.send_signal(sent)
        assert command.wait(60) != 0
        assert psutil.wait_procs(processes, timeout=60)[1] == []
        if sent != signal.SIGINT:  # they did not wait until the lock's time was over
            assert other.execute(waiting).scalar_one() > 0


# By the column -----------------------------------------------------------------------------------


def chained(apps: int, changes: int) -> Iterator[Row]:
    """Rows of sound chains, as tables gives them."""
    number = 0
    for app in range(1, apps + 1):
        before, old = b"", NULL
        for seq in range(1, changes + 1):
            number += 1
            new = token(f"name {seq}") if seq % 4 else NULL
            row = [b"%d" % number, b'"seoul"', b"%d" % app, b"%d" % seq, b"0", old, new]
            row += [NULL, NULL, token(seq == 1), NULL, b"%d" % (1000 * seq), b'"{}"', b"1", b'"r"']
            row += [b"%d" % (1001 * seq), NULL, NULL, NULL]
            link = b'"%b"' % before if before else NULL
            digest = sha256(b"[" + b", ".join([*row, link]) + b"]").hexdigest().encode()
            yield [*row, before, digest, kind_of(row[9], old, new)]
            before, old = digest, new


def outcome(chains: Chains) -> tuple[Any, ...]:
    chains.end()
    return chains.rows, chains.heads, chains.replayed, chains.findings, chains._watched


def by_column(rows: list[Row], block: int, heads: Iterable[Head]) -> tuple[Any, ...]:
    chains = Chains("database", watch(heads))
    for at in range(0, len(rows), block):
        chains.add_columns([list(column) for column in zip(*rows[at : at + block], strict=True)])
    return outcome(chains)


def by_row(rows: list[Row], heads: Iterable[Head]) -> tuple[Any, ...]:
    chains = Chains("database", watch(heads))
    chains.add(rows)
    return outcome(chains)


_SOUND = list(chained(3, 8))
_HEADS = [Head("seoul", app, seq, "00", "a file") for app, seq in ((1, 3), (1, 8), (3, 5))]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 30))
def test_by_the_column_exactly_what_by_the_row_finds(data: st.DataObject, block: int) -> None:
    rows = [list(row) for row in _SOUND]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(rows) - 1))
        other = data.draw(st.integers(0, len(rows) - 1))
        match data.draw(st.sampled_from(["cell", "copy", "swap", "drop", "double"])):
            case "cell":
                column = data.draw(st.sampled_from([0, 2, 3, 4, 5, 6, 9, 19, 20, 21]))
                rows[at][column] = rows[other][column]
            case "copy":
                rows[at] = list(rows[other])
            case "swap":
                rows[at], rows[other] = rows[other], rows[at]
            case "drop" if len(rows) > 1:
                del rows[at]
            case _:
                rows.insert(at, list(rows[at]))
    assert by_column(rows, block, _HEADS) == by_row(rows, _HEADS)


def test_sound_rows_are_sound_by_the_column() -> None:
    rows, heads, replayed, findings, watched = by_column(_SOUND, 7, _HEADS)
    assert (rows, findings) == (24, [])
    assert {head.seq for head in heads.values()} == {8}
    assert replayed == {AppKey("seoul", app): {} for app in (1, 2, 3)}
    assert watched[AppKey("seoul", 1)].hashes.keys() == {3, 8}


def test_hashes_that_are_right_only_when_put_together_are_found() -> None:
    rows = [list(row) for row in _SOUND]
    first, second = rows[1][20], rows[2][20]
    rows[1][20], rows[2][20] = first[:-2], first[-2:] + second
    rows[2][19], rows[3][19] = rows[1][20], rows[2][20]
    found = by_column(rows, 30, [])[3]
    assert [finding.seq for finding in found] == [2]


# By the line --------------------------------------------------------------------------------------


def line_of(row: Row) -> bytes:
    """The row as Postgres writes it for `QuickChains`; a control character stays as it is."""
    cells = list(row)
    for at, cell in enumerate(cells[:19]):
        if cell[:1] == b'"':  # of JSON's escapes CSV has those of the quotation mark and itself
            value = json.loads(cell).replace("\\", "\\\\").replace('"', '\\"')
            cells[at] = b'"%b"' % value.encode()
    prev = b'"%b"' % row[19] if row[19] else NULL
    follows = b"[" if row[21] == kind_of(row[9], row[5], row[6]) else b"]"
    return b"\t".join([b'"%b"' % row[20], follows, *cells[:19], prev])


def by_line(rows: list[Row], block: int, heads: Iterable[Head]) -> QuickChains:
    """As by COPY: blocks end at a line end, also at one within a value."""
    quick = QuickChains("database", watch(heads))
    lines = b"\n".join(map(line_of, rows)).split(b"\n")
    for at in range(0, len(lines), block):
        quick.add(b"\n".join(lines[at : at + block]))
    quick._end()
    return quick


_VALUES = st.sampled_from(
    [
        *('a"', "a\\", "\t", "\n", "a\n", 'a", "b', 'x\t"y', "\x01", "null", "", "seoul", "name 2"),
        *('a\n"b"\t[\t1\t"seoul"\t2\t1', '"seoul"\t1\t', "name 2\n", "name 1, null"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.integers(1, 30))
def test_what_is_sound_by_the_line_is_sound_by_the_row(data: st.DataObject, block: int) -> None:
    rows = [list(row) for row in _SOUND]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(rows) - 1))
        other = data.draw(st.integers(0, len(rows) - 1))
        match data.draw(st.sampled_from(["cell", "value", "copy", "swap", "drop", "double"])):
            case "cell":
                column = data.draw(st.sampled_from([0, 2, 3, 4, 5, 6, 9, 19, 20, 21]))
                rows[at][column] = rows[other][column]
            case "value":
                rows[at][data.draw(st.sampled_from([1, 5, 6, 12, 14]))] = token(data.draw(_VALUES))
            case "copy":
                rows[at] = list(rows[other])
            case "swap":
                rows[at], rows[other] = rows[other], rows[at]
            case "drop" if len(rows) > 1:
                del rows[at]
            case _:
                rows.insert(at, list(rows[at]))
    quick = by_line(rows, block, _HEADS)
    _, heads, replayed, findings, watched = by_row(rows, _HEADS)
    if quick.doubtful is None:
        return
    unsound = {app.sdk_app_id for app in heads} & quick.doubtful
    assert {finding.sdk_app_id for finding in findings} <= unsound
    sound = {app for app in heads if app.sdk_app_id not in quick.doubtful}
    count, quick_heads, quick_replayed = quick.results()
    assert count == sum(int(row[2]) not in quick.doubtful for row in rows)
    assert quick_heads == {app: heads[app] for app in sound}
    assert quick_replayed == {app: replayed[app] for app in sound}
    assert all(quick._watched[app] == watched[app] for app in sound if app in watched)


@pytest.mark.parametrize("block", [1, 5, 30])
def test_sound_rows_are_sound_by_the_line(block: int) -> None:
    quick = by_line(_SOUND, block, _HEADS)
    assert quick.doubtful == set()
    assert quick.results()[0] == 24


def test_an_ordinary_record_is_checked_by_the_line(audit_db: AuditDb) -> None:
    months_before(audit_db)
    hard = 'a "quoted" \\ name, 会员等级 \x7f'
    for number, names in enumerate(({0: "sex"}, {0: hard, 1: ""}, {1: "null"}, {1: "\\N", 2: "t"})):
        poll = polled(names, names, at=900 * number)
        record_polls(audit_db.writer, [poll], dag_run_id=f"run {number}", try_number=1)
    with parts.reading(audit_db.reader) as connection:
        prepare(connection)
        quick = QuickChains("database", {})
        quick.read(connection, Range())
        chains = Chains("database", {})
        read_rows(connection, "change", Range(), "c.seq", chains.add_columns)
    chains.end()
    assert quick.doubtful == set()
    assert quick.results() == (chains.rows, chains.heads, chains.replayed)
    assert chains.findings == []


def test_a_time_that_no_hash_can_hold_ends_no_transaction(recorded: AuditDb) -> None:
    with recorded.owner.begin() as connection:
        for name in ("bounds_do_not_cross", "seen_at_is_not_in_the_future"):
            connection.execute(text(f"alter table attr_audit.change drop constraint {name}"))
    as_a_forger(
        recorded,
        "update attr_audit.change set prior_ok_at = 'infinity' where sdk_app_id = 5 and seq = 2",
    )
    found = [str(finding) for finding in check_database(recorded.reader, processes=1).findings]
    assert "frankfurt/5 seq 2: the chain is broken at this row" in found
    assert "frankfurt/2 seq 2: the chain is broken at this row" in found


class Copying:
    """What reading needs of a connection; gives these lines as COPY does, one by one."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.connection = SimpleNamespace(cursor=lambda: self)
        self.rowcount = -1

    def copy_expert(self, _: str, sink: io.BufferedWriter) -> None:
        self.rowcount = 0
        for line in self._lines:
            sink.write(line)
            self.rowcount += 1

    def close(self) -> None:
        pass

    def begin_nested(self) -> Any:
        return SimpleNamespace(commit=lambda: None)


def test_memory_by_the_line_does_not_grow_with_changes() -> None:
    def peak(changes: int) -> int:
        chains = QuickChains("database", {})
        connection: Any = Copying(line_of(row) + b"\n" for row in chained(1, changes))
        tracemalloc.start()
        try:
            chains.read(connection, Range())
            assert (chains.doubtful, chains.results()[0]) == (set(), changes)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(5_000) < 1.2 * peak(1_000) < 4_000_000


def test_memory_grows_with_apps_and_names_and_not_with_changes() -> None:
    def peak(changes: int) -> int:
        at = b"2026-11-01 00:00:00.%06d+00"
        lines = (
            b"\t".join(
                [b"%d" % seq, b"seoul", b"7", b"%d" % seq, b"0", b"\\N", b"a", b"\\N", b"\\N", b"f"]
                + [at % (seq % 10**6)] * 2
                + [b"{}", b"1", b"r"]
                + [at % (seq % 10**6)] * 4
                + [rb"\\x" + b"00" * 32] * 2
                + [b"added\n"]
            )
            for seq in range(1, changes + 1)
        )
        chains = Chains("database", {})
        connection: Any = Copying(lines)
        tracemalloc.start()
        try:
            read_rows(connection, "change", Range(), "c.seq", chains.add_columns)
            assert chains.rows == changes
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # It is the block that is handled, whatever the number of rows.
    assert peak(5_000) < 1.2 * peak(1_000) < 4_000_000


_TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


@given(st.lists(_TIMES, max_size=20))
@example([datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)])
@example([datetime(2026, 11, 1, 0, 0, 0, us, UTC) for us in (0, 1, 100000, 999999)])
def test_times_are_microseconds_since_1970(times: list[datetime]) -> None:
    written = []
    for at in times:
        fraction = f".{at.microsecond:06d}".rstrip("0").rstrip(".")
        written.append(f"{at.year:04d}{at:-%m-%d %H:%M:%S}{fraction}+00".encode())
    since = [(at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for at in times]
    assert Microseconds().column(written) == [b"%d" % us for us in since]


@pytest.mark.parametrize(
    "odd", ["infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00"]
)
def test_a_time_that_no_hash_can_hold_stays_as_it_is_written(odd: str) -> None:
    column = [odd.encode(), b"\\N", b"2026-11-01 00:00:00.123456+00"]
    assert Microseconds().column(column) == [odd.encode(), NULL, b"1793491200123456"]
