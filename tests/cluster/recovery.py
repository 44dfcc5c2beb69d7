"""The audit database lost altogether, and brought back from the newest dump: what it takes.

Part of `make test-cluster`. What it prints is in docs/operations.md; times are reported there and
judged nowhere.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.migrate import migrate
from sqlalchemy import text
from sqlalchemy.engine import make_url

from launch.postgres import bundled_binaries
from tests.cluster.scale_out import say as say
from tests.conftest import OWNER, READER, SEALER, WRITER, AuditDb
from tests.history import polled

APPS, RUNS, AFTER, CHANGED = 1000, 200, 2, 10
FIRST = 1400000001
SCHEMAS = ("--schema=attr_audit", "--schema=attr_audit_internal")
pytestmark = pytest.mark.timeout(3600)


class Record:
    """What is recorded: ``CHANGED`` apps get another name in each run."""

    def __init__(self, db: AuditDb) -> None:
        self._db = db
        self._names = [{slot: f"attribute {slot}" for slot in range(10)} for _ in range(APPS)]
        self._began = datetime.now(UTC) - timedelta(seconds=10 * (RUNS + AFTER + 1))
        self.runs = 0

    def run(self) -> set[int]:
        """One run more; the apps that were renamed in it."""
        renamed = range(self.runs * CHANGED % APPS, self.runs * CHANGED % APPS + CHANGED)
        if self.runs:
            for app in renamed:
                self._names[app][3] = f"attribute of run {self.runs}"
        at = self._began + timedelta(seconds=10 * self.runs)
        reads = [1 if self.runs and app not in renamed else 2 for app in range(APPS)]
        polls = [
            polled(*[self._names[app]] * reads[app], at=at, sdk_app_id=FIRST + app)
            for app in range(APPS)
        ]
        record_polls(self._db.writer, polls, dag_run_id=f"run-{self.runs}", try_number=1)
        self.runs += 1
        return {FIRST + app for app in renamed}


def program(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(bundled_binaries() / name), *arguments],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_record_restored_from_a_dump_says_what_it_lacks(
    audit_db: AuditDb, tmp_path: Path, say: Callable[[str], None]
) -> None:
    record = Record(audit_db)
    for _ in range(RUNS):
        record.run()
    with audit_db.reader.connect() as reading:
        size = reading.execute(
            text("select pg_size_pretty(pg_database_size(current_database()))")
        ).scalar_one()
    dump = tmp_path / "attr_audit.dump"
    began = time.monotonic()
    place = audit_db.server.url(audit_db.name, driver="postgresql")
    program("pg_dump", "--format=custom", *SCHEMAS, f"--file={dump}", place)
    dumped = time.monotonic() - began
    say(
        f"{APPS * RUNS:,} polls, {size}: dumped in {dumped:.1f} s, "
        f"{dump.stat().st_size / 1e6:.0f} MB"
    )
    lost = {app for _ in range(AFTER) for app in record.run()}
    witnessed = check_database(audit_db.reader).heads  # as asset events or checkpoints are

    began = time.monotonic()
    name = f"{audit_db.name}_restored"
    with audit_db.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} encoding 'UTF8' template template0")
        cursor.execute(f"grant connect, create on database {name} to {OWNER}")
        cursor.execute(f"grant connect on database {name} to {WRITER}, {READER}, {SEALER}")
    restored = audit_db.server.url(name, driver="postgresql")
    program("pg_restore", "--exit-on-error", "--single-transaction", f"--role={OWNER}",
            f"--dbname={restored}", str(dump))  # fmt: skip
    migrate(restored)
    writable = time.monotonic() - began
    reader = create_audit_engine(make_url(audit_db.server.url(name, READER)))
    checked = check_database(reader, witnessed)
    verified = time.monotonic() - began
    say(f"restored and migrated in {writable:.1f} s, verified after {verified:.1f} s in all")
    # Exactly the changes of the runs after the dump, and nothing else.
    assert {finding.category for finding in checked.findings} == {"witness"}
    assert {finding.sdk_app_id for finding in checked.findings} == lost
    assert len(checked.findings) == len(lost) == AFTER * CHANGED
    say(f"missing since the dump: {len(lost)} changes of {AFTER} runs, each named by verify")
    reader.dispose()
    with audit_db.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database {name} with (force)")
