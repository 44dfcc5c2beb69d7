"""The audit behind a real PgBouncer in transaction mode: all works or is refused by a sentence.

`make test-pgbouncer`. PgBouncer is the machine's (`apt-get install pgbouncer`). The suite has a
pooler of its own that needs nothing (`tests.pooler`); this shows that a real one does the same.
What was tried is in docs/operations.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.sdk.exceptions import AirflowFailException
from fastapi.testclient import TestClient
from im_attr_audit import tasks
from im_attr_audit.errors import UnsuitableDatabase
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from im_attr_audit.record.upkeep.retention import RetentionRefused, drop_old_polls
from sqlalchemy import text
from sqlalchemy.engine import make_url

from launch.network import free_port
from launch.processes import wait_until
from simulator.control import Simulator
from tests.conftest import READER, WRITER, AuditDb
from tests.rig import Rig
from tests.test_page_api import Connection, application
from tests.test_session_state import RENAMED, record_a_rename

REGIONS = ("seoul",)
SUPERUSER = "postgres"

_STATE = """
select current_user, current_setting('role'), current_setting('lock_timeout'),
       current_setting('statement_timeout'), current_setting('search_path'),
       current_setting('transaction_isolation'),
       (select count(*) from pg_locks where locktype = 'advisory')
"""


class PgBouncer:
    """A PgBouncer in transaction mode with one server connection for each login; logs to stdout."""

    def __init__(self, folder: Path, db: AuditDb, **settings: str) -> None:
        self.port = free_port()
        self._db = db
        logins = {WRITER: db.server.password(WRITER), READER: db.server.password(READER)}
        logins[SUPERUSER] = make_url(db.server.url(db.name)).password or ""
        folder.chmod(0o755)
        (folder / "users").write_text(
            "".join(f'"{login}" "{password}"\n' for login, password in logins.items())
        )
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
            "pool_mode": "transaction",
            "default_pool_size": "1",
            **({"user": "nobody"} if os.geteuid() == 0 else {}),
            **settings,
        }
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={db.server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        self._process = subprocess.Popen(["pgbouncer", "--quiet", str(folder / "pgbouncer.ini")])

    def __enter__(self) -> PgBouncer:
        def is_up() -> bool:
            assert self._process.poll() is None
            return self._listens()

        assert wait_until(is_up, seconds=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def url(self, login: str) -> str:
        return f"postgresql://{login}@127.0.0.1:{self.port}/{self._db.name}"

    def left_behind(self) -> dict[str, tuple[Any, ...]]:
        """What the next client of each login finds on the one server connection."""
        found = {}
        for login in (WRITER, READER, SUPERUSER):
            there = psycopg2.connect(self.url(login))
            with contextlib.closing(there), there.cursor() as cursor:
                cursor.execute(_STATE)
                [found[login]] = cursor.fetchall()
        return found


@pytest.fixture
def pgbouncer(audit_db: AuditDb, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(tmp_path, audit_db) as running:
        yield running


@pytest.fixture
def nothing_left(pgbouncer: PgBouncer) -> Iterator[None]:
    """After the test each login's server connection is as it was before."""
    before = pgbouncer.left_behind()
    yield
    assert pgbouncer.left_behind() == before


def test_what_a_session_sets_meets_the_next_client(pgbouncer: PgBouncer) -> None:
    with contextlib.closing(psycopg2.connect(pgbouncer.url(SUPERUSER))) as there:
        there.autocommit = True
        there.cursor().execute("set role attr_audit_owner")
        there.cursor().execute("set lock_timeout = '7s'; select pg_advisory_lock(7)")
    left = pgbouncer.left_behind()[SUPERUSER]
    assert (left[:3], left[-1]) == (("attr_audit_owner", "attr_audit_owner", "7s"), 1)


def through(pgbouncer: PgBouncer, db: AuditDb, login: str = READER, **extra: str) -> Connection:
    connection = Connection(db, login)
    connection.port = pgbouncer.port
    connection.extra_dejson = dict(extra)
    return connection


@pytest.mark.usefixtures("nothing_left")
def test_tasks_page_and_verify_work_whatever_encoding_the_environment_asks_for(
    simulator: Simulator, audit_db: AuditDb, pgbouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    writer = create_audit_engine(make_url(pgbouncer.url(WRITER)), pooled=False)
    record_a_rename(Rig(simulator, writer))
    with writer.connect() as connection:
        limits = [
            connection.execute(text(f"show {name}")).scalar_one()
            for name in ("lock_timeout", "statement_timeout", "client_encoding")
        ]
    assert limits == ["20s", "5min", "UTF8"]
    with TestClient(application(through(pgbouncer, audit_db))) as client:
        assert RENAMED[0] in client.get("/api/now").text
        for address in ("changes", "timeline", "as-of", "health", "setup", "changes/download"):
            assert client.get(f"/api/{address}").status_code == 200
    reader = create_audit_engine(make_url(pgbouncer.url(READER)), pooled=False)
    for processes in (1, 2):  # the second one waits for a server connection and is not needed
        checked = check_database(reader, processes=processes)
        assert (checked.rows, checked.findings) == (4, ())


def test_two_processes_verify_one_snapshot(audit_db: AuditDb, tmp_path: Path) -> None:
    with PgBouncer(tmp_path, audit_db, default_pool_size="3") as pgbouncer:
        reader = create_audit_engine(make_url(pgbouncer.url(READER)), pooled=False)
        assert check_database(reader, processes=2).findings == ()


@pytest.mark.usefixtures("nothing_left")
def test_migrate_works_and_retention_is_refused(pgbouncer: PgBouncer) -> None:
    assert migrate(pgbouncer.url(SUPERUSER)) == revisions()[-1]
    with pytest.raises(RetentionRefused, match="leads through a connection pooler"):
        drop_old_polls(pgbouncer.url(SUPERUSER))
    assert migrate(pgbouncer.url(SUPERUSER)) == revisions()[-1]


def test_a_new_database_is_migrated(audit_db: AuditDb, tmp_path: Path) -> None:
    with audit_db.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database {audit_db.name} with (force)")
        cursor.execute(f"create database {audit_db.name}")
    with PgBouncer(tmp_path, audit_db) as pgbouncer:
        before = pgbouncer.left_behind()
        assert migrate(pgbouncer.url(SUPERUSER)) == revisions()[-1]
        assert pgbouncer.left_behind() == before


def each_way_in(
    pgbouncer: PgBouncer, db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, Callable[[], Any]]]:
    """Task, page and command with start-up options in their connection or environment."""
    writer = {**json.loads(db.writer_connection), "port": pgbouncer.port}
    writer["extra"] = {"options": "-c work_mem=8MB"}
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", json.dumps(writer))
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    page = application(through(pgbouncer, db, options="-c work_mem=8MB"))
    return [
        ("task", lambda: tasks.publish({}, {})),
        ("page", lambda: TestClient(page).get("/api/now")),
        ("command", lambda: migrate(pgbouncer.url(SUPERUSER))),
    ]


@pytest.mark.usefixtures("nothing_left")
def test_refused_start_up_options_are_named(
    audit_db: AuditDb, pgbouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        (_, task), (_, page), (_, command) = each_way_in(pgbouncer, audit_db, patch)
        with pytest.raises(AirflowFailException, match="refuses start-up options: remove"):
            task()
        assert (page().status_code, page().json()["error"]) == (503, "unsuitable")
        assert "refuses start-up options: remove" in page().json()["what"]
        with pytest.raises(UnsuitableDatabase, match="refuses start-up options: remove"):
            command()


def test_ignored_start_up_options_change_nothing(
    simulator: Simulator, audit_db: AuditDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        PgBouncer(tmp_path, audit_db, ignore_startup_parameters="options") as pgbouncer,
        monkeypatch.context() as patch,
    ):
        before = pgbouncer.left_behind()
        (_, task), (_, page), (_, command) = each_way_in(pgbouncer, audit_db, patch)
        task()
        assert page().status_code == 200
        assert command() == revisions()[-1]
        url = make_url(pgbouncer.url(WRITER))
        engine = create_audit_engine(url, {"options": "-c lock_timeout=0"}, pooled=False)
        record_a_rename(Rig(simulator, engine))
        with engine.connect() as connection:
            assert connection.execute(text("show lock_timeout")).scalar_one() == "20s"
            assert connection.execute(text("show statement_timeout")).scalar_one() == "5min"
        assert pgbouncer.left_behind() == before
