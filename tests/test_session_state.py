"""What a session was left in, or a worker's environment holds, changes no answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from fastapi.testclient import TestClient
from im_attr_audit import tasks
from im_attr_audit.errors import LockTimeout, UnsuitableDatabase
from im_attr_audit.record.engine import create_audit_engine
from sqlalchemy import Engine, event, text
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from tests.conftest import OWNER, READER, WRITER, AuditDb
from tests.pooler import TransactionPooler
from tests.rig import Rig, brief
from tests.test_page_api import Connection, application

REGIONS = ("seoul",)
NAMES = {0: "性别", 1: "city"}
RENAMED = {0: "Größe 🙂", 1: "市"}

#: Everything a session can be left in that would change an answer, or make it unreadable.
STATE = {
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "search_path": "public",
    "timezone": "Asia/Kathmandu",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "0",
    "lock_timeout": "0",
}


@pytest.fixture(autouse=True)
def _reset(simulator: Simulator) -> None:
    simulator.reset()


@pytest.fixture
def engines(audit_db: AuditDb) -> Iterator[list[Engine]]:
    """Engines that a test makes, disposed of at its end."""
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.dispose()


def record_a_rename(rig: Rig) -> None:
    """A baseline and a rename, both in letters that only Unicode has together."""
    target = rig.add_app("seoul", NAMES)
    assert rig.outcomes(target) == ["ok"]
    rig.set_names(target, RENAMED)
    assert rig.outcomes(target) == ["ok"]
    assert brief(rig.record(target).changes) == [
        (0, "baseline", None, NAMES[0]),
        (1, "baseline", None, NAMES[1]),
        (0, "renamed", NAMES[0], RENAMED[0]),
        (1, "renamed", NAMES[1], RENAMED[1]),
    ]


def leave_in(engine: Engine, state: dict[str, str]) -> None:
    """Hand every transaction a session that another client left in this state, as poolers do."""

    def leave(connection: Any, *_: object) -> None:
        with connection.cursor() as cursor:
            for name, value in state.items():
                cursor.execute(f"set {name} = '{value}'")
        connection.commit()

    event.listen(engine, "checkout", leave)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP", "GBK"])
def test_a_clients_encoding_in_the_environment_changes_nothing(
    simulator: Simulator,
    audit_db: AuditDb,
    engines: list[Engine],
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER))))
    record_a_rename(Rig(simulator, engines[0]))
    with TestClient(application(Connection(audit_db))) as client:
        [group] = client.get("/api/now").json()["groups"]
        assert RENAMED[0] in str(group)
        for address in ("changes", "timeline", "as-of", "health", "setup"):
            assert client.get(f"/api/{address}").status_code == 200


def test_what_another_client_left_a_session_in_changes_nothing(
    simulator: Simulator, audit_db: AuditDb, engines: list[Engine]
) -> None:
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER))))
    leave_in(engines[0], STATE)
    record_a_rename(Rig(simulator, engines[0]))
    with engines[0].connect() as connection:
        found = {name: connection.execute(text(f"show {name}")).scalar_one() for name in STATE}
        level = connection.execute(text("show transaction_isolation")).scalar_one()
    assert found | {"default_transaction_isolation": level} == {
        "client_encoding": "UTF8",
        "standard_conforming_strings": "on",
        "array_nulls": "on",
        "search_path": "attr_audit",
        "timezone": "UTC",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
        "default_transaction_isolation": "read committed",
        "statement_timeout": "5min",
        "lock_timeout": "20s",
    }


def test_what_a_role_is_configured_with_changes_nothing(
    simulator: Simulator, audit_db: AuditDb, engines: list[Engine]
) -> None:
    with audit_db.server.connect(audit_db.name) as superuser, superuser.cursor() as cursor:
        for role in (WRITER, READER):
            for name, value in STATE.items() - {("standard_conforming_strings", "off")}:
                cursor.execute(
                    f"alter role {role} in database {audit_db.name} set {name} = '{value}'"
                )
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER))))
    record_a_rename(Rig(simulator, engines[0]))
    with TestClient(application(Connection(audit_db))) as client:
        [change] = [c for c in client.get("/api/changes").json()["changes"] if c["slot"] == 0][:1]
        assert (change["old_name"], change["new_name"]) == (NAMES[0], RENAMED[0])
        assert change["seen_at"].endswith(("Z", "+00:00"))


def test_a_role_whose_texts_are_not_standard_is_refused_with_a_sentence(
    audit_db: AuditDb, engines: list[Engine]
) -> None:
    with audit_db.server.connect(audit_db.name) as superuser, superuser.cursor() as cursor:
        cursor.execute(
            f"alter role {WRITER} in database {audit_db.name} set standard_conforming_strings = off"
        )
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER))))
    with pytest.raises(UnsuitableDatabase, match="reset standard_conforming_strings"):
        engines[0].connect()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_name_is_refused_with_a_sentence(
    postgres: EmbeddedPostgres,
    audit_db: AuditDb,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    name = f"session_in_{encoding.lower()}"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"create database {name} encoding '{encoding}' template template0 locale 'C'"
        )
    there = audit_db.writer_connection.replace(f'"{audit_db.name}"', f'"{name}"')
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", there)
    with pytest.raises(AirflowFailException, match=f"encoding is {encoding}, .*encoding UTF8"):
        tasks.publish({}, {})


def test_a_lock_that_is_not_released_is_reported_with_its_holder(
    audit_db: AuditDb, engines: list[Engine]
) -> None:
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER)), lock_seconds=0.2))
    holder = audit_db.owner.connect()
    holder.execute(text("lock table attr_audit.app in access exclusive mode"))
    pid = holder.execute(text("select pg_backend_pid()")).scalar_one()
    with pytest.raises(LockTimeout) as waited, engines[0].connect() as connection:
        connection.execute(text("select * from attr_audit.app"))
    assert (
        f'process {pid} (role {OWNER}, application "im-attr-audit", AccessExclusiveLock on app, '
        in str(waited.value)
    )
    holder.close()
    with engines[0].connect() as connection:  # and it can be used again
        assert connection.execute(text("select count(*) from attr_audit.app")).scalar_one() == 0


def test_a_row_that_another_session_holds_is_reported_with_its_holder(
    simulator: Simulator, audit_db: AuditDb, engines: list[Engine]
) -> None:
    engines.append(create_audit_engine(make_url(audit_db.url(WRITER)), lock_seconds=0.2))
    rig = Rig(simulator, engines[0])
    target = rig.add_app("seoul", NAMES)
    assert rig.outcomes(target) == ["ok"]
    holder = audit_db.writer.connect()
    holder.execute(text("select * from attr_audit.app for update"))
    pid = holder.execute(text("select pg_backend_pid()")).scalar_one()
    with pytest.raises(LockTimeout, match=f"process {pid} .*RowShareLock on app"):
        rig.outcomes(target)
    holder.close()


def test_a_task_that_waited_for_a_lock_is_tried_again_and_the_page_says_so(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    monkeypatch.setattr("im_attr_audit.record.engine.LOCK_SECONDS", 0.2)
    holder = audit_db.owner.connect()
    holder.execute(
        text(
            "lock table attr_audit.change, attr_audit.poll, attr_audit.app in access exclusive mode"
        )
    )
    with pytest.raises(AirflowException, match="was not released in time") as failed:
        tasks.publish({}, {})
    assert not isinstance(failed.value, AirflowFailException)
    with TestClient(application(Connection(audit_db))) as client:
        answer = client.get("/api/now")
        assert (answer.status_code, answer.json()["error"]) == (503, "locked")
        assert "AccessExclusiveLock on app" in answer.json()["what"]
    holder.close()


def test_behind_a_transaction_pooler_names_are_recorded_and_refused_options_are_named(
    simulator: Simulator, audit_db: AuditDb, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with TransactionPooler(audit_db.server) as pooler:
        url = make_url(pooler.url(audit_db.name, WRITER))
        engines.append(create_audit_engine(url, pooled=False))
        record_a_rename(Rig(simulator, engines[0]))
        with engines[0].connect() as connection:
            assert connection.execute(text("show lock_timeout")).scalar_one() == "20s"
            assert connection.execute(text("show statement_timeout")).scalar_one() == "5min"
        engines.append(create_audit_engine(url, {"options": "-c work_mem=8MB"}, pooled=False))
        with pytest.raises(UnsuitableDatabase, match="refuses start-up options: remove `options`"):
            engines[1].connect()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (None, "pooler of the audit database refuses start-up options: remove `options`"),
        (
            "-c no_such_setting=1",
            'options (unrecognized configuration parameter "no_such_setting")',
        ),
        ("-c work_mem=much", 'options (invalid value for parameter "work_mem": "much")'),
        ("-c log_statement=all", 'options (permission denied to set parameter "log_statement")'),
        ("-Z", "options (invalid command-line argument for server process: -Z)"),
        ("--no-such", "options (--no-such requires a value)"),
    ],
)
def test_the_page_and_the_tasks_name_the_one_cause_where_start_up_options_are_refused(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, options: str | None, what: str
) -> None:
    connection = Connection(audit_db)
    connection.extra_dejson = {"options": options or "-c work_mem=8MB"}
    with TransactionPooler(audit_db.server) as pooler:
        if options is None:
            connection.port = pooler.port
        with TestClient(application(connection)) as client:
            for address in ("now", "changes/download"):
                answer = client.get(f"/api/{address}")
                assert (answer.status_code, answer.json()["error"]) == (503, "unsuitable")
                assert what in answer.json()["what"]
                assert "cannot be reached" not in answer.text
            assert client.get("/healthz").status_code == 503
        as_json = {**json.loads(audit_db.writer_connection), "extra": connection.extra_dejson}
        as_json["port"] = connection.port
        monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", json.dumps(as_json))
        with pytest.raises(AirflowFailException, match=re.escape(what)):
            tasks.publish({}, {})
