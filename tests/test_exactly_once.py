"""Tries and rounds: what was recorded is not asked for again, and is recorded once.

Through the task's own function, with a task instance as Airflow's scheduler would hand it over.
"""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from im_attr_audit import tasks
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.tencent.target import Target
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from simulator.control import Simulator
from tests.conftest import AuditDb
from tests.rig import Rig, app_of, assert_changes_are_true

REGIONS = ("china", "frankfurt", "seoul")
RETRIES = 3


class Task:
    """One mapped `sync` of three apps, tried, retried and cleared as Airflow would."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rig, self.monkeypatch = rig, monkeypatch
        self.targets = [rig.add_app(region, {0: "sex", 1: "city"}) for region in REGIONS]
        for target in self.targets:
            self.connect(target)
        self.run = rig.new_run()
        self.begun_at = datetime.now(UTC)
        self.tries = 0
        self.max_tries = RETRIES

    def connect(self, target: Target, **changed: Any) -> None:
        fields = self.rig.simulator.connection_json(*app_of(target)) | changed
        self.monkeypatch.setenv(f"AIRFLOW_CONN_{target.conn_id.upper()}", json.dumps(fields))

    def try_once(self, misconfigured: dict[str, str] | None = None) -> dict[str, int]:
        """The next try."""
        self.tries += 1
        ti = SimpleNamespace(
            try_number=self.tries,
            max_tries=self.max_tries,
            task=SimpleNamespace(retries=RETRIES),
        )
        conn_ids = [target.conn_id for target in self.targets]
        return tasks.sync(
            conn_ids, misconfigured or {}, dag_run_id=self.run, begun_at=self.begun_at, ti=ti
        )

    def clear(self) -> None:
        """What clearing does to a task instance: as many retries again."""
        self.max_tries = self.tries + RETRIES

    def polls(self) -> list[list[tuple[int, str]]]:
        """For each app the tries and outcomes of this run's polls."""
        record = self.rig.record(*self.targets)
        return [
            [
                (p.try_number, p.outcome)
                for p in record.polls_of(app_of(target))
                if p.dag_run_id == self.run
            ]
            for target in self.targets
        ]

    def changes_are_true(self) -> bool:
        for target in self.targets:
            changes = self.rig.record(target).changes
            assert_changes_are_true(changes, self.rig.history(target))
        return True


@pytest.fixture
def task(simulator: Simulator, audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    monkeypatch.setenv("IM_ATTR_AUDIT_CONFIRM_SECONDS", "0")
    simulator.reset()
    return Task(Rig(simulator, audit_db.writer), monkeypatch)


def test_a_retry_of_a_task_whose_commit_had_happened_asks_nobody_again(task: Task) -> None:
    assert task.try_once() == {"ok": 3}
    asked = len(task.rig.simulator.log())
    assert task.try_once() == {"ok": 3}
    assert len(task.rig.simulator.log()) == asked
    assert task.polls() == [[(1, "ok")]] * 3
    assert task.changes_are_true()


def test_a_run_that_was_deleted_and_made_again_under_its_id_asks_everybody(task: Task) -> None:
    assert task.try_once() == {"ok": 3}
    task.tries = 0
    task.begun_at += timedelta(hours=1)
    assert task.try_once() == {"ok": 3}
    assert task.polls() == [[(1, "ok")] * 2] * 3


def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_made_twice(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tasks.audit_engine

    def engine_that_loses_the_answer() -> Any:
        engine: Any = make()
        commit = engine.dialect.do_commit
        commits = itertools.count(1)

        def commit_and_lose(connection: Any) -> None:
            commit(connection)
            if next(commits) == 1:
                return  # of what is unchanged: nothing yet
            connection.close()
            raise OperationalError("commit", None, Exception("connection lost"))

        engine.dialect.do_commit = commit_and_lose
        return engine

    monkeypatch.setattr(tasks, "audit_engine", engine_that_loses_the_answer)
    with pytest.raises(OperationalError):
        task.try_once()
    monkeypatch.setattr(tasks, "audit_engine", make)
    asked = len(task.rig.simulator.log())
    assert task.try_once() == {"ok": 3}
    assert len(task.rig.simulator.log()) == asked
    assert task.polls() == [[(1, "ok")]] * 3
    assert task.changes_are_true()


def test_a_commit_that_did_not_happen_is_made_by_the_retry(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tasks.audit_engine

    def engine_that_loses_its_server() -> Any:
        engine = make()

        @event.listens_for(engine, "before_cursor_execute")
        def lose(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
            if "insert into attr_audit.change " in statement:
                cursor.connection.close()

        return engine

    monkeypatch.setattr(tasks, "audit_engine", engine_that_loses_its_server)
    with pytest.raises(Exception, match="closed"):
        task.try_once()
    monkeypatch.setattr(tasks, "audit_engine", make)
    assert task.polls() == [[], [], []]
    assert task.try_once() == {"ok": 3}
    assert task.polls() == [[(2, "ok")]] * 3
    assert task.changes_are_true()


def test_a_retry_asks_only_apps_without_a_final_outcome(task: Task) -> None:
    china, frankfurt, _ = task.targets
    task.rig.fault(china, "bad_gateway", {"kind": "answer_names", "names": {"0": "glitch"}})
    task.connect(frankfurt, password="a wrong key")
    with pytest.raises(AirflowException, match="will be tried again") as first:
        task.try_once()
    assert not isinstance(first.value, AirflowFailException)
    with pytest.raises(AirflowException, match="will be tried again"):
        task.try_once()
    with pytest.raises(AirflowFailException, match=f"{frankfurt.conn_id} rejected"):
        task.try_once()
    assert task.polls() == [
        [(1, "unavailable"), (2, "unstable"), (3, "ok")],
        [(1, "rejected")],
        [(1, "ok")],
    ]


def test_clearing_a_task_asks_them_all_again(task: Task) -> None:
    frankfurt = task.targets[1]
    task.connect(frankfurt, password="a wrong key")
    with pytest.raises(AirflowFailException):
        task.try_once()
    task.connect(frankfurt)
    task.clear()
    assert task.try_once() == {"ok": 3}
    assert task.polls() == [
        [(1, "ok"), (2, "ok")],
        [(1, "rejected"), (2, "ok")],
        [(1, "ok"), (2, "ok")],
    ]
    task.rig.fault(task.targets[0], "drop")
    task.clear()
    with pytest.raises(AirflowException):
        task.try_once()
    assert task.try_once() == {"ok": 3}
    assert [len(polls) for polls in task.polls()] == [4, 3, 3]
    assert task.changes_are_true()


def test_a_late_poll_is_final_and_fails_nobody(task: Task) -> None:
    task.try_once()
    china = task.targets[0]
    # A run that began before that one had ended, and is recorded after it.
    task.rig.fault(china, "hold")
    task.clear()
    came: list[dict[str, int]] = []
    thread = threading.Thread(target=lambda: came.append(task.try_once()))
    thread.start()
    task.rig.simulator.wait_held(1)
    assert task.rig.outcomes(china) == ["ok"]
    task.rig.simulator.release()
    thread.join(30)
    assert came == [{"late": 1, "ok": 2}]
    assert task.try_once() == {"late": 1, "ok": 2}
    assert task.changes_are_true()


def late_poll(task: Task) -> None:
    """Poll all three; the first one's poll is late, because another one was faster."""
    china = task.targets[0]
    task.rig.fault(china, "hold")
    with ThreadPoolExecutor(1) as executor:
        polled = executor.submit(task.try_once)
        task.rig.simulator.wait_held(1)
        assert task.rig.outcomes(china) == ["ok"]
        task.rig.simulator.release()
        polled.result()


def report(task: Task) -> None:
    tasks.report(
        [{"conn_ids": [target.conn_id for target in task.targets]}],
        dag_run_id=task.run,
        states={},
    )


def test_a_late_poll_fails_the_run_where_the_app_has_no_good_poll_since_it_began(
    task: Task, audit_db: AuditDb
) -> None:
    late_poll(task)
    report(task)
    late = f"{task.targets[0].conn_id} late"
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")  # no trigger keeps it from us
        cursor.execute(
            "update attr_audit.poll set outcome = 'unavailable' "
            "where outcome = 'ok' and sdk_app_id = %s",
            (task.targets[0].sdk_app_id,),
        )
    # The retry does not poll it again, for late is final.
    with pytest.raises(AirflowFailException, match=f"^not recorded: {late}$"):
        task.try_once()
    with pytest.raises(AirflowFailException, match=f"^this run failed: {late}$"):
        report(task)


def test_many_failures_of_one_cause_are_a_few_lines_and_a_count(
    task: Task, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("im_attr_audit.messages.report.MOST_OF_A_CAUSE", 2)
    for target in task.targets:
        task.connect(target, host="ftp://nowhere")
    with pytest.raises(AirflowFailException):
        task.try_once()
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert sum("misconfigured: " in line and line.startswith("im_") for line in lines) == 2
    assert lines[2].startswith("1 more with the same cause: misconfigured: ")
    assert lines[3:] == [OUTCOMES["misconfigured"].advice]


def test_a_doubly_listed_app_is_asked_by_neither_and_says_why(task: Task) -> None:
    china = task.targets[0]
    asked = len(task.rig.simulator.log())
    listed = json.dumps([china.conn_id] + [target.conn_id for target in task.targets])
    task.monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: listed)
    with pytest.raises(AirflowFailException, match="misconfigured"):
        task.try_once({china.conn_id: "is listed more than once"})
    entries = task.rig.simulator.log()[asked:]
    assert china.sdk_app_id not in {entry.app_id for entry in entries}
    assert task.polls() == [[(1, "misconfigured")], [(1, "ok")], [(1, "ok")]]
