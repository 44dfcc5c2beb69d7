"""One region of 1,000 apps on Celery: split over workers, one of them killed, one of them added.

`make test-cluster`. A scheduler, an API server, a DAG processor and the workers as processes of
their own, as on machines of their own: a worker has its own AIRFLOW_HOME and no way into Airflow's
database. Redis is the machine's (`apt-get install redis-server`). What it prints is in
docs/compose.md; times are reported there and judged nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.settings import DAG_ID as DAG
from sqlalchemy import text

from launch import api, processes
from launch.network import free_port
from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from simulator.records import NewApp
from tests.conftest import AuditDb, fresh_audit_db
from tests.leaks import Secrets, scan

ROOT = Path(__file__).resolve().parents[2]
REGION = "china"
APPS = range(1400000001, 1400001001)
NAMES = {0: "sex", 1: "city", 2: "level", 3: "channel"}
METADATA = "airflow_of_the_cluster"
LATENCY = 0.05
PARTS = 4

# For a machine that is busy with other work; a quiet one takes a tenth of it.
pytestmark = pytest.mark.timeout(3600)


@dataclass(frozen=True)
class Part:
    """One mapped task as it ended."""

    number: int  # from 1, of its region's
    label: str  # known once it has begun
    state: str
    tries: int
    host: str
    began: float
    ended: float


def eventually(what: str, condition: Callable[[], Any], seconds: float = 900) -> Any:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.25)
    return found


class Cluster:
    """The processes, and what is asked of them."""

    def __init__(
        self,
        folder: Path,
        postgres: EmbeddedPostgres,
        db: AuditDb,
        vendor: Simulator,
        settings: Mapping[str, str],
    ) -> None:
        self.folder, self.postgres, self.db, self.vendor = folder, postgres, db, vendor
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        redis_port, api_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{api_port}"
        redis = f"redis://127.0.0.1:{redis_port}"
        self.shared = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "IM_ATTR"))},
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "tests.cluster.host.name",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api_port),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__CELERY__BROKER_URL": f"{redis}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"{redis}/1",
            "AIRFLOW__CELERY__OPERATION_TIMEOUT": "15",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            # A killed worker is noticed after half a minute here, for the test's sake.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # Runs when it is asked to, and never by itself: the last tick is before its start_date.
            "IM_ATTR_AUDIT_SCHEDULE": "0 0 29 2 *",
            "IM_ATTR_AUDIT_RETRY_SECONDS": "1",
            "IM_ATTR_AUDIT_CONFIRM_SECONDS": "0.5",
            **settings,
        }
        self.control = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url(METADATA),
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the cluster's control, not its workers'",
            "AIRFLOW__API__SECRET_KEY": "the key by which logs are asked for, unused in this test",
        }
        self.worker = {
            "AIRFLOW_CONN_IM_ATTR_AUDIT_DB": db.writer_connection,
            "AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS": json.dumps([f"app_{app}" for app in APPS]),
        }
        for app in APPS:
            # Longer than any answer here, and short enough for a task to get its 250 apps.
            connection = json.dumps(vendor.connection_json(REGION, app, timeout=15))
            self.worker[f"AIRFLOW_CONN_APP_{app}"] = connection
        self._spawn(
            "redis",
            ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""],
            {},
        )

    # Processes -----------------------------------------------------------------------------------

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=home,
                env={
                    **self.shared,
                    "AIRFLOW_HOME": str(home),
                    "IM_ATTR_AUDIT_TEST_HOST": name,
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> None:
        """Everything but workers."""
        airflow = str(Path(sys.executable).parent / "airflow")
        self._spawn(
            "migrate", [sys.executable, "-m", "launch.metadata"], self.control | self._simple()
        )
        assert self.processes.pop("migrate").wait(180) == 0, self.log("migrate")
        for name in ("api-server", "dag-processor"):
            self._spawn(name, [airflow, name], self.control | self._simple())
        self.start_scheduler("scheduler")
        eventually("Airflow", self._healthy)
        eventually("the DAG", lambda: self.metadata("select 1 from dag where dag_id = %s", DAG))

    @staticmethod
    def _simple() -> dict[str, str]:
        return {
            "AIRFLOW__CORE__AUTH_MANAGER": (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            )
        }

    def _healthy(self) -> bool:
        self.check()
        with contextlib.suppress(OSError, ValueError):
            # The tasks' interface is loaded when it is first asked.
            api.ask(f"{self.address}/execution/health")
            return api.is_healthy(self.address)
        return False

    def check(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.log(name)}"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def start_scheduler(self, name: str) -> None:
        """A scheduler, which runs tasks itself where the executor is LocalExecutor."""
        airflow = str(Path(sys.executable).parent / "airflow")
        local = self.shared["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
        self._spawn(
            name,
            [airflow, "scheduler", "--skip-serve-logs"],
            self.control | self._simple() | (self.worker if local else {}),
        )

    def staff(self, *names: str) -> None:
        """Have these workers and no others. A name that is gone does not come back."""
        for name in [name for name in self.processes if name.startswith("worker")]:
            if name not in names:
                self.stop(name)
        for name in names:
            if name not in self.processes:
                self.start_worker(name)

    def start_worker(self, name: str, level: str = "INFO") -> None:
        """A worker for one task at a time, and wait until it takes tasks."""
        airflow = str(Path(sys.executable).parent / "airflow")
        words = ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@%h"]
        self._spawn(
            name, [airflow, *words], self.worker | {"AIRFLOW__LOGGING__LOGGING_LEVEL": level}
        )

        def ready() -> bool:
            self.check()
            return f"{name}@" in self.log(name) and " ready." in self.log(name)

        eventually(f"worker {name}", ready)

    def kill(self, name: str) -> None:
        """As if the machine were gone: the worker and every process of it, by SIGKILL."""
        process = self.processes.pop(name)
        for pid in (process.pid, *processes.children(process.pid, recursive=True)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        below = processes.children(process.pid, recursive=True)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Without a good-bye: nothing of it is needed any more."""
        for name in reversed(list(self.processes)):
            self.kill(name)

    # Runs ----------------------------------------------------------------------------------------

    def metadata(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.postgres.connect(METADATA) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def record(self, query: str) -> list[tuple[Any, ...]]:
        with self.db.reader.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def trigger(self) -> str:
        """A new run."""
        token = api.ask(f"{self.address}/auth/token")["access_token"]
        url = f"{self.address}/api/v2/dags/{DAG}/dagRuns"
        return str(api.ask(url, {"logical_date": None}, token)["dag_run_id"])

    def parts(self, run: str) -> list[Part]:
        """The mapped tasks of a run."""
        rows = self.metadata(
            "select map_index + 1, rendered_map_index, state, try_number, hostname, "
            "extract(epoch from start_date), extract(epoch from end_date) from task_instance "
            "where run_id = %s and task_id = 'sync' and map_index >= 0 order by map_index",
            run,
        )
        return [
            Part(
                number=row[0],
                label=row[1] or "",
                state=row[2] or "",
                tries=row[3],
                host=row[4] or "",
                began=float(row[5] or 0),
                ended=float(row[6] or 0),
            )
            for row in rows
        ]

    def ended(self, run: str) -> str:
        """Wait for the end of a run; how it ended."""

        def over() -> str:
            self.check()
            [(state,)] = self.metadata("select state from dag_run where run_id = %s", run)
            return state if state in ("success", "failed") else ""

        return str(eventually(f"the end of {run}", over))

    def run(self) -> list[Part]:
        """One run, which must be green."""
        run = self.trigger()
        assert self.ended(run) == "success", self.log("scheduler")
        return self.parts(run)

    def answered(self, after: int) -> Counter[int]:
        """How many answers went out, part by part, since that entry of the vendor's log."""
        return Counter(
            (entry.app_id - APPS[0]) * PARTS // len(APPS) + 1
            for entry in self.vendor.log(after)
            if entry.app_id is not None and entry.departed_at is not None
        )

    def polled(self, run: str) -> tuple[int, int]:
        """Good polls of a run, and apps that have one."""
        with self.db.reader.connect() as connection:
            counts = connection.execute(
                text(
                    "select count(*), count(distinct sdk_app_id) from attr_audit.poll "
                    "where dag_run_id = :run and outcome = 'ok'"
                ),
                {"run": run},
            ).one()
        return counts[0], counts[1]

    def rename(self, name: str) -> None:
        """Slot 2 of every app."""
        for app in APPS:
            self.vendor.set_name(REGION, app, 2, name)

    def must_be_right(self) -> None:
        """The record is what the vendor says, without a gap, and follows from its changes."""
        names = self.vendor.truth(REGION, APPS[0]).names
        rows = self.record("select sdk_app_id, slot, name from attr_audit.snapshot")
        wanted = {(app, slot, name) for app in APPS for slot, name in names.items()}
        assert len(rows) == len(wanted)
        assert set(rows) == wanted
        assert self.record(
            "select count(*), bool_and(ok), sum(rows_checked) from attr_audit.verify_chain()"
        ) == [(len(APPS), True, self.record("select count(*) from attr_audit.change")[0][0])]
        assert self.record(
            "select count(*) from (select from attr_audit.change group by region, sdk_app_id "
            "having max(seq) <> count(*)) as gaps"
        ) == [(0,)]


@contextlib.contextmanager
def started(
    postgres: EmbeddedPostgres, template: str, folder: Path, settings: Mapping[str, str]
) -> Iterator[Cluster]:
    """A cluster without workers, on databases of its own; the settings are Airflow's."""
    if not shutil.which("redis-server"):
        pytest.fail("There is no redis-server here: apt-get install redis-server", pytrace=False)
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {METADATA}")
    try:
        with (
            fresh_audit_db(postgres, template) as db,
            Simulator.start(folder / "simulator", regions=[REGION], lasting=False) as vendor,
        ):
            vendor.add_apps(NewApp(REGION, app, NAMES) for app in APPS)
            vendor.set_latency(LATENCY)
            it = Cluster(folder, postgres, db, vendor, settings)
            try:
                it.start()
                yield it
            finally:
                it.stop_all()
    finally:
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"drop database {METADATA} with (force)")


@pytest.fixture(scope="module")
def cluster(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with started(postgres, template, tmp_path_factory.mktemp("cluster"), {}) as it:
        yield it


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print it, whatever pytest does with output: these lines are the transcript."""

    def line(words: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {words}")
            sys.stdout.flush()

    return line


def span(parts: list[Part]) -> float:
    """From the first part's beginning to the last part's end."""
    return max(part.ended for part in parts) - min(part.began for part in parts)


def timings(parts: list[Part]) -> str:
    return ", ".join(f"{p.label} on {p.host} in {p.ended - p.began:.1f} s" for p in parts)


def test_a_region_of_a_thousand_apps_is_split_over_the_workers(
    cluster: Cluster, say: Callable[[str], None]
) -> None:
    cluster.staff("worker-1", "worker-2")
    # Until each has a part, so that no worker can do it all while the other still starts.
    cluster.vendor.set_latency(2)
    run = cluster.trigger()
    eventually(
        "a part on each worker", lambda: len({p.host for p in cluster.parts(run)} - {""}) > 1
    )
    cluster.vendor.set_latency(LATENCY)
    assert cluster.ended(run) == "success", cluster.log("scheduler")
    parts = cluster.parts(run)
    say(f"{len(APPS)} apps seen for the first time, in parts: {timings(parts)}")
    assert [part.label for part in parts] == [
        f"{REGION} ({n} of {PARTS})" for n in range(1, PARTS + 1)
    ]
    assert {part.host for part in parts} == {"worker-1", "worker-2"}
    assert cluster.polled(run) == (len(APPS), len(APPS))
    cluster.must_be_right()


def test_how_much_a_worker_more_shortens_the_run(
    cluster: Cluster, say: Callable[[str], None]
) -> None:
    best = {}
    for staff in (("worker-1",), ("worker-1", "worker-2b")):
        cluster.staff(*staff)
        cluster.run()  # each process's first task is slower than the rest
        rounds = [cluster.run() for _ in range(3)]
        best[len(staff)] = min(map(span, rounds))
        every = " ".join(f"{span(parts):.1f}" for parts in rounds)
        taken = Counter(part.host for parts in rounds for part in parts)
        say(
            f"{len(staff)} worker{'s' * (len(staff) > 1)}: {best[len(staff)]:.1f} s from the first "
            f"part's beginning to the last one's end (best of {every}; parts taken: "
            f"{', '.join(f'{host} {n}' for host, n in sorted(taken.items()))})"
        )
    say(f"the second worker changes that by {best[2] / best[1] - 1:+.0%}")


def test_a_worker_killed_in_the_middle_of_a_region_loses_nothing_and_doubles_nothing(
    cluster: Cluster, say: Callable[[str], None]
) -> None:
    cluster.staff("worker-1", "worker-3")
    if not cluster.record("select from attr_audit.app"):
        cluster.run()
    cluster.rename("tier")
    # So slow that there is a middle: a minute for a part's first read.
    cluster.vendor.set_latency(2)
    seen = max((entry.seq for entry in cluster.vendor.log()), default=0)
    run = cluster.trigger()

    def in_the_middle() -> Part | None:
        """What worker-3 is at while worker-1 is at another, once half of it is answered or so."""
        running = {p.host: p for p in cluster.parts(run) if p.state == "running"}
        if running.keys() != {"worker-1", "worker-3"}:
            return None
        done = cluster.answered(seen)[running["worker-3"].number] / (len(APPS) // PARTS)
        return running["worker-3"] if 0.2 < done < 0.8 else None

    hit = eventually("worker-3 in the middle of a part", in_the_middle)
    cluster.kill("worker-3")
    of_it = cluster.answered(seen)[hit.number]
    say(f"worker-3 killed in part {hit.number}: {of_it} of its {len(APPS) // PARTS} apps answered")
    cluster.vendor.set_latency(LATENCY)
    assert cluster.ended(run) == "success", cluster.log("scheduler")
    parts = cluster.parts(run)
    say(f"the run was green all the same: {timings(parts)}")
    [again] = [part for part in parts if part.number == hit.number]
    assert again.tries > 1
    assert again.host == "worker-1"

    renamed = "from attr_audit.change where not is_baseline"
    assert cluster.record(f"select count(*), count(distinct sdk_app_id) {renamed}") == [
        (len(APPS), len(APPS))
    ]
    assert cluster.record(
        f"select distinct slot, kind, old_name, new_name, dag_run_id {renamed}"
    ) == [(2, "renamed", "level", "tier", run)]
    assert cluster.polled(run) == (len(APPS), len(APPS))
    cluster.must_be_right()
    say(f"{len(APPS)} renames recorded, each once; {len(APPS)} chains without a gap")

    after = cluster.run()
    say(f"the next run is green and finds nothing new: {timings(after)}")
    assert cluster.record(f"select count(*) {renamed}") == [(len(APPS),)]
    cluster.must_be_right()


def test_no_secret_is_in_any_log(cluster: Cluster, say: Callable[[str], None]) -> None:
    # Of so many connections Airflow's masker gets none: what is silent is so by itself.
    cluster.staff()
    cluster.start_worker("worker-4", level="DEBUG")
    cluster.run()
    keys = {app: cluster.vendor.key(REGION, app) for app in APPS}
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys.values())
    # Of every part one app's key in every spelling and in pieces; a UserSig is known by itself.
    some = Secrets({str(app): keys[app] for app in APPS[:: len(APPS) // PARTS]})
    logs = [path for path in cluster.folder.rglob("*.log") if "simulator" not in path.parts]
    size = 0
    for path in logs:
        blob = path.read_bytes()
        size += len(blob)
        assert scan(blob, some, str(path)) == []
        words = re.findall(rb"(?=([0-9a-f]{64}))", blob)
        assert {key.encode() for key in keys.values()}.isdisjoint(words), path
    assert b'"level":"debug"' in b"".join(
        path.read_bytes() for path in (cluster.folder / "worker-4").rglob("*.log")
    )
    say(f"no key of {len(keys)} and no UserSig in {len(logs)} logs of {size / 1e6:.1f} MB")
