"""`make sync` and `make run` as a person uses them: a real Airflow, stopped in every way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.settings import DAG_ID

from launch import api, environment, processes
from launch.dag_runs import DagRuns
from launch.state import STATE_VARIABLE, State
from simulator.control import Simulator

ROOT = Path(__file__).resolve().parents[1]
#: Beside the first sync, which is as a person has it, nothing waits longer than it must.
AT_ONCE = {"IM_ATTR_AUDIT_RETRY_SECONDS": "0", "IM_ATTR_AUDIT_CONFIRM_SECONDS": "0.1"}
pytestmark = pytest.mark.timeout(300)


class Bench:
    """One state folder, as one checkout has; the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State(folder)
        self.started: list[Launched] = []

    def environment(self, **variables: str) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW_", "IM_ATTR_AUDIT_"))
        }
        return {**clean, STATE_VARIABLE: str(self.folder), **variables}

    def launch(
        self, *command: str, given: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment(**variables),
            input=given,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def sql(self, question: str) -> list[list[str]]:
        done = self.launch("launch", "psql", given=f"\\pset format csv\n\\t on\n{question};\n")
        assert done.returncode == 0, done.stderr
        return [line.split(",") for line in done.stdout.splitlines()]

    def run(self) -> Launched:
        """A `make run` that runs the DAG once, as soon as it knows it, and retries at once."""
        launched = Launched(self, {"IM_ATTR_AUDIT_SCHEDULE": "0 0 1 1 *", **AT_ONCE})
        self.started.append(launched)
        return launched

    def up(self) -> Launched:
        """The `make run` that is up, or a new one."""
        if not self.started or self.started[-1].process.poll() is not None:
            self.run()
        self.started[-1].until_up()
        return self.started[-1]


class Launched:
    """A `make run`, and every process it ever had below it."""

    def __init__(self, bench: Bench, variables: dict[str, str]) -> None:
        bench.state.make()
        self.output = bench.folder / "run.out"
        self._bench = bench
        self.seen: dict[tuple[int, float], dict[str, Any]] = {}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch", "run"],
                cwd=ROOT,
                env=bench.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], bool], seconds: float = 150) -> None:
        met = False

        def over() -> bool:
            nonlocal met
            self.look()
            met = condition()
            return met or self.process.poll() is not None

        processes.wait_until(over, seconds=seconds, interval=0.2)
        assert met, self.said

    def look(self) -> None:
        """Remember which processes there are below it."""
        for pid in processes.children(self.process.pid, recursive=True):
            if identity := processes.identity(pid):
                self.seen[pid, identity["started"]] = identity

    def until_up(self) -> None:
        self.until(lambda: "Login" in self.said)

    def named(self, name: str) -> int:
        """The process of one of Airflow's parts."""
        return next(
            pid
            for pid in processes.children(self.process.pid, recursive=True)
            if re.search(rf"airflow {name}", processes.command_line(pid).replace("_", "-"))
        )

    @property
    def scheduler_log(self) -> str:
        return (self._bench.state.logs / "scheduler.log").read_text()

    def left(self) -> list[str]:
        """What still runs of all that ever ran below it."""
        return [
            f"{pid} {processes.command_line(pid)}"
            for (pid, _), identity in self.seen.items()
            if processes.is_same(identity)
        ]

    @property
    def only_postgres_left(self) -> bool:
        return all("postgres" in each for each in self.left())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        processes.wait_until(lambda: self.only_postgres_left, seconds=20)
        for (pid, _), identity in self.seen.items():
            if processes.is_same(identity):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    mine = Bench(tmp_path_factory.mktemp("bench") / "local")
    yield mine
    for launched in mine.started:
        launched.end()
    mine.state.postgres().destroy()


def test_sync_records_the_names_and_then_exactly_the_one_that_was_changed(bench: Bench) -> None:
    first = bench.launch("launch", "sync")
    assert first.returncode == 0, first.stderr
    assert "6 of 6 targets recorded" in first.stdout
    assert "Membership level" in first.stdout
    recorded = bench.sql("select count(*) from attr_audit.change where is_baseline")
    assert recorded == [["24"]]
    declared = "select right(source, 19), document ->> 'groups' from declaration"
    [[source, *_]] = bench.sql(declared)
    assert source == "declared_names.yaml"
    assert bench.sql("select from violations") == []
    assert not bench.state.postgres().running

    by_hand = bench.launch(
        "simulator", "set", "frankfurt", "2", "loyalty", "--state", str(bench.state.simulator)
    )
    assert by_hand.returncode == 0, by_hand.stderr
    second = bench.launch("launch", "sync")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("renamed") == 1
    assert bench.sql(
        "select region, slot, old_name, new_name, not_before < seen_at from attr_audit.change"
        " where not is_baseline"
    ) == [["frankfurt", "2", "Membership level", "loyalty", "t"]]
    assert bench.sql("select region, slot, declared_name, actual_name from violations") == [
        ["frankfurt", "2", "Membership level", "loyalty"]
    ]


def test_sync_of_given_targets_records_what_it_can_and_fails_by_name(
    bench: Bench, tmp_path: Path
) -> None:
    with Simulator.start(tmp_path / "vendor", regions=["tokyo", "mumbai", "seoul"]) as vendor:
        connections = {}
        for number, region in enumerate(("tokyo", "mumbai", "seoul"), start=20000001):
            vendor.add_app(region, number, {0: "sex", 1: f"city of {region}"})
            connections[f"my_{region}"] = vendor.connection_json(region, number)
        connections["my_mumbai"]["password"] = "a" * 64
        vendor.fault("bad_gateway", region="seoul", times=None)
        done = bench.launch(
            "launch",
            "sync",
            AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS=json.dumps(list(connections)),
            **AT_ONCE,
            **{
                f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection)
                for name, connection in connections.items()
            },
        )
    assert done.returncode == 1
    assert "1 of 3 targets recorded" in done.stdout
    assert "city of tokyo" in done.stdout
    for failed in ("my_mumbai", "my_seoul"):
        assert failed in done.stdout
    assert "simulator" not in done.stderr
    everything = "".join(
        path.read_text(errors="replace") for path in bench.state.logs.rglob("*") if path.is_file()
    )
    assert "a" * 64 not in everything + done.stdout + done.stderr


def test_run_serves_beside_sync_and_psql_and_a_crash_of_one_part_leaves_nothing(
    bench: Bench,
) -> None:
    launched = bench.run()
    launched.until_up()
    address = bench.state.recall("running")["address"]
    health = api.ask(f"{address}/api/v2/monitor/health", timeout=10)
    assert health["scheduler"]["status"] == "healthy"

    secrets = [
        environment.login(bench.state)[1],
        bench.state.postgres().password("attr_audit_writer"),
        bench.state.secret("jwt_secret"),
    ]
    lines = [processes.command_line(pid) for pid, _ in launched.seen]
    assert lines
    assert not [line for line in lines for secret in secrets if secret in line]

    again = bench.launch("launch", "run")
    assert again.returncode == 1
    assert f"up in this checkout already: {address}" in again.stderr
    assert bench.launch("launch", "clean", given="y\n").returncode == 1

    done = bench.launch("launch", "sync")
    assert done.returncode == 0, done.stderr + launched.said
    assert "Run sync__" in done.stdout
    run_id = re.findall(r"Run (sync__\S+):", done.stdout)[0]
    launched.until(lambda: run_id in launched.said)
    assert bench.sql(f"select count(*) from attr_audit.poll where dag_run_id = '{run_id}'") == [
        ["6"]
    ]
    assert bench.state.postgres().running

    os.kill(launched.named("scheduler"), signal.SIGKILL)
    assert launched.process.wait(60) == 1
    assert "Airflow's scheduler ended" in launched.said
    assert launched.left() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_run_leaves_postgres_at_most_and_the_next_one_adopts_it(bench: Bench) -> None:
    launched = bench.run()
    launched.until_up()
    server = bench.state.postgres()
    known = server.pid
    assert known is not None
    # Tasks under way would outlive it for as long as they look for Airflow: the test below.
    launched.until(lambda: all(run.finished for run in DagRuns(server).newest()))
    launched.process.kill()
    launched.process.wait()
    gone = processes.wait_until(lambda: launched.only_postgres_left, seconds=60)
    assert gone, "\n".join([*launched.left(), launched.scheduler_log])
    assert server.pid == known
    assert bench.sql("select 1") == [["1"]]
    assert not server.running


def test_what_a_run_killed_amid_its_tasks_has_left_is_ended_by_the_next(bench: Bench) -> None:
    launched = bench.run()
    launched.until_up()
    vendor = Simulator.attach(bench.state.simulator)
    assert vendor is not None
    vendor.fault("hold", region="seoul")
    address = bench.state.recall("running")["address"]
    token = api.log_in(address, *environment.login(bench.state))
    api.ask(f"{address}/api/v2/dags/{DAG_ID}/dagRuns", {"logical_date": None}, token)
    vendor.wait_held(timeout=120)
    launched.look()
    launched.process.kill()
    launched.process.wait()
    known = bench.state.postgres().pid

    again = bench.run()
    again.until_up()
    assert launched.only_postgres_left, "\n".join(launched.left())
    assert bench.state.postgres().pid == known


def test_after_sigterm_nothing_is_left_and_the_next_run_continues_with_the_data(
    bench: Bench,
) -> None:
    launched = bench.up()
    recorded = bench.sql("select count(*) from attr_audit.change")
    assert recorded != [["0"]]
    launched.process.send_signal(signal.SIGTERM)
    assert launched.process.wait(60) == 0
    assert launched.left() == []
    assert bench.sql("select count(*) from attr_audit.change") == recorded
