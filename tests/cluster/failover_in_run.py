"""The audit database fails over in the middle of a run under a real Airflow, on two real servers.

Part of `make test-cluster`. Airflow's own database is a third server, which stays. What it prints
is in docs/operations.md; times are reported there and judged nowhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.record.checks.verify import check_database

from launch import databases, environment
from simulator.control import Simulator
from tests.cluster.failover import replayed
from tests.cluster.pair import Pair, PairDb, audit_db_of
from tests.cluster.scale_out import eventually
from tests.cluster.scale_out import say as say
from tests.conftest import READER, WRITER
from tests.rig import Rig, app_of, assert_changes_are_true, target_of
from tests.test_under_airflow import Airflow
from tests.webhook import webhook

REGIONS = ("china", "frankfurt")
APPS = {region: range(number, number + 4) for number, region in zip((1, 11), REGIONS, strict=True)}
pytestmark = pytest.mark.timeout(1200)


class Scene:
    """Eight apps in two regions, an Airflow that polls them, and the two servers of the record."""

    def __init__(self, pair: Pair, vendor: Simulator, folder: Path, alerts: Any) -> None:
        self.pair, self.vendor = pair, vendor
        self.db: PairDb = audit_db_of(pair)
        self.rig = Rig(vendor, self.db.writer)
        given = {}
        for region, numbers in APPS.items():
            for number in numbers:
                vendor.add_app(region, number, {0: "sex", 1: "city"}, rate_limit=None)
                # An answer that is held back is waited for while a server is exchanged.
                name = f"{region}_{number}"
                given[name] = vendor.connection_json(region, number, timeout=60)
        self.targets = [target_of(name, fields) for name, fields in given.items()]
        self.airflow = Airflow(folder, given, alerts)
        self.airflow.variables |= {
            environment.WRITER: json.dumps(pair.connection(WRITER, "read-write")),
            environment.READER: json.dumps(pair.connection(READER, "prefer-standby")),
            "IM_ATTR_AUDIT_RETRY_SECONDS": "2",
        }
        self.airflow.start()
        self.changes = 0

    def close(self) -> None:
        self.airflow.stop()
        self.db.dispose()

    def begin(self) -> str:
        """A run that finds a change in each app and waits for an answer of each; its id."""
        self.changes += 1
        for target in self.targets:
            self.rig.set_names(target, {0: f"name {self.changes}", 1: "city"})
            self.rig.fault(target, "hold")
        run = self.airflow.trigger()
        self.vendor.wait_held(len(self.targets), timeout=120)
        return run

    def green_run(self) -> str:
        run = self.airflow.finished(self.airflow.trigger())
        assert run.state == "success", self.airflow.states(run.run_id)
        assert self.polled(run.run_id) == {target.conn_id for target in self.targets}
        return run.run_id

    def polled(self, run: str) -> set[str]:
        """The connections that have a good poll of that run."""
        polls = self.rig.record(*self.targets).polls
        return {p.conn_id for p in polls if p.dag_run_id == run and p.outcome == "ok"}

    def tries(self, run: str) -> list[int]:
        """How often each sync was tried."""
        found = self.airflow.ask(f"dagRuns/{run}/taskInstances")["task_instances"]
        return [task["try_number"] for task in found if task["task_id"] == "sync"]

    def announced(self) -> dict[tuple[str, str], int]:
        """Run and region → how many rows its asset events announce."""
        found: dict[tuple[str, str], int] = {}
        with self.airflow.server.connect(databases.AIRFLOW) as meta, meta.cursor() as cursor:
            cursor.execute(
                "select e.extra from asset_event e join asset a on a.id = e.asset_id "
                "where a.name = 'im-attr-audit/changes'"
            )
            for (event,) in cursor.fetchall():
                place = (event["dag_run_id"], event["region"])
                found[place] = found.get(place, 0) + event["changes"] + event["baselines"]
        return found

    def check(self) -> None:
        """Every change of the vendor's once, each announced once, and `verify` finds nothing."""
        record = self.rig.record(*self.targets)
        recorded: dict[tuple[str, str], int] = {}
        for target in self.targets:
            changes = record.changes_of(app_of(target))
            assert_changes_are_true(changes, self.rig.history(target))
            for change in changes:
                place = (change.dag_run_id, change.region)
                recorded[place] = recorded.get(place, 0) + 1
        assert self.announced() == recorded
        assert check_database(self.db.owner).findings == ()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("im-attr-audit")), "verify"],
            env=self.airflow.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The record is as it was recorded." in done.stdout + done.stderr


@pytest.fixture(scope="module")
def scene(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    try:
        with webhook() as alerts:
            made = Scene(pair, simulator, tmp_path_factory.mktemp("airflow") / "local", alerts)
            try:
                made.green_run()
                made.check()
                yield made
            finally:
                made.close()
    finally:
        pair.destroy()


def test_a_run_that_meets_a_switch_over_is_green_and_records_each_change_once(
    scene: Scene, say: Callable[[str], None]
) -> None:
    run = scene.begin()
    scene.pair.stop_primary()
    scene.pair.promote()
    away = scene.pair.since_loss()
    scene.vendor.release()
    ended = scene.airflow.finished(run, seconds=300)
    scene.pair.follow()
    assert ended.state == "success", scene.airflow.states(run)
    assert scene.polled(run) == {target.conn_id for target in scene.targets}
    replayed(scene.db)
    scene.check()
    scene.green_run()
    replayed(scene.db)
    scene.check()
    say(
        f"switch-over in the middle of a run: {away:.1f} s without a primary, the run {ended.state}"
        f", tries of its syncs {scene.tries(run)}"
    )


def test_a_primary_lost_in_a_run_and_replaced_during_its_retries_costs_nothing(
    scene: Scene, say: Callable[[str], None]
) -> None:
    run = scene.begin()
    scene.pair.lose_primary()
    scene.vendor.release()
    eventually(
        "a sync that has failed once",
        lambda: max(scene.tries(run)) > 1 or "up_for_retry" in scene.airflow.states(run).values(),
    )
    scene.pair.promote()
    away = scene.pair.since_loss()
    ended = scene.airflow.finished(run, seconds=300)
    assert ended.state == "success", scene.airflow.states(run)
    assert scene.polled(run) == {target.conn_id for target in scene.targets}
    scene.check()
    scene.pair.rebuild_replica()
    scene.green_run()
    replayed(scene.db)
    scene.check()
    say(
        f"a primary lost in the middle of a run: {away:.1f} s until the replica took over, the run "
        f"{ended.state}, tries of its syncs {scene.tries(run)}"
    )
