"""`make sync`: one run of the DAG, its table, and 0 only if every target was recorded."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from im_attr_audit.settings import DAG_ID

from launch import api, databases, environment, metadata, processes, table
from launch.dag_runs import DagRuns
from launch.postgres import EmbeddedPostgres
from launch.state import LaunchError, State, say
from launch.targets import targets
from launch.task_logs import write_task_logs

# Retries are for a vendor that is busy; a user at a terminal wants the result soon.
RETRY_SECONDS = "1"
_RUN_SECONDS = 3600


def main() -> int:
    state = State()
    state.make()
    signal.signal(signal.SIGTERM, _interrupt)
    with state.postgres(say).in_use() as server:
        while True:
            running = state.recall("running")
            if running is not None and processes.is_same(running["launcher"]):
                return _through_the_running_airflow(state, server, running)
            try:
                with state.only_one():
                    return _in_this_process(state, server)
            except processes.BusyError:
                # Another `make sync`, or a `make run` that is not up yet.
                say("Waiting for another command in this checkout.")
                if not processes.wait_until(lambda: _may_continue(state), seconds=_RUN_SECONDS):
                    raise LaunchError("It does not end. `make sync` gives up.") from None


def _may_continue(state: State) -> bool:
    running = state.recall("running")
    if running is not None and processes.is_same(running["launcher"]):
        return True
    try:
        with state.only_one():
            return True
    except processes.BusyError:
        return False


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


# -- nothing is up: the whole run in this process ------------------------------------------------


def _in_this_process(state: State, server: EmbeddedPostgres) -> int:
    user = environment.given()
    ready = databases.prepare(state, server, user)
    runs = DagRuns(server)
    with targets(state, user) as asked:
        variables = environment.for_airflow(
            state,
            {"IM_ATTR_AUDIT_RETRY_SECONDS": RETRY_SECONDS, **user, **asked.environment},
            ready,
        )
        fresh = not metadata.is_current(state, server)
        if not fresh:
            runs.end_torn()
        asked.next_step()
        if fresh:
            say("Creating Airflow's tables; the first run takes half a minute.")
        try:
            with _quiet(state):
                run_id, success = _run_dag(state, server, variables, fresh)
        except BaseException:
            with contextlib.suppress(Exception):
                runs.end_torn()
            raise
    # Airflow writes a task's log only where a worker of its own runs the task.
    write_task_logs(state.logs / "sync.log", state.logs / "tasks", DAG_ID, run_id)
    shown = table.of_run(ready.reader, run_id, environment.conn_ids(variables))
    return _show(shown, success, state.logs / "sync.log")


def _run_dag(
    state: State, server: EmbeddedPostgres, variables: Mapping[str, str], fresh: bool
) -> tuple[str, bool]:
    os.environ.clear()
    os.environ.update(variables)
    if fresh:
        metadata.migrate_here()
        metadata.note_current(state, server)
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(variables["AIRFLOW__CORE__DAGS_FOLDER"])
    dag = bag.dags.get(DAG_ID)
    if dag is None:
        raise LaunchError(f"The DAG cannot be loaded: {bag.import_errors}")
    run = dag.test()
    outcome = str(run.run_id), str(run.state) == "success"
    # Not at exit, as Airflow does: the server is gone by then.
    from airflow import settings

    settings.dispose_orm()
    return outcome


@contextlib.contextmanager
def _quiet(state: State) -> Iterator[None]:
    """Airflow's own output goes to a file: a person reads the table."""
    log = state.logs / "sync.log"
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)


def _show(shown: table.Table, success: bool, log: object) -> int:
    print(shown.text, flush=True)
    if success and shown.complete:
        return 0
    say(f"\nNot every target was recorded. Airflow's log of the run: {log}")
    return 1


# -- `make run` is up: its scheduler does it -----------------------------------------------------


def _through_the_running_airflow(
    state: State, server: EmbeddedPostgres, running: Mapping[str, Any]
) -> int:
    say("`make run` is up: the run goes through its scheduler.")
    address = running["address"]
    run_id = f"sync__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    wanted = {"dag_run_id": run_id, "logical_date": None}
    error_text = ""

    def triggered() -> bool:
        nonlocal error_text
        if not processes.is_same(running["launcher"]):
            raise LaunchError("`make run` was stopped before it took the run.")
        try:
            token = api.log_in(address, *environment.login(state))
            api.ask(f"{address}/api/v2/dags/{DAG_ID}/dagRuns", wanted, token)
        except OSError as error:
            error_text = str(error)
            return False
        return True

    if not processes.wait_until(triggered, seconds=60, interval=1):
        raise LaunchError(f"The Airflow of `make run` does not accept the run: {error_text}")

    runs = DagRuns(server)

    def ended() -> bool:
        if not processes.is_same(running["launcher"]):
            raise LaunchError("`make run` was stopped before the run ended.")
        run = runs.get(run_id)
        return run is not None and run.finished

    if not processes.wait_until(ended, seconds=_RUN_SECONDS, interval=0.5):
        raise LaunchError(f"The run {run_id} does not end; see the page at {address}")
    run = runs.get(run_id)
    shown = table.of_run(running["reader"], run_id, running["conn_ids"])
    return _show(shown, run is not None and run.state == "success", state.logs / "tasks")
