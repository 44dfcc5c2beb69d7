"""`make run`: Airflow, page included, with everything it needs, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from im_attr_audit.settings import DAG_ID, REVIEW_DAG_ID

from launch import api, components, databases, environment, metadata, network, processes, table
from launch.components import Component, Family
from launch.dag_runs import DagRuns
from launch.postgres import EmbeddedPostgres
from launch.state import LaunchError, State, say, step
from launch.targets import Targets, targets

_PORT = 8080
_LOG_PORT = 8793
_UP_SECONDS = 300
_PATIENCE = 10.0


class _StopError(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal."""


class _Signals:
    """The first signal stops everything in order, the second one at once."""

    def __init__(self) -> None:
        self.count = 0
        self._raise = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._came)

    def _came(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self._raise:
            self._raise = False
            raise _StopError(number)

    def no_more(self) -> None:
        """From now on they are counted and do not interrupt."""
        self._raise = False


def main() -> int:
    state = State()
    state.make()
    signals = _Signals()
    components.adopt_orphans()
    try:
        with contextlib.ExitStack() as everything:
            _take_the_lock(state, everything)
            _Run(state, signals).go()
    except _StopError:
        pass
    finally:
        signals.no_more()
    say("Stopped. The data are kept; the next `make run` continues with them.")
    return 0


def _take_the_lock(state: State, everything: contextlib.ExitStack) -> None:
    reported = False

    def mine() -> bool:
        nonlocal reported
        try:
            everything.enter_context(state.only_one())
        except processes.BusyError:
            running = state.recall("running")
            if running is not None and processes.is_same(running["launcher"]):
                raise LaunchError(
                    f"`make run` is up in this checkout already: {running['address']} "
                    f"(process {running['launcher']['pid']})."
                ) from None
            if not reported:
                say("Waiting for another command in this checkout.")
                reported = True
            return False
        return True

    if not processes.wait_until(mine, seconds=3600, interval=0.5):
        raise LaunchError("Another command in this checkout does not end.")


class _Run:
    def __init__(self, state: State, signals: _Signals) -> None:
        self._state = state
        self._signals = signals
        self._family = Family()

    def go(self) -> None:
        state = self._state
        if count := components.stop_left_over(state.recall("components") or []):
            say(f"Stopped {count} processes left by an earlier `make run`.")
        state.forget("components")
        with contextlib.ExitStack() as up:
            # Postgres goes last: everything else holds connections to it.
            user = environment.given()
            with step("Starting Postgres"):
                server = up.enter_context(state.postgres().in_use())
                ready = databases.prepare(state, server, user)
            asked = up.enter_context(targets(state, user))
            self._family = Family()  # Postgres and the simulator are no part of it
            try:
                self._with_airflow(server, user, ready, asked)
            finally:
                self._signals.no_more()
                self._stop()

    def _with_airflow(
        self,
        server: EmbeddedPostgres,
        user: Mapping[str, str],
        ready: databases.Databases,
        asked: Targets,
    ) -> None:
        state = self._state
        last = state.recall("ports") or {}
        port = network.choose(_PORT, last.get("api"))
        if port != _PORT:
            say(f"Port {_PORT} is in use by another program; using {port} instead.")
        log_port = network.choose(last.get("log"), _LOG_PORT)
        state.remember("ports", {"api": port, "log": log_port})
        variables = environment.for_airflow(
            state,
            {**user, **asked.environment, "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"},
            ready,
            port=port,
            log_port=log_port,
        )
        if not metadata.is_current(state, server):
            with step("Creating Airflow's tables"):
                self._migrate(variables)
            metadata.note_current(state, server)
        runs = DagRuns(server)
        runs.end_torn()
        seen = {run.run_id for run in runs.newest() if run.finished}
        address = f"http://localhost:{port}"
        with step("Starting Airflow"):
            self._start(variables)
            self._wait_until_up(address, server)
        state.remember(
            "running",
            {
                "launcher": processes.identity(os.getpid()),
                "address": address,
                "reader": ready.reader,
                "conn_ids": environment.conn_ids(variables),
            },
        )
        self._unpause(address)
        self._introduce(address, ready)
        conn_ids = environment.conn_ids(variables)

        def show(run_id: str) -> None:
            print(table.of_run(ready.reader, run_id, conn_ids).text)
            if text := table.what_to_answer(ready.reader, run_id, _reviews(address)):
                print(f"\n{text}")
            print(flush=True)

        self._watch(server, runs, seen, asked, show)

    def _introduce(self, address: str, ready: databases.Databases) -> None:
        """Print what a person needs first: the addresses, and who may log in."""
        reader = databases.show_reader(self._state, ready)
        print(
            f"\n  The page     {address}/im-attr-audit/"
            f"\n  Airflow      {address}/dags/{DAG_ID}"
            f"\n  Reviews      {_reviews(address)}"
            f"\n  Login        {' / '.join(environment.login(self._state))}"
            + (f"\n  BI tools     {reader[0]} (password in {reader[1]})" if reader else "")
            + "\n  Ctrl-C stops everything; the data are kept.\n",
            flush=True,
        )

    def _migrate(self, variables: Mapping[str, str]) -> None:
        component = self._component(
            "metadata", [sys.executable, "-m", "launch.metadata"], variables
        )
        while component.ended is None:
            time.sleep(0.1)
        self._family.components.remove(component)
        if component.ended != 0:
            raise LaunchError(f"Airflow's tables cannot be created:\n{component.last_words()}")

    def _start(self, variables: Mapping[str, str]) -> None:
        airflow = str(Path(sys.executable).parent / "airflow")
        for name in ("api-server", "scheduler", "dag-processor"):
            self._component(name, [airflow, name], variables)

    def _component(self, name: str, command: list[str], variables: Mapping[str, str]) -> Component:
        log = self._state.logs / f"{name}.log"
        component = Component(name, command, variables, log)
        self._family.components.append(component)
        # For the next start, should this process be killed.
        self._state.remember("components", self._family.identities())
        return component

    def _check(self, server: EmbeddedPostgres) -> None:
        for component in self._family.components:
            if component.ended is not None:
                raise LaunchError(
                    f"Airflow's {component.name} ended (exit status {component.ended}); the "
                    f"end of {component.log}:\n{component.last_words()}"
                )
        if not server.running:
            raise LaunchError(f"The embedded Postgres ended; see {server.log}")

    def _wait_until_up(self, address: str, server: EmbeddedPostgres) -> None:
        def up() -> bool:
            self._check(server)
            return api.is_healthy(address)

        if not processes.wait_until(up, seconds=_UP_SECONDS, interval=0.3):
            raise LaunchError(
                f"Airflow is not up after {_UP_SECONDS} s; its logs are in {self._state.logs}"
            )

    def _unpause(self, address: str) -> None:
        """As the DAG is made unpaused, this matters to one that `make sync` had made before."""
        dags = [f"{address}/api/v2/dags/{dag_id}" for dag_id in (DAG_ID, REVIEW_DAG_ID)]
        token = api.log_in(address, *environment.login(self._state))

        def known() -> bool:
            with contextlib.suppress(urllib.error.HTTPError):
                for dag in dags:
                    if api.ask(dag, token=token)["is_paused"]:
                        api.ask(dag, {"is_paused": False}, token, "PATCH")
                return True
            return False

        if not processes.wait_until(known, seconds=60, interval=0.5):
            raise LaunchError(
                f"Airflow does not find the DAG; see {self._state.logs / 'dag-processor.log'}"
            )

    def _watch(
        self,
        server: EmbeddedPostgres,
        runs: DagRuns,
        seen: set[str],
        asked: Targets,
        show: Callable[[str], None],
    ) -> None:
        """Move the story on when a run begins, and show a run when it has ended."""
        begun = set(seen)
        while True:
            self._check(server)
            self._family.reap()
            for run in runs.newest():
                if run.run_id not in begun and run.state != "queued":
                    begun.add(run.run_id)
                    asked.next_step()
                if run.finished and run.run_id not in seen:
                    seen.add(run.run_id)
                    show(run.run_id)
            time.sleep(0.5)

    def _stop(self) -> None:
        if self._family.components:
            with step("Stopping"):
                self._family.stop(patience=_PATIENCE, hurry=lambda: self._signals.count > 1)
        self._state.forget("running")
        self._state.forget("components")


def _reviews(address: str) -> str:
    """Where Airflow shows what a person is asked."""
    return f"{address}/dags/{REVIEW_DAG_ID}/required_actions"
