"""Two schedulers on one metadata database, one of them killed in the middle of a run.

Part of `make test-cluster`, on the processes of `scale_out.py`: once with CeleryExecutor, where the
tasks run on workers, and once with LocalExecutor, where they are lost with their scheduler. What it
prints is in docs/operations.md; times are reported there and judged nowhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from launch.postgres import EmbeddedPostgres
from tests.cluster.scale_out import (
    APPS,
    LATENCY,
    PARTS,
    Cluster,
    eventually,
    started,
    timings,
)
from tests.cluster.scale_out import say as say

SCHEDULERS = ("scheduler", "scheduler-2")
SETTINGS = {
    # A dead scheduler is noticed after seconds here, to keep the test short. Many heartbeats fit
    # into the threshold: otherwise a busy scheduler is taken for a dead one.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
    # Only the loss of a scheduler may cause another try: a slow worker is not taken for a dead one.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "600",
}
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module", params=["CeleryExecutor", "LocalExecutor"])
def pair(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A cluster with both schedulers running, and with workers if the executor needs them."""
    settings = SETTINGS | {"AIRFLOW__CORE__EXECUTOR": request.param}
    folder = tmp_path_factory.mktemp("schedulers")
    with started(postgres, template, folder, settings) as it:
        it.start_scheduler(SCHEDULERS[1])
        eventually("both schedulers", lambda: running_schedulers(it) == set(SCHEDULERS))
        if on_workers(it):
            it.staff("worker-1", "worker-2")
        yield it


def on_workers(cluster: Cluster) -> bool:
    return cluster.shared["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"


def running_schedulers(cluster: Cluster) -> set[str]:
    """The schedulers that Airflow regards as alive."""
    cluster.check()
    rows = cluster.metadata(
        "select hostname from job where job_type = 'SchedulerJob' and state = 'running'"
    )
    return {name for (name,) in rows}


def owners(cluster: Cluster, run: str, *states: str) -> dict[int, str]:
    """Part → the scheduler responsible for it, of the parts in these states."""
    rows = cluster.metadata(
        "select map_index + 1, job.hostname from task_instance join job "
        "on job.id = queued_by_job_id "
        "where run_id = %s and task_id = 'sync' and map_index >= 0 "
        "and task_instance.state = any(%s)",
        run,
        list(states),
    )
    return dict(rows)


def announced(cluster: Cluster, run: str) -> int:
    """How many changes the asset events of a run announce."""
    rows = cluster.metadata(
        "select e.extra from asset_event e join asset a on a.id = e.asset_id "
        "where a.name = 'im-attr-audit/changes'"
    )
    return sum(event["changes"] for (event,) in rows if event["dag_run_id"] == run)


def test_a_scheduler_killed_in_the_middle_of_a_run_is_replaced_by_the_other(
    pair: Cluster, say: Callable[[str], None]
) -> None:
    pair.run()
    pair.rename("tier")
    # So slow that the kill falls into the run: a minute for a part's first read.
    pair.vendor.set_latency(2)
    seen = max((entry.seq for entry in pair.vendor.log()), default=0)
    run = pair.trigger()

    def in_the_middle() -> str:
        """The scheduler responsible for a part of which at least a fifth is answered."""
        pair.check()
        answered = pair.answered(seen)
        for part, scheduler in owners(pair, run, "running").items():
            if 0.2 < answered[part] / (len(APPS) // PARTS) < 0.8:
                return scheduler
        return ""

    killed = eventually("a scheduler in the middle of a part", in_the_middle)
    [survivor] = set(SCHEDULERS) - {killed}
    pair.kill(killed)
    at = time.monotonic()
    held = owners(pair, run, "queued", "running")
    lost = {part for part, scheduler in held.items() if scheduler == killed}
    assert lost
    say(
        f"{pair.shared['AIRFLOW__CORE__EXECUTOR']}: {killed} killed with {len(lost)} of "
        f"{len(held)} open parts, {sum(pair.answered(seen).values())} of {len(APPS)} apps answered"
    )
    eventually(
        f"{survivor} to take the parts over",
        lambda: (
            running_schedulers(pair) == {survivor}
            and killed not in owners(pair, run, "queued", "running").values()
        ),
    )
    say(f"{survivor} is responsible for every open part after {time.monotonic() - at:.1f} s")
    pair.vendor.set_latency(LATENCY)
    assert pair.ended(run) == "success", pair.log(survivor)
    parts = pair.parts(run)
    say(
        f"the run was green {time.monotonic() - at:.1f} s after the kill: {timings(parts)}; "
        f"tries {[part.tries for part in parts]}"
    )
    # A task on a worker outlives its scheduler; a task of LocalExecutor is started again.
    again = set() if on_workers(pair) else lost
    assert {part.number for part in parts if part.tries > 1} == again

    renamed = "from attr_audit.change where not is_baseline"
    assert pair.record(f"select count(*), count(distinct sdk_app_id) {renamed}") == [
        (len(APPS), len(APPS))
    ]
    assert pair.record(f"select distinct slot, kind, old_name, new_name, dag_run_id {renamed}") == [
        (2, "renamed", "level", "tier", run)
    ]
    assert pair.polled(run) == (len(APPS), len(APPS))
    assert announced(pair, run) == len(APPS)
    pair.must_be_right()
    say(f"{len(APPS)} renames recorded and announced, each once; {len(APPS)} chains without a gap")

    after = pair.run()
    assert Counter(part.tries for part in after) == {1: PARTS}
    assert pair.record(f"select count(*) {renamed}") == [(len(APPS),)]
    pair.must_be_right()
    say(f"the next run, on {survivor} alone, is green and finds nothing new: {timings(after)}")
