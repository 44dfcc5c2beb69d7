"""The test pooler does what PgBouncer does in transaction mode."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from im_attr_audit.errors import LockTimeout, UnsuitableDatabase
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.upkeep import migrate as migrate_module
from im_attr_audit.record.upkeep import retention
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from im_attr_audit.record.upkeep.retention import RetentionRefused, drop_old_polls

from tests.conftest import READER, AuditDb
from tests.pooler import TransactionPooler

Connect = Callable[..., Any]


@pytest.fixture
def pooler(audit_db: AuditDb) -> Iterator[TransactionPooler]:
    with TransactionPooler(audit_db.server, pool_size=1) as running:
        yield running


@pytest.fixture
def connect(audit_db: AuditDb, pooler: TransactionPooler) -> Connect:
    """A connection through the pooler, in autocommit mode."""
    url = pooler.url(audit_db.name, READER)

    def connected(**given: Any) -> Any:
        connection = psycopg2.connect(url, **given)
        connection.autocommit = True
        return connection

    return connected


def ask(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def test_what_a_session_sets_meets_the_next_client(connect: Connect) -> None:
    with closing(connect()) as first:
        ask(first, "set lock_timeout = '7s'")
        ask(first, "select pg_advisory_lock(7)")
    with closing(connect()) as second:
        assert ask(second, "show lock_timeout") == "7s"
        assert ask(second, "select count(*) from pg_locks where locktype = 'advisory'") == 1


def test_what_a_transaction_sets_for_itself_is_gone_with_it(connect: Connect) -> None:
    with closing(connect()) as first:
        ask(first, "begin; set local lock_timeout = '7s'; select pg_advisory_xact_lock(7); commit")
        assert ask(first, "show lock_timeout") == "0"
        assert ask(first, "select count(*) from pg_locks where locktype = 'advisory'") == 0


def test_tracked_parameters_follow_the_client(connect: Connect) -> None:
    with closing(connect(application_name="one")) as first, closing(connect()) as second:
        ask(first, "set timezone = 'Asia/Tokyo'")
        assert ask(second, "show timezone") != "Asia/Tokyo"
        assert ask(first, "show timezone") == "Asia/Tokyo"
        assert ask(first, "show application_name") == "one"
        assert ask(second, "show application_name") == ""


def test_one_client_at_a_time_has_the_server_connection(connect: Connect) -> None:
    with closing(connect()) as first, closing(connect()) as second:
        ask(first, "begin")
        asked = threading.Thread(target=lambda: ask(second, "select 1"))
        asked.start()
        asked.join(0.2)
        assert asked.is_alive()
        ask(first, "commit")
        asked.join(20)
        assert not asked.is_alive()


def test_a_client_that_goes_away_within_a_transaction_takes_its_server_connection(
    connect: Connect,
) -> None:
    with closing(connect()) as first:
        pid = ask(first, "select pg_backend_pid()")
        ask(first, "begin; set lock_timeout = '7s'")
    with closing(connect()) as second:
        assert ask(second, "select pg_backend_pid()") != pid
        assert ask(second, "show lock_timeout") == "0"


def test_startup_options_are_refused_or_ignored(connect: Connect, audit_db: AuditDb) -> None:
    with pytest.raises(psycopg2.OperationalError, match="unsupported startup parameter: options"):
        connect(options="-c lock_timeout=7s")
    with TransactionPooler(audit_db.server, options="ignore") as pooler:
        url = pooler.url(audit_db.name, READER)
        with closing(psycopg2.connect(url, options="-c lock_timeout=7s")) as connection:
            assert ask(connection, "show lock_timeout") == "0"


def test_a_copy_goes_through_in_both_directions(
    audit_db: AuditDb, pooler: TransactionPooler
) -> None:
    url = pooler.url(audit_db.name)
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("create temp table t (a int)")
        cursor.copy_expert("copy t from stdin", io.StringIO("1\n2\n"))
        out = io.StringIO()
        cursor.copy_expert("copy t to stdout", out)
        assert out.getvalue() == "1\n2\n"


def left_behind(db: AuditDb, pooler: TransactionPooler) -> tuple[Any, ...]:
    """What the next client of the superuser's login finds."""
    dsn = pooler.url(db.name)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select current_user, current_setting('lock_timeout'), "
            "current_setting('search_path'), "
            "(select count(*) from pg_locks where locktype = 'advisory')"
        )
        [found] = cursor.fetchall()
    return tuple(found)


def test_migrate_through_a_pooler_leaves_the_session_as_it_was(
    audit_db: AuditDb, pooler: TransactionPooler
) -> None:
    before = left_behind(audit_db, pooler)
    assert migrate(pooler.url(audit_db.name)) == revisions()[-1]
    assert left_behind(audit_db, pooler) == before == ("postgres", "0", '"$user", public', 0)


@pytest.mark.parametrize("command", [migrate, drop_old_polls])
def test_refused_start_up_options_are_named_by_the_owners_commands(
    audit_db: AuditDb,
    pooler: TransactionPooler,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[[str], object],
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    with pytest.raises(UnsuitableDatabase, match="PGOPTIONS from the environment"):
        command(pooler.url(audit_db.name))


def test_retention_through_a_pooler_is_refused_and_leaves_the_session_as_it_was(
    audit_db: AuditDb, pooler: TransactionPooler
) -> None:
    before = left_behind(audit_db, pooler)
    with pytest.raises(RetentionRefused, match="leads through a connection pooler"):
        drop_old_polls(pooler.url(audit_db.name))
    assert left_behind(audit_db, pooler) == before


@pytest.mark.parametrize("command", ["migrate", "retention"])
def test_a_wait_for_the_commands_lock_ends_and_names_the_holder(
    audit_db: AuditDb, command: str
) -> None:
    commands: dict[str, tuple[int, Callable[..., object]]] = {
        "migrate": (migrate_module._LOCK, migrate),
        "retention": (retention.LOCK, drop_old_polls),
    }
    key, run = commands[command]
    url, reported = audit_db.server.url(audit_db.name), list[str]()
    plain = audit_db.server.url(audit_db.name, driver="postgresql")
    with closing(psycopg2.connect(plain, application_name="the holder")) as holder:
        ask(holder, f"select pg_advisory_lock({key})")
        pid = holder.info.backend_pid
        wanted = (
            rf"Locks are held by process {pid} \(role \w+, application \"the holder\", "
            r"ExclusiveLock on the command's lock, since 20"
        )
        with pytest.raises(LockTimeout, match=wanted):
            run(url, patience=8, report=reported.append)
    assert re.match("Waiting for a lock. " + wanted, reported[0])


def test_a_client_encoding_in_the_environment_does_not_matter(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    assert migrate(audit_db.server.url(audit_db.name)) == revisions()[-1]
    assert check_database(audit_db.reader).findings == ()
