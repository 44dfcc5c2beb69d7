"""What the tests share: one real Postgres for the session, a migrated database cloned per test."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.record.upkeep.roles import OWNER as OWNER
from im_attr_audit.record.upkeep.roles import READER as READER
from im_attr_audit.record.upkeep.roles import SEALER as SEALER
from im_attr_audit.record.upkeep.roles import WRITER as WRITER
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch import processes
from launch.postgres import MAJOR, THROWAWAY, EmbeddedPostgres
from launch.postgres.owner import hand_over, owner_of
from simulator.control import Simulator

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Printed at the end of every test run.
pytest_plugins = ["tests.counts", "tests.sealing"]

#: The files that take longest, the longest first. A process takes one whole file after another:
#: a long one that begins last leaves the other processes idle.
LONGEST = (
    "test_under_airflow.py",
    "test_launch_airflow.py",
    "test_page.py",
    "test_histories.py",
    "test_dag.py",
    "test_notify.py",
    "test_operations.py",
    "test_launch_postgres.py",
    "test_launch.py",
    "test_seal_commands.py",
    "test_kill_points.py",
    "test_page_limits.py",
    "test_sync.py",
    "test_clocks.py",
    "test_schema.py",
    "test_page_api.py",
    "test_verify.py",
    "test_overlap.py",
    "test_hostile_over_tls.py",
    "test_catalogue.py",
    "test_views.py",
    "test_bi.py",
    "test_cli.py",
    "test_verify_parts.py",
    "test_session_state.py",
    "test_data_model.py",
    "test_seal_forgeries.py",
    "test_secrets.py",
    "test_pooler.py",
    "test_fold.py",
    "test_page_requests.py",
    "test_declarations.py",
    "test_dashboards.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; tests of a file stay in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@dataclass(frozen=True)
class AuditDb:
    """One migrated database of its own, and engines for the roles that use it."""

    server: EmbeddedPostgres
    name: str
    owner: Engine
    writer: Engine
    reader: Engine

    def url(self, role: str) -> str:
        return self.server.url(self.name, role)

    @property
    def writer_connection(self) -> str:
        """What AIRFLOW_CONN_IM_ATTR_AUDIT_DB is set to."""
        connection = {
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": self.server.port,
            "login": WRITER,
            "password": self.server.password(WRITER),
            "schema": self.name,
        }
        return json.dumps(connection)

    def waiting_for_locks(self) -> int:
        """How many sessions of this database wait for a lock just now."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "select from pg_stat_activity where wait_event_type = 'Lock' and datname = %s",
                (self.name,),
            )
            return len(cursor.fetchall())

    def dispose(self) -> None:
        for engine in (self.owner, self.writer, self.reader):
            engine.dispose()


class MachinesPostgres(EmbeddedPostgres):
    """A server of the machine's own packages, as Debian installs them side by side."""

    def _binaries(self) -> Path:
        return Path(f"/usr/lib/postgresql/{self._major}/bin")


def server_of_tests(directory: Path) -> EmbeddedPostgres:
    """The embedded version, or the one that ``IM_ATTR_AUDIT_TEST_POSTGRES`` names."""
    major = int(os.environ.get("IM_ATTR_AUDIT_TEST_POSTGRES", MAJOR))
    kind = EmbeddedPostgres if major in (16, MAJOR) else MachinesPostgres
    settings = {**THROWAWAY, "max_connections": "200"}
    return kind(directory, settings=settings, major=major)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real server for the session, its data thrown away afterwards."""
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-tests-") as directory:
        server = server_of_tests(Path(directory) / "postgres")
        server.start()
        try:
            yield server
        finally:
            server.stop()
            server.destroy()


def make_template(postgres: EmbeddedPostgres, tablespace: str = "pg_default") -> str:
    """A migrated database that tests clone, into the same tablespace; its name."""
    name = "template_attr_audit"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} tablespace {tablespace}")
    migrate(postgres.url(name))
    for role in (OWNER, WRITER, READER, SEALER):
        postgres.ensure_role(role)
    with postgres.connect() as connection, connection.cursor() as cursor:
        # The owner logs in here so that tests can act as it; in production nobody does.
        cursor.execute(f"alter role {OWNER} login")
    return name


#: A folder in memory, with as much free as all workers' databases can need.
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 6 << 30
_PREFIX = "im-attr-audit-tests-"


@contextlib.contextmanager
def memory_tablespace(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A tablespace in memory where the machine has enough, else the default one.

    A clone is 500 files. On a disk that others write to at the same time, making them cost more
    processor time than most tests.
    """
    if not (MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED):
        yield "pg_default"
        return
    for path in MEMORY.glob(f"{_PREFIX}*"):  # of a run that was killed
        if not processes.exists(int(path.name.removeprefix(_PREFIX).partition("-")[0])):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{_PREFIX}{os.getpid()}-", dir=MEMORY, ignore_cleanup_errors=True
    ) as directory:
        if user := owner_of(postgres.data):
            hand_over(Path(directory), user)
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"create tablespace in_memory location '{directory}'")
        yield "in_memory"
        postgres.stop()  # else it would write to what is deleted


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a migrated database that tests clone."""
    with memory_tablespace(postgres) as tablespace:
        yield make_template(postgres, tablespace)


_numbers = itertools.count()


@contextlib.contextmanager
def fresh_audit_db(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    """A fresh migrated audit database for as long as it is needed."""
    name = f"attr_audit_{next(_numbers)}"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} template {template} strategy file_copy")

    def engine(role: str) -> Engine:
        return create_audit_engine(make_url(postgres.url(name, role)))

    db = AuditDb(postgres, name, engine(OWNER), engine(WRITER), engine(READER))
    try:
        yield db
    finally:
        db.dispose()
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"drop database {name} with (force)")


@pytest.fixture
def audit_db(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    """A fresh migrated audit database."""
    with fresh_audit_db(postgres, template) as db:
        yield db


@pytest.fixture(scope="module")
def simulator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Simulator]:
    """The simulator, with the regions that the test's module names."""
    directory = tmp_path_factory.mktemp("simulator")
    with Simulator.start(directory, regions=request.module.REGIONS, lasting=False) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium: Playwright is started once in a process."""
    from playwright.sync_api import sync_playwright

    from tests.browser import chromium

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium.find_shell(), args=list(chromium.ARGUMENTS)
        )
        yield started
        started.close()
