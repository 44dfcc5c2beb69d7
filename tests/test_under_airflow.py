"""A real Airflow (LocalExecutor, logs at DEBUG): killed while it syncs, and scanned afterwards.

The scheduler and task workers are SIGKILLed in the middle of a sync, again and again; the record is
what was true. Then all that was written anywhere is scanned for secrets: logs, both
databases, files, command lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.settings import DAG_ID, REVIEW_DAG_ID
from im_attr_audit.tencent.target import Target
from sqlalchemy.engine import make_url

from launch import api, databases, environment, network, processes
from launch.dag_runs import DagRun, DagRuns
from launch.state import State
from simulator.control import Simulator
from tests.airflow_process import AirflowProcess
from tests.conftest import WRITER, AuditDb
from tests.counts import count
from tests.leaks import Secrets, scan_command_lines, scan_database, scan_files
from tests.rig import Rig, app_of, assert_chains_hold, assert_changes_are_true, target_of
from tests.test_secrets import FAULTS, TITLE, connections
from tests.webhook import Webhook, webhook

ROOT = Path(__file__).resolve().parents[1]
REGIONS = ("china", "frankfurt")
KILLED = "SIGKILL under a real Airflow"
pytestmark = pytest.mark.timeout(420)


class Airflow:
    """Its three processes on a state folder of their own; each may be killed and started again."""

    def __init__(
        self, folder: Path, connections: dict[str, dict[str, Any]], alerts: Webhook
    ) -> None:
        self.state = State(folder)
        self.state.make()
        self.server = self.state.postgres()
        self.server.start()
        ready = databases.prepare(self.state, self.server, {})
        self.port = network.choose(18080, None)
        self.address = f"http://localhost:{self.port}"
        user = {name: value for name, value in os.environ.items() if "AIRFLOW" not in name}
        user |= {
            f"AIRFLOW_CONN_{name.upper()}": json.dumps(given) for name, given in connections.items()
        }
        user |= {
            "AIRFLOW_CONN_IM_ATTR_AUDIT_NOTIFY": alerts.connection(),
            environment.CONN_IDS: json.dumps([*connections]),
            environment.SCHEDULE: "0 0 29 2 *",
            "IM_ATTR_AUDIT_CONFIRM_SECONDS": "0.1",
            "IM_ATTR_AUDIT_RETRY_SECONDS": "0",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        }
        log_port = network.choose(18793, None)
        self.variables = environment.for_airflow(
            self.state, user, ready, port=self.port, log_port=log_port
        ) | {
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,uma:user,vera:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords()),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
            # Many heartbeats below the threshold: else a scheduler that is merely busy takes its
            # own tasks for orphans and ends them.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            # The DAG files stay as they are.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
        }
        self.runs = DagRuns(self.server)
        self.groups: list[int] = []
        self.parts: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        migrated = self._popen("metadata", [sys.executable, "-m", "launch.metadata"])
        assert migrated.wait(180) == 0
        # A killed scheduler's children hold its connections open, for they inherited them: what it
        # had locked in an open transaction would stay locked as long as they live.
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                f"alter database {databases.AIRFLOW} "
                "set idle_in_transaction_session_timeout = '20s'"
            )
        for name in ("api-server", "scheduler", "dag-processor"):
            self.start_part(name)
        assert processes.wait_until(self._up, seconds=180, interval=0.3), "Airflow does not get up"
        self._token = self.log_in("admin")
        self.pause_reviews(True)

    def pause_reviews(self, paused: bool) -> None:
        self.ask("", {"is_paused": paused}, "PATCH", dag=REVIEW_DAG_ID)

    def log_in(self, user: str) -> str:
        """A user's token."""
        admin, password = environment.login(self.state)
        return api.log_in(self.address, user, password if user == admin else user)

    def waiting_reviews(self) -> list[dict[str, Any]]:
        """The human-in-the-loop tasks that wait for an answer.

        Without those whose process has only just asked: Airflow asks again where the answer is
        faster than its scheduler learns of the end of that process, as no person is.
        """
        asked = self.ask("dagRuns/~/hitlDetails?limit=100", dag=REVIEW_DAG_ID)["hitl_details"]
        log = (self.state.logs / "scheduler.log").read_text()
        ended = set(re.findall("TaskInstance Finished: .*? ti_id=([0-9a-f-]+)", log))
        return [
            each
            for each in asked
            if each["task_instance"]["state"] == "awaiting_input"
            and each["task_instance"]["id"] in ended
        ]

    def review_states(self) -> set[str | None]:
        """The states of every task of every review run."""
        answer = self.ask("dagRuns/~/taskInstances?limit=100", dag=REVIEW_DAG_ID)
        return {each["state"] for each in answer["task_instances"]}

    def answer(self, asked: dict[str, Any], option: str, user: str) -> int:
        """The status of this user's answer."""
        ti = asked["task_instance"]
        path = f"dagRuns/{quote(ti['dag_run_id'])}/taskInstances/{ti['task_id']}/{ti['map_index']}"
        given = {"chosen_options": [option], "params_input": {"ticket": "OPS-1", "comment": None}}
        try:
            self.ask(
                f"{path}/hitlDetails", given, "PATCH", dag=REVIEW_DAG_ID, token=self.log_in(user)
            )
        except urllib.error.HTTPError as refusal:
            return refusal.code
        return 200

    def _passwords(self) -> Path:
        """A file with the users' passwords: their names, but for the administrator."""
        path = self.state.secrets / "users.json"
        path.write_text(
            json.dumps({"uma": "uma", "vera": "vera", **dict([environment.login(self.state)])})
        )
        return path

    def start_part(self, name: str) -> None:
        airflow = str(Path(sys.executable).parent / "airflow")
        self.parts[name] = self._popen(name, [airflow, name])

    def _popen(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.state.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.groups.append(process.pid)
        return process

    def _up(self) -> bool:
        if not api.is_healthy(self.address):
            return False
        with contextlib.suppress(OSError, ValueError):
            token = self.log_in("admin")
            for dag in (DAG_ID, REVIEW_DAG_ID):
                api.ask(f"{self.address}/api/v2/dags/{dag}", token=token)
            return True
        return False

    def trigger(self, *conn_ids: str) -> str:
        """A run of these connections, or of all; its id."""
        asked = {"logical_date": None, "conf": {"conn_ids": [*conn_ids]} if conn_ids else {}}
        made = api.ask(f"{self.address}/api/v2/dags/{DAG_ID}/dagRuns", asked, self._token)
        return str(made["dag_run_id"])

    def ask(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        method: str = "",
        *,
        dag: str = DAG_ID,
        token: str = "",
    ) -> Any:
        """Ask Airflow's public API for something of the DAG."""
        address = f"{self.address}/api/v2/dags/{dag}/{path}".removesuffix("/")
        return api.ask(address, body, token or self._token, method)

    def clear(self, run_id: str, **what: Any) -> DagRun:
        """Clear tasks of a run as the UI does, and the run as it ends."""
        asked = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, **what}
        assert self.ask("clearTaskInstances", asked)["task_instances"]
        return self.finished(run_id)

    def mark(self, run_id: str, task: str, state: str) -> None:
        """Mark a task by hand: ``task`` is its id, and its map index behind a slash."""
        self.ask(f"dagRuns/{run_id}/taskInstances/{task}", {"new_state": state}, "PATCH")

    def states(self, run_id: str) -> dict[str, str]:
        """Task, with its map index where it has one → state."""
        found = self.ask(f"dagRuns/{run_id}/taskInstances")["task_instances"]
        return {
            ti["task_id"] + (f"/{ti['map_index']}" if ti["map_index"] >= 0 else ""): ti["state"]
            for ti in found
        }

    def finished(self, run_id: str, seconds: float = 150) -> DagRun:
        def found() -> bool:
            run = self.runs.get(run_id)
            return run is not None and run.finished

        assert processes.wait_until(found, seconds=seconds, interval=0.2), run_id
        run = self.runs.get(run_id)
        assert run is not None
        return run

    def workers(self) -> list[int]:
        """The scheduler's workers that run a task at present."""
        return [
            pid
            for pid in processes.children(self.parts["scheduler"].pid, recursive=True)
            if "airflow worker" in processes.command_line(pid)
            and "<idle>" not in processes.command_line(pid)
            and processes.children(pid)
        ]

    def stop(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
        processes.wait_until(
            lambda: all(part.poll() is not None for part in self.parts.values()), seconds=10
        )
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for part in self.parts.values():
            part.wait()
        self.server.destroy()


class Scene:
    """Two good apps in two regions beside everything that goes wrong."""

    def __init__(self, airflow: Airflow, rig: Rig, targets: list[Target], alerts: Webhook) -> None:
        self.airflow, self.rig, self.targets, self.alerts = airflow, rig, targets, alerts
        self.changes = 0

    def change(self) -> None:
        """Another truth for both."""
        self.changes += 1
        for target in self.targets:
            self.rig.set_names(target, {0: f"name {self.changes}", 1: "city"})

    def begin(self, *reads_before: str) -> str:
        """A run whose syncs wait for an answer each; its id."""
        self.change()
        for target in self.targets:
            self.rig.fault(target, *reads_before, "hold")
        run = self.airflow.trigger(*(target.conn_id for target in self.targets))
        self.rig.simulator.wait_held(len(self.targets), timeout=120)
        return run

    def go_on(self, run: str) -> None:
        """Let the answers come; the run ends well, or the next one does."""
        self.rig.simulator.release()
        ended = self.airflow.finished(run)
        count(KILLED, f"runs that ended {ended.state}")
        if ended.state != "success":
            again = self.airflow.trigger(*(target.conn_id for target in self.targets))
            assert self.airflow.finished(again).state == "success"
        self.check()

    def run(self) -> DagRun:
        return self.airflow.finished(
            self.airflow.trigger(*(target.conn_id for target in self.targets))
        )

    def red_run(self) -> str:
        """Both apps' names change, and one app's answer is not valid; the id of that run.

        Afterwards the app answers again.
        """
        self.change()
        self.rig.fault(self.targets[1], {"kind": "raw", "body": "<html>"})
        ended = self.run()
        assert ended.state == "failed"
        states = self.airflow.states(ended.run_id)
        assert (states["sync/0"], states["sync/1"]) == ("success", "failed")
        return ended.run_id

    def unannounced(self) -> dict[tuple[str, str], int]:
        """Run and region → how many recorded rows no event announces; below 0: they are twice."""
        with self.airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
            cursor.execute(
                "select dag_run_id, region, count(*) from attr_audit.change group by 1, 2"
            )
            left = {(run, region): rows for run, region, rows in cursor.fetchall()}
            cursor.execute(
                "select region, sdk_app_id, max(seq) from attr_audit.change group by 1, 2"
            )
            heads = {(region, str(app)): seq for region, app, seq in cursor.fetchall()}
        with self.airflow.server.connect(databases.AIRFLOW) as meta, meta.cursor() as cursor:
            cursor.execute(
                "select e.extra from asset_event e join asset a on a.id = e.asset_id "
                "where a.name = 'im-attr-audit/changes'"
            )
            events = [extra for (extra,) in cursor.fetchall()]
        witnessed = dict.fromkeys(heads, 0)
        for event in events:
            left[event["dag_run_id"], event["region"]] -= event["changes"] + event["baselines"]
            for app, head in event["chain_heads"].items():
                place = (event["region"], app)
                witnessed[place] = max(witnessed[place], head["seq"])
        missing = {place: rows for place, rows in left.items() if rows}
        # What is announced once is witnessed, and nothing else is.
        assert (witnessed == heads) == (not missing)
        return missing

    def unsent_alerts(self) -> int:
        with self.airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
            cursor.execute("select count(*) from attr_audit.notification where sent_at is null")
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])

    def check(self) -> None:
        """What is recorded is what was true, each change once."""
        record = self.rig.record(*self.targets)
        for target in self.targets:
            assert_changes_are_true(record.changes_of(app_of(target)), self.rig.history(target))


@pytest.fixture(scope="module")
def made(simulator: Simulator) -> dict[str, dict[str, Any]]:
    """Everything that goes wrong, and two connections that are good."""
    given = connections(simulator)
    for number, region in enumerate(REGIONS, start=1_400_200_001):
        simulator.add_app(region, number, {0: "sex", 1: "city"}, rate_limit=None)
        given[f"good_{region}"] = simulator.connection_json(region, number)
    return given


@pytest.fixture(scope="module")
def alerts() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture(scope="module")
def airflow(
    made: dict[str, dict[str, Any]], alerts: Webhook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    running = Airflow(tmp_path_factory.mktemp("airflow") / "local", made, alerts)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def scene(
    airflow: Airflow, simulator: Simulator, made: dict[str, dict[str, Any]], alerts: Webhook
) -> Iterator[Scene]:
    engine = create_audit_engine(make_url(airflow.server.url(databases.AUDIT, WRITER)))
    targets = [target_of(name, given) for name, given in made.items() if name.startswith("good_")]
    scene = Scene(airflow, Rig(simulator, engine), targets, alerts)
    first = airflow.trigger(*(target.conn_id for target in targets))
    assert airflow.finished(first).state == "success"
    scene.check()
    yield scene
    engine.dispose()


ONE_SYNC = {"task_ids": [["sync", 1]]}
WAYS: dict[str, dict[str, Any]] = {
    "the whole run": {},
    "only failed": {"only_failed": True},
    "one sync with what follows it": {**ONE_SYNC, "include_downstream": True},
}


def reviews(scene: Scene) -> list[tuple[Any, ...]]:
    """Region, verdict, reviewer and ticket of every review, in order."""
    with scene.airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
        cursor.execute(
            "select region, verdict, reviewer, ticket from attr_audit.review order by review_id"
        )
        return cursor.fetchall()


def test_a_person_answers_for_a_change_in_airflow(scene: Scene) -> None:
    airflow = scene.airflow
    airflow.pause_reviews(False)
    for target in scene.targets:
        scene.rig.set_names(target, {0: "{{ 7+7 }}", 1: "city"})
    assert scene.run().state == "success"

    def wait(found: Callable[[], bool]) -> None:
        assert processes.wait_until(found, seconds=150, interval=0.3)

    # They wait without triggerer; no process and no task is left running.
    wait(lambda: len(airflow.waiting_reviews()) == len(REGIONS))
    first, second = sorted(airflow.waiting_reviews(), key=lambda each: str(each["subject"]))
    assert first["subject"] == "china: 1 change of attribute names. Expected?"
    assert '`"\\u007b\\u007b 7+7 \\u007d\\u007d"`' in first["body"]

    assert airflow.answer(first, "Expected", "vera") == 403
    assert airflow.answer(first, "Not expected", "uma") == 200
    assert airflow.answer(first, "Expected", "admin") == 409

    def answered(subject: str, verdict: str, who: str, count: int) -> bool:
        # An answer within a second of the question may be asked for again: docs/operations.md.
        for asked in airflow.waiting_reviews():
            if asked["subject"] == subject:
                assert airflow.answer(asked, verdict, who) == 200
        return len(reviews(scene)) == count

    wait(lambda: answered(first["subject"], "Not expected", "uma", 1))
    assert reviews(scene) == [("china", "not_expected", "uma", "OPS-1")]
    assert [each["subject"] for each in airflow.waiting_reviews()] == [second["subject"]]

    # Cleared, it asks again. The last answer counts.
    cleared = {
        "dry_run": False,
        "only_failed": False,
        "dag_run_id": first["task_instance"]["dag_run_id"],
        "task_ids": [["of_region.review", first["task_instance"]["map_index"]]],
        "include_downstream": True,
    }
    airflow.ask("clearTaskInstances", cleared, dag=REVIEW_DAG_ID)
    wait(lambda: len(airflow.waiting_reviews()) == len(REGIONS))
    wait(lambda: answered(first["subject"], "Expected", "admin", 2))
    wait(lambda: answered(second["subject"], "Expected", "admin", 3))
    assert {review[1:3] for review in reviews(scene)[1:]} == {("expected", "admin")}
    wait(lambda: airflow.review_states() == {"success"})
    with airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
        cursor.execute("select count(*) from attr_audit.unreviewed_changes")
        assert cursor.fetchone() == (0,)
    airflow.pause_reviews(True)


@pytest.mark.parametrize("what", WAYS.values(), ids=WAYS.keys())
def test_a_red_run_that_is_cleared_turns_green_and_announces_everything(
    scene: Scene, what: dict[str, Any]
) -> None:
    run = scene.red_run()
    assert scene.unannounced() == {}
    scene.alerts.take()
    assert scene.airflow.clear(run, **what).state == "success"
    assert set(scene.airflow.states(run).values()) == {"success"}
    assert scene.unannounced() == {}
    assert scene.unsent_alerts() == 0
    assert len(scene.alerts.take()) == 1
    scene.check()


def test_one_sync_cleared_alone_turns_the_run_green_and_the_next_run_announces_it(
    scene: Scene,
) -> None:
    run = scene.red_run()
    assert scene.airflow.clear(run, **ONE_SYNC).state == "success"
    scene.check()
    # Airflow runs nothing but what was cleared.
    assert len(scene.unannounced()) == scene.unsent_alerts() == 1
    scene.alerts.take()
    assert scene.run().state == "success"
    assert scene.unannounced() == {}
    assert scene.unsent_alerts() == 0
    assert len(scene.alerts.take()) == 1


def test_a_sync_that_is_cleared_in_vain_leaves_the_run_red(scene: Scene) -> None:
    run = scene.red_run()
    scene.rig.fault(scene.targets[1], {"kind": "raw", "body": "<html>"})
    assert scene.airflow.clear(run, only_failed=True).state == "failed"
    assert scene.airflow.states(run)["report"] == "failed"
    assert scene.run().state == "success"
    assert scene.unannounced() == {}
    scene.check()


def test_a_sync_marked_success_by_hand_records_nothing_and_the_next_run_does(scene: Scene) -> None:
    run = scene.red_run()
    scene.airflow.mark(run, "sync/1", "success")
    scene.airflow.finished(run)
    assert scene.run().state == "success"
    assert scene.unannounced() == {}
    scene.check()


def test_a_task_marked_failed_by_hand_is_cleared_again(scene: Scene) -> None:
    scene.change()
    run = scene.run().run_id
    for task in ("sync/1", "publish", "report"):
        scene.airflow.mark(run, task, "failed")
        scene.airflow.finished(run)
        assert scene.airflow.clear(run, only_failed=True).state == "success"
        assert set(scene.airflow.states(run).values()) == {"success"}
        assert scene.unannounced() == {}
        scene.check()


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_task_workers_killed_while_they_sync_cost_nothing(scene: Scene) -> None:
    run = scene.begin("ok")
    workers = scene.airflow.workers()
    assert len(workers) == len(REGIONS)
    kill(
        [pid for worker in workers for pid in (worker, *processes.children(worker, recursive=True))]
    )
    count(KILLED, "task workers with their task", len(workers))
    scene.go_on(run)


def test_tasks_killed_while_they_sync_cost_nothing(scene: Scene) -> None:
    run = scene.begin()
    tasks = [pid for w in scene.airflow.workers() for pid in processes.children(w)]
    kill(tasks)
    count(KILLED, "task processes alone", len(tasks))
    scene.go_on(run)


@pytest.mark.parametrize("reads_before", [(), ("ok",)], ids=["first read", "second read"])
def test_a_scheduler_killed_during_a_read_costs_nothing(
    scene: Scene, reads_before: tuple[str, ...]
) -> None:
    run = scene.begin(*reads_before)
    kill([scene.airflow.parts["scheduler"].pid])
    scene.airflow.start_part("scheduler")
    count(KILLED, "schedulers")
    scene.go_on(run)


def test_a_scheduler_killed_with_its_workers_during_a_commit_costs_nothing(scene: Scene) -> None:
    airflow = scene.airflow
    with airflow.server.connect(databases.AUDIT) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute("lock table attr_audit.poll in share mode")
        scene.change()
        run = airflow.trigger(*(target.conn_id for target in scene.targets))

        def waiting() -> bool:
            with airflow.server.connect() as other, other.cursor() as asked:
                asked.execute("select count(*) from pg_locks where not granted")
                row = asked.fetchone()
                return row is not None and row[0] >= len(REGIONS)

        assert processes.wait_until(waiting, seconds=90)
        scheduler = airflow.parts["scheduler"].pid
        workers = len(airflow.workers())
        kill([scheduler, *processes.children(scheduler, recursive=True)])
        count(KILLED, "schedulers")
        count(KILLED, "task workers with their task", workers)
        connection.rollback()
    airflow.start_part("scheduler")
    scene.go_on(run)


def test_airflow_at_debug_writes_no_secret_anywhere(
    scene: Scene, made: dict[str, dict[str, Any]]
) -> None:
    airflow = scene.airflow
    ended = airflow.finished(airflow.trigger())
    assert ended.state == "failed"
    secrets = Secrets({f"key of {name}": given["password"].strip() for name, given in made.items()})
    found = scan_command_lines(secrets)
    found += scan_files([airflow.state.folder, airflow.server.log], secrets, except_for=[])
    for dbname in (databases.AIRFLOW, databases.AUDIT):
        hits, tables = scan_database(airflow.server, dbname, secrets)
        found += hits
        count(TITLE, "tables after LocalExecutor", tables)
    logs = [path for path in airflow.state.folder.rglob("*.log") if path.is_file()]
    assert any("DEBUG" in path.read_text(errors="replace").upper() for path in logs)
    count(TITLE, "log bytes of LocalExecutor at DEBUG", sum(p.stat().st_size for p in logs))
    count(TITLE, "faults under LocalExecutor", len(FAULTS))
    count(TITLE, "hits", len(found))
    assert found == []
    assert_chains_hold(scene.rig.engine)


def test_dag_test_at_debug_writes_no_secret_anywhere(
    simulator: Simulator, made: dict[str, dict[str, Any]], audit_db: AuditDb, tmp_path: Path
) -> None:
    server = audit_db.server
    server.ensure_database("airflow_of_secrets")
    process = AirflowProcess(
        tmp_path / "home",
        server.url("airflow_of_secrets"),
        AIRFLOW__LOGGING__LOGGING_LEVEL="DEBUG",
    )
    given: dict[str, str | None] = {
        f"AIRFLOW_CONN_{name.upper()}": json.dumps(each) for name, each in made.items()
    }
    given["AIRFLOW_CONN_IM_ATTR_AUDIT_DB"] = audit_db.writer_connection
    given["AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS"] = json.dumps([*made])
    try:
        ended = process.run(given)
    finally:
        process.stop()
    assert ended.state == "failed"
    secrets = Secrets({f"key of {name}": each["password"].strip() for name, each in made.items()})
    found = scan_files([tmp_path / "home", server.log], secrets, except_for=[])
    for dbname in (audit_db.name, "airflow_of_secrets"):
        hits, tables = scan_database(server, dbname, secrets)
        found += hits
        count(TITLE, "tables after dag.test", tables)
    count(TITLE, "log bytes of dag.test at DEBUG", process.log_path.stat().st_size)
    count(TITLE, "faults under dag.test", len(FAULTS))
    count(TITLE, "hits", len(found))
    assert found == []
