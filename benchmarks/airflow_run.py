"""Runs under a real Airflow: scheduler with LocalExecutor, dag-processor, API server, Postgres.

`dag_run`: six regions beside the DAG of the same shape whose tasks do nothing, in turn in the same
Airflow. `plan`: what it costs to plan many apps, the reading of their connections included.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from im_attr_audit import settings
from im_attr_audit.outcomes import FAILED

from benchmarks.measure import ratio
from benchmarks.plain import DAG_ID, SHAPE_ID, SHAPES, plain_environment
from launch import api, components, databases, environment, network, processes
from launch.components import Component, Family
from launch.dag_runs import FINISHED
from launch.databases import AIRFLOW, AUDIT
from launch.postgres import EmbeddedPostgres
from launch.state import ROOT, State
from simulator.control import Simulator
from simulator.records import NewApp
from simulator.story import APPS, REGIONS

NAMES = {0: "sex", 1: "city", 2: "Membership level", 3: "signup channel"}
DAGS = {"ours": DAG_ID, "shape": SHAPE_ID}
_AIRFLOW = str(Path(sys.executable).parent / "airflow")
_UP_SECONDS = 300
_RUN_SECONDS = 600

Connections = Mapping[str, Mapping[str, Any]]


@dataclass
class RealAirflow:
    """One that is up; its DAGs are known, and their first runs are over."""

    address: str
    token: str
    server: EmbeddedPostgres
    environment: Mapping[str, str] = field(repr=False)

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        return api.ask(f"{self.address}/api/v2/{path}", body, self.token, method)

    def run(self, dag_id: str) -> str:
        """Trigger a run and wait until it has ended well; its id."""
        made = self.ask(f"dags/{dag_id}/dagRuns", {"logical_date": None})
        run_id = str(made["dag_run_id"])
        self.wait()
        [(state,)] = self.query(
            "select state from dag_run where dag_id = %s and run_id = %s", dag_id, run_id
        )
        assert state == "success", f"{run_id} of {dag_id}: {state}"
        return run_id

    def wait(self) -> None:
        """Until no run of any DAG is under way."""

        def over() -> bool:
            # Asked of Postgres: the API server is to have nothing to do but the run.
            [(left,)] = self.query(
                "select count(*) from dag_run where state <> all(%s)", list(FINISHED)
            )
            return not left

        assert processes.wait_until(over, seconds=_RUN_SECONDS, interval=0.25), "no end"

    def query(self, sql: str, *values: Any, dbname: str = AIRFLOW) -> list[tuple[Any, ...]]:
        with self.server.connect(dbname) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()

    def wall(self, dag_id: str, run_id: str) -> float:
        """Seconds from the run's start to its end, as Airflow has them."""
        [(seconds,)] = self.query(
            "select extract(epoch from end_date - start_date)::float from dag_run"
            " where dag_id = %s and run_id = %s",
            dag_id,
            run_id,
        )
        return float(seconds)

    def tasks(self, dag_id: str, run_id: str) -> dict[str, list[float]]:
        """Seconds from start to end of each task's instances, as Airflow has them."""
        found: dict[str, list[float]] = {}
        for task_id, state, seconds in self.query(
            "select task_id, state, extract(epoch from end_date - start_date)::float"
            " from task_instance where dag_id = %s and run_id = %s",
            dag_id,
            run_id,
        ):
            assert state == "success", f"{task_id} of {run_id}: {state}"
            found.setdefault(task_id, []).append(seconds)
        return found

    def assert_recorded(self, run_id: str, apps: int) -> None:
        """Every app has its good poll of this run, and nothing was seen to change."""
        [(good, polls, changes)] = self.query(
            "select count(*) filter (where outcome <> all(%s)), count(*),"
            " (select count(*) from attr_audit.change where not is_baseline)"
            "  from attr_audit.poll where dag_run_id = %s",
            sorted(FAILED),
            run_id,
            dbname=AUDIT,
        )
        assert (good, polls, changes) == (apps, apps, 0), (run_id, good, polls, changes)


@contextlib.contextmanager
def airflow(variables: Mapping[str, str]) -> Iterator[RealAirflow]:
    """Airflow as `make run` starts it, with both DAGs; ended and deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as temporary:
        state = State(Path(temporary) / "state")
        state.make()
        dags = Path(temporary) / "dags"
        dags.mkdir()
        for path in (ROOT / "dags" / "im_attr_name_audit.py", SHAPES / "same_shape.py"):
            shutil.copy(path, dags)
        server = state.postgres()
        try:
            server.start()
            ready = databases.prepare(state, server, {})
            family = Family()  # Postgres is not part of it
            try:
                yield _started(state, server, ready, family, dags, variables)
            finally:
                family.stop(patience=10)
        finally:
            server.destroy()


def _started(
    state: State,
    server: EmbeddedPostgres,
    ready: databases.Databases,
    family: Family,
    dags: Path,
    variables: Mapping[str, str],
) -> RealAirflow:
    port, log_port = network.choose(), network.choose()
    user = plain_environment() | {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        environment.SCHEDULE: "0 0 1 1 *",  # one run at the start, and then none unless triggered
        **variables,
    }
    everything = environment.for_airflow(state, user, ready, port=port, log_port=log_port)
    everything["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
    subprocess.run(
        [sys.executable, "-m", "launch.metadata"],
        cwd=ROOT,
        env=everything,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    for name in ("api-server", "scheduler", "dag-processor"):
        log = state.logs / f"{name}.log"
        family.components.append(Component(name, [_AIRFLOW, name], everything, log))
    address = f"http://localhost:{port}"

    def up() -> bool:
        for component in family.components:
            assert component.ended is None, f"{component.name}:\n{component.last_words()}"
        with contextlib.suppress(OSError, ValueError):
            token = api.log_in(address, *environment.login(state))
            for dag_id in DAGS.values():
                api.ask(f"{address}/api/v2/dags/{dag_id}", token=token)
            return api.is_healthy(address)
        return False

    assert processes.wait_until(up, seconds=_UP_SECONDS, interval=0.5), "Airflow does not come up"
    return RealAirflow(address, api.log_in(address, *environment.login(state)), server, everything)


# -- a run of six regions --------------------------------------------------------------------------


def dag_run(rounds: int = 10) -> dict[str, Any]:
    """Medians of both DAGs' runs, and of their tasks, in turn in one Airflow."""
    components.adopt_orphans()  # a scheduler that is killed leaves its workers
    walls: dict[str, list[float]] = {name: [] for name in DAGS}
    tasks: dict[str, dict[str, list[float]]] = {name: {} for name in DAGS}
    with simulator(REGIONS) as vendor:
        vendor.add_apps(NewApp(region, number, NAMES) for region, number in APPS.items())
        found = {
            f"im_{region}": vendor.connection_json(region, number)
            for region, number in APPS.items()
        }
        variables = {
            f"AIRFLOW_CONN_{name.upper()}": json.dumps(each) for name, each in found.items()
        }
        with airflow(variables | {environment.CONN_IDS: json.dumps(list(found))}) as running:
            running.wait()
            for number in range(-1, rounds):
                for name in DAGS if number % 2 else reversed(DAGS):
                    run_id = running.run(DAGS[name])
                    if name == "ours":
                        running.assert_recorded(run_id, len(APPS))
                    took = running.tasks(DAGS[name], run_id)
                    assert {task: len(each) for task, each in took.items()} == {
                        "plan": 1, "sync": len(APPS), "publish": 1, "report": 1,
                    }  # fmt: skip
                    if number >= 0:  # in the first round the record is empty, and caches are cold
                        walls[name].append(running.wall(DAGS[name], run_id))
                        for task, each in took.items():
                            tasks[name].setdefault(task, []).extend(each)
    seconds = {name: statistics.median(values) for name, values in walls.items()}
    return {
        "rounds": rounds,
        "seconds": seconds,
        "ratio_of_medians": seconds["ours"] / seconds["shape"],
        "ratio": ratio(walls["ours"], walls["shape"]),
        "tasks": {
            name: {task: statistics.median(each) for task, each in found_.items()}
            for name, found_ in tasks.items()
        },
        "walls": walls,
    }


def render_dag_run(figures: Any) -> str:
    """Its section of the page."""
    seconds, tasks = figures["seconds"], figures["tasks"]
    each = ", ".join(
        f"{task} {tasks['ours'][task]:.2f} s ({tasks['shape'][task]:.2f} s)"
        for task in tasks["ours"]
    )
    return (
        "### A run of six regions\n\nLocalExecutor, all of Airflow's processes on this machine, "
        "nothing changed at the vendor; from a run's start to its end as Airflow records "
        "them, compared with a DAG of the same shape whose tasks do nothing: "
        f"{seconds['ours']:.1f} s and {seconds['shape']:.1f} s, a ratio of "
        f"**{figures['ratio_of_medians']:.2f}** (median of the rounds' ratios "
        f"{figures['ratio']:.2f}; {figures['rounds']} runs of each, in turn). One instance of "
        f"each task, its process's start included, and in parentheses the one that does nothing: "
        f"{each}."
    )


@contextlib.contextmanager
def simulator(regions: Sequence[str]) -> Iterator[Simulator]:
    with tempfile.TemporaryDirectory() as folder:
        running = Simulator.start(Path(folder), regions=list(regions), lasting=False)
        try:
            yield running
        finally:
            running.stop()


# -- planning many apps ----------------------------------------------------------------------------


def plan(rounds: int = 5, apps: int = 1_000, *, files: bool = False) -> dict[str, Any]:
    """Seconds of the plan task, and of the others, with so many connections.

    ``files``: they lie in files of a folder, as a volume that is mounted; else in the environment.
    """
    components.adopt_orphans()
    region = "frankfurt"
    numbers = range(1_400_000_001, 1_400_000_001 + apps)
    walls: list[float] = []
    tasks: dict[str, list[float]] = {}
    empty: list[float] = []
    with simulator([region]) as vendor, tempfile.TemporaryDirectory() as folder:
        vendor.add_apps(NewApp(region, number, NAMES) for number in numbers)
        found = {f"im_{number}": vendor.connection_json(region, number) for number in numbers}
        variables = (
            _in_files(Path(folder), found)
            if files
            else {f"AIRFLOW_CONN_{name.upper()}": json.dumps(each) for name, each in found.items()}
        )
        with airflow(variables) as running:
            running.wait()  # where nothing is listed yet, the first run fails
            # An environment variable holds 128 KiB.
            running.ask("variables", {"key": settings.CONN_IDS, "value": json.dumps(list(found))})
            for number in range(-1, rounds):
                run_id = running.run(DAG_ID)
                running.assert_recorded(run_id, apps)
                if number >= 0:
                    walls.append(running.wall(DAG_ID, run_id))
                    for task, each in running.tasks(DAG_ID, run_id).items():
                        tasks.setdefault(task, []).extend(each)
                    empty += running.tasks(SHAPE_ID, running.run(SHAPE_ID))["plan"]
    return {
        "apps": apps,
        "files": files,
        "rounds": rounds,
        "instances": len(tasks["sync"]) // rounds,
        "seconds": {task: statistics.median(each) for task, each in tasks.items()},
        "seconds_of_nothing": statistics.median(empty),
        "run": statistics.median(walls),
    }


def _in_files(folder: Path, found: Connections) -> dict[str, str]:
    """The connections in files of 1,000, and the settings that have workers read them."""
    listed = list(found)
    for begin in range(0, len(listed), 1_000):
        part = {name: found[name] for name in listed[begin : begin + 1_000]}
        (folder / f"{begin}.json").write_text(json.dumps(part))
    return {
        "AIRFLOW__SECRETS__BACKEND": "im_attr_audit.connection_files.ConnectionFilesBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"folder": str(folder)}),
    }


def render_plan(figures: Any) -> str:
    """Its section of the page."""
    seconds = figures["seconds"]
    where = (
        "Connections in files, read by `ConnectionFilesBackend` in the task's process"
        if figures["files"]
        else "Connections from the worker's own secrets backend (here the environment), read in "
        "the task's process"
    )
    return (
        f"### Planning {figures['apps']:,} apps\n\n{where}. The plan task takes "
        f"**{seconds['plan']:.1f} s** from start to end, a task that does nothing "
        f"{figures['seconds_of_nothing']:.1f} s. Each of the {figures['instances']} sync instances "
        f"takes {seconds['sync']:.1f} s, and the whole run {figures['run']:.0f} s (medians of "
        f"{figures['rounds']} runs)."
    )
