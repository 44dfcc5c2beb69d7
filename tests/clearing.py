"""What Airflow does with a run's tasks: it tries one again, or a person clears or marks it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from im_attr_audit import tasks
from im_attr_audit.outcomes import FAILED, FINAL
from im_attr_audit.record.publication import read_unannounced
from im_attr_audit.tencent.target import Target

from tests.rig import Record, Rig, app_of

RETRIES = 3


class Tasks:
    """The tasks of one audit database's runs, and the events that they emitted."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.events: list[dict[str, Any]] = []

    def sync(self, targets: Sequence[Target], *, run: str, number: int, first_try: int) -> None:
        """One try of the task; ``first_try``: the first one since it was last cleared.

        What it polls, and whether it fails, must follow from what the round has recorded.
        """
        before = self._round(targets, run, first_try)
        done = {app for app, outcome in before.items() if outcome in FINAL}
        with self._as_tasks() as patch:
            for target in targets:
                patch.setenv(f"AIRFLOW_CONN_{target.conn_id.upper()}", self._connection(target))
            failed = None
            try:
                tasks.sync(
                    [target.conn_id for target in targets],
                    {},
                    dag_run_id=run,
                    begun_at=None,
                    ti=SimpleNamespace(
                        try_number=number,
                        max_tries=first_try + RETRIES - 1,
                        task=SimpleNamespace(retries=RETRIES),
                    ),
                )
            except AirflowException as error:
                failed = error
        polled = self._round(targets, run, number)
        assert polled.keys() == {app_of(target) for target in targets} - done
        outcomes = {**before, **polled}.values()
        if "late" not in outcomes:  # whether that fails depends on other polls
            assert (failed is not None) == (not FAILED.isdisjoint(outcomes)), (failed, outcomes)
        if failed is not None:
            assert isinstance(failed, AirflowFailException) == FINAL.issuperset(outcomes)

    def not_polled(self, targets: Sequence[Target], run: str) -> set[str]:
        """The connections that ``report`` calls not polled, where every sync is marked success."""
        conn_ids, states = [target.conn_id for target in targets], {"sync": "success"}
        with self._as_tasks() as patch:
            patch.setattr(tasks, "_send_alerts", lambda *_: [])
            try:
                tasks.report([{"conn_ids": conn_ids}], dag_run_id=run, states=states)
            except AirflowFailException as error:
                return set(re.findall(r"(\S+) not polled", str(error)))
            return set()

    def publish(self) -> int:
        """Emit what no event has announced; how many events there are of it."""
        events = read_unannounced(self.rig.engine, lambda _: self.events)
        self.events += events
        return len(events)

    def announced(self, runs: Iterable[str]) -> int:
        """How many changes of these runs the events have announced."""
        ours = set(runs)
        return sum(e["changes"] + e["baselines"] for e in self.events if e["dag_run_id"] in ours)

    def _round(self, targets: Sequence[Target], run: str, first_try: int) -> dict[Any, str]:
        """Each app's outcome in this run since that try: the last final one, or else the last."""
        record = Record.read(self.rig.engine, [app_of(target) for target in targets])
        polls = [p for p in record.polls if p.dag_run_id == run and p.try_number >= first_try]
        polls.sort(key=lambda p: (p.outcome in FINAL, p.poll_id))
        return {(p.region, p.sdk_app_id): p.outcome for p in polls}

    @contextmanager
    def _as_tasks(self) -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "audit_engine", lambda: self.rig.engine)
            patch.setattr(tasks, "MASKED_AT_MOST", -1)  # the more the masker knows the slower it is
            patch.setenv("IM_ATTR_AUDIT_CONFIRM_SECONDS", "0")
            yield patch

    def _connection(self, target: Target) -> str:
        fields = self.rig.simulator.connection_json(
            *app_of(target), api=target.api, app_group=target.app_group
        )
        return json.dumps({**fields, "password": target.secret_key})
