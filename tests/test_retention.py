"""Dropping old months of poll: what goes, what stays, and who never has to wait."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep import migrate as migrations
from im_attr_audit.record.upkeep import retention
from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.record.upkeep.retention import RetentionRefused, drop_old_polls
from sqlalchemy import Connection, Engine, text

from launch.processes import wait_until
from tests.conftest import AuditDb
from tests.history import polled

OLD, NEWER = "poll_2023_01", "poll_2023_02"
LIMIT = datetime(2023, 2, 1, tzinfo=UTC)


def run(engine: Engine, sql: str) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(sql))
        return list(result) if result.returns_rows else []


def superuser(db: AuditDb) -> str:
    return db.server.url(db.name)


@pytest.fixture
def old(audit_db: AuditDb) -> AuditDb:
    """Polls of two old months, of the months just passed, and of now; and changes."""
    run(
        audit_db.owner,
        "select attr_audit_internal.create_poll_partition(m) from unnest(array[date '2023-01-01', "
        "'2023-02-01', (now() at time zone 'UTC' - interval '1 month')::date]) m",
    )
    run(
        audit_db.owner,
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome) "
        "select 'c', 'seoul', 2, t, 'ok' from unnest(array[timestamptz '2023-01-01 00:00Z', "
        "'2023-01-31 23:59:59Z', '2023-02-01 00:00Z', now() - interval '1 minute']) t",
    )
    at = run(audit_db.reader, "select now() - interval '1 hour' as at")[0].at
    poll = polled({0: "sex"}, {0: "sex"}, at=at)
    record_polls(audit_db.writer, [poll], dag_run_id="run", try_number=1)
    return audit_db


def months(db: AuditDb) -> set[str]:
    """Every monthly table that is there, attached or not."""
    return {
        row.relname
        for row in run(db.owner, r"select relname from pg_class where relname ~ '^poll_\d+_\d+$'")
    }


def everything_else(db: AuditDb) -> list[list[Any]]:
    """What retention must leave as it is."""
    return [
        run(db.reader, statement)
        for statement in (
            "select * from attr_audit.change order by change_id",
            "select * from attr_audit.snapshot order by 1, 2, 3",
            "select * from attr_audit.app order by 1, 2",
            "select * from attr_audit.poll where requested_at >= '2023-02-01' order by poll_id",
            "select * from attr_audit.verify_chain()",
        )
    ]


def test_months_before_the_limit_go_and_everything_else_stays(old: AuditDb) -> None:
    before, other = months(old), everything_else(old)
    assert drop_old_polls(superuser(old), older_than=LIMIT) == [OLD]
    assert months(old) == before - {OLD}
    assert everything_else(old) == other
    assert drop_old_polls(superuser(old), older_than=LIMIT) == []


def test_a_month_that_only_began_before_the_limit_stays(old: AuditDb) -> None:
    limit = datetime(2023, 2, 27, tzinfo=UTC)
    assert drop_old_polls(superuser(old), older_than=limit) == [OLD]


def test_months_to_keep_are_whole_ones_beside_the_running_one(old: AuditDb) -> None:
    [(this, last)] = run(
        old.owner,
        "select to_char(now() at time zone 'UTC', '\"poll_\"YYYY_MM'), "
        "to_char(now() at time zone 'UTC' - interval '1 month', '\"poll_\"YYYY_MM')",
    )
    assert drop_old_polls(superuser(old), keep_months=1) == [OLD, NEWER]
    assert last in months(old)
    assert drop_old_polls(superuser(old), keep_months=0) == [last]
    assert this in months(old)


def test_by_default_two_years_and_a_month_are_kept(old: AuditDb) -> None:
    [(kept, first_to_go)] = run(
        old.owner,
        "select attr_audit_internal.create_poll_partition((m - interval '25 months')::date)::text, "
        "to_char(m - interval '26 months', '\"poll_\"YYYY_MM') "
        "from (select now() at time zone 'UTC' as m) n",
    )
    assert kept == "true"
    run(
        old.owner,
        "select attr_audit_internal.create_poll_partition("
        f"to_date('{first_to_go}', '\"poll_\"YYYY_MM'))",
    )
    assert drop_old_polls(superuser(old)) == [OLD, NEWER, first_to_go]


def test_the_running_month_is_never_dropped(old: AuditDb) -> None:
    before = months(old)
    with pytest.raises(RetentionRefused, match="running month"):
        drop_old_polls(superuser(old), older_than=datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(RetentionRefused, match="less than 0"):
        drop_old_polls(superuser(old), keep_months=-1)
    assert months(old) == before


def test_the_writer_cannot_drop_anything(old: AuditDb) -> None:
    before = months(old)
    with pytest.raises(Exception, match="permission denied to set role"):
        drop_old_polls(old.url("attr_audit_writer"), older_than=LIMIT)
    assert months(old) == before


@contextmanager
def a_long_query(db: AuditDb, statement: str) -> Iterator[Connection]:
    """A BI tool that holds a snapshot, after it has run the statement."""
    with db.reader.connect() as connection:
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        connection.execute(text(statement))
        yield connection


def sync_once(db: AuditDb, *, region: str = "frankfurt") -> None:
    """What a run writes, its partitions made sure of; must not wait for anybody."""
    with db.writer.begin() as connection:
        connection.execute(text("set local lock_timeout = '3s'"))
        connection.execute(text("select attr_audit_internal.ensure_poll_partitions()"))
    at = run(db.reader, "select clock_timestamp() as at")[0].at
    poll = polled({0: "sex"}, at=at, region=region, took=0.001)
    [recorded] = record_polls(db.writer, [poll], dag_run_id="later", try_number=1)
    assert recorded.outcome in ("ok", "unstable")


@pytest.mark.parametrize(
    "statement",
    [
        "select count(*) from attr_audit.poll where requested_at < '2023-01-02'",
        "select count(*) from attr_audit.poll where requested_at >= '2026-01-01'",
        "select count(*) from attr_audit.poll",
    ],
    ids=["that month", "other months", "all months"],
)
def test_a_query_that_holds_a_snapshot_delays_retention_and_nobody_else(
    old: AuditDb, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(retention, "LOCK_SECONDS", 0.2)
    other = everything_else(old)
    with a_long_query(old, statement) as query:
        with pytest.raises(RetentionRefused, match="poll_2023_01 is in use"):
            drop_old_polls(superuser(old), older_than=LIMIT, patience=1)
        sync_once(old)
        # The query still sees its own moment, the month that is leaving included.
        assert query.execute(text("select count(*) from attr_audit.poll")).scalar_one() == 5
    # What it began is finished the next time.
    assert drop_old_polls(superuser(old), older_than=LIMIT) == [OLD]
    assert everything_else(old)[0] == other[0]


def test_while_retention_waits_the_sync_continues_and_then_it_drops(old: AuditDb) -> None:
    dropped: list[str] = []
    with a_long_query(old, "select count(*) from attr_audit.poll"):
        thread = threading.Thread(
            target=lambda: dropped.extend(drop_old_polls(superuser(old), older_than=LIMIT))
        )
        thread.start()
        with old.server.connect(old.name) as watch, watch.cursor() as cursor:

            def waits() -> bool:
                cursor.execute(WAITING, ("im-attr-audit retention",))
                return cursor.fetchone() is not None

            assert wait_until(waits, seconds=20)
        for _ in range(5):
            sync_once(old)
        run(old.reader, "select count(*) from attr_audit.poll")
    thread.join(timeout=60)
    assert dropped == [OLD]


@pytest.mark.parametrize("stage", ["half detached", "detached"])
def test_an_interrupted_retention_is_finished_by_the_next(old: AuditDb, stage: str) -> None:
    with closing(psycopg2.connect(superuser(old).replace("+psycopg2", ""))) as owner:
        owner.autocommit = True
        cursor = owner.cursor()
        detach = (
            f"alter table attr_audit.poll detach partition attr_audit_internal.{OLD} concurrently"
        )
        if stage == "half detached":
            with a_long_query(old, "select count(*) from attr_audit.poll"):
                cursor.execute("set lock_timeout = '100ms'")
                with pytest.raises(psycopg2.errors.LockNotAvailable):
                    cursor.execute(detach)
            cursor.execute(
                "select inhdetachpending from pg_inherits "
                f"where inhrelid = 'attr_audit_internal.{OLD}'::regclass"
            )
            assert cursor.fetchone() == (True,)
        else:
            cursor.execute(detach)
    sync_once(old)
    assert drop_old_polls(superuser(old), older_than=LIMIT) == [OLD]
    assert OLD not in months(old)


WAITING = (
    "select from pg_stat_activity where application_name = %s "
    "and wait_event_type = 'Lock' and datname = current_database()"
)


def add_a_step(monkeypatch: pytest.MonkeyPatch, folder: Path, statement: str) -> None:
    """A migration of the future, after those that there are."""
    shutil.copytree(migrations.sql_directory(), folder / "sql")
    (folder / "sql" / "migrations" / "versions" / "9999_later.py").write_text(
        "from alembic import op\n"
        f"revision = '9999'\ndown_revision = '{migrations.revisions()[-1]}'\n"
        f"def upgrade():\n    op.execute({statement!r})\n"
    )
    monkeypatch.setattr(migrations, "sql_directory", lambda: folder / "sql")


class TestWhileABusinessQueryHoldsASnapshotForMinutes:
    """Nothing the product does on schedule may wait for an analyst, nor lie to one."""

    def test_the_sync_records_and_the_query_sees_its_own_moment(self, old: AuditDb) -> None:
        history = "select * from attr_audit.name_history order by region, sdk_app_id, slot"
        with a_long_query(old, "select 1") as query:
            before = list(query.execute(text(history)))
            at = run(old.reader, "select clock_timestamp() as at")[0].at
            poll = polled({0: "gender"}, {0: "gender"}, at=at, took=0.001, apart=0.01)
            [recorded] = record_polls(old.writer, [poll], dag_run_id="r2", try_number=1)
            assert recorded.outcome == "ok"
            assert list(query.execute(text(history))) == before
            assert [r.name for r in run(old.reader, history)] == ["sex", "gender"]
            assert all(r.ok for r in run(old.reader, "select * from attr_audit.verify_chain()"))

    def test_a_migration_that_waits_for_it_lets_the_sync_through(
        self, old: AuditDb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        add_a_step(monkeypatch, tmp_path, "alter table attr_audit.change add column later text")
        reached: list[str] = []
        with a_long_query(old, "select count(*) from attr_audit.change"):
            thread = threading.Thread(target=lambda: reached.append(migrate(superuser(old))))
            thread.start()
            with old.server.connect(old.name) as watch, watch.cursor() as cursor:

                def waits() -> bool:
                    cursor.execute(WAITING, ("im-attr-audit migrate",))
                    return cursor.fetchone() is not None

                assert wait_until(waits, seconds=20)
            for _ in range(3):
                sync_once(old)
            assert run(old.reader, "select count(*) as n from attr_audit.change")[0].n == 1
            assert reached == []
        thread.join(timeout=60)
        assert reached == ["9999"]
        sync_once(old)

    def test_migrating_a_migrated_database_waits_for_nobody(self, old: AuditDb) -> None:
        with a_long_query(old, "select * from attr_audit.change, attr_audit.poll"):
            thread = threading.Thread(target=lambda: migrate(superuser(old)), daemon=True)
            thread.start()
            thread.join(timeout=30)
            assert not thread.is_alive()
