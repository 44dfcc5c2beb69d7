"""`make bench`: everything, or the parts that are named; into docs/performance.md.

python -m benchmarks [PART ...] [--quick] [--no-page]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from benchmarks import (
    against_peers,
    airflow_imports,
    airflow_run,
    calls,
    data_volume,
    declared,
    page,
    record,
    report,
    seals,
    start,
    sync_command,
    upgrade,
)
from benchmarks.measure import machine
from benchmarks.performance_page import PAGE, replaced, section
from benchmarks.server import postgres
from launch.state import State

# Rounds by number of apps: what is over soon is repeated more often.
ROUNDS = {6: 31, 1_000: 21, 10_000: 11, 100_000: 3}
PEER_ROUNDS = {6: 5, 1_000: 5, 10_000: 3}


def _record(quick: bool) -> Any:
    with postgres() as server:
        return {
            "sizes": [
                record.measure(server, apps, 3 if quick else rounds)
                for apps, rounds in ROUNDS.items()
                if apps <= 1_000 or not quick
            ],
            # How the time grows where only the number of apps does.
            "same_changes": [
                record.measure(server, apps, 3 if quick else 11, changes=100)
                for apps in (1_000, 10_000)
            ],
        }


def _chain(quick: bool) -> Any:
    with postgres() as server:
        return record.chain(server, 1 if quick else 5)


def _verify(quick: bool) -> Any:
    with postgres() as server:
        return record.verifying(server, 1, 150_000) if quick else record.verifying(server, 5)


def _calls(quick: bool) -> Any:
    return calls.measure(1 if quick else 5)


def _peers(quick: bool) -> Any:
    environments = State().folder / "bench"
    environments.mkdir(parents=True, exist_ok=True)
    versions = against_peers.environments(environments)
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        sizes = [
            against_peers.measure(server, environments, Path(folder), apps, 2 if quick else rounds)
            for apps, rounds in PEER_ROUNDS.items()
            if apps <= 1_000 or not quick
        ]
    return {"versions": versions, "sizes": sizes}


class Part(NamedTuple):
    """What is measured, with few rounds and small numbers if asked, and how it is shown."""

    measure: Callable[[bool], Any]
    render: Callable[[Any], str]


PARTS: Mapping[str, Part] = {
    "record": Part(_record, report.record),
    "chain": Part(_chain, report.chain),
    "verify": Part(_verify, report.verify),
    "seals": Part(seals.measure, seals.render),
    "calls": Part(_calls, report.calls),
    "peers": Part(_peers, report.peers),
    "page": Part(page.measure, page.render),
    "volume": Part(data_volume.measure, data_volume.render),
    "upgrade": Part(upgrade.measure, upgrade.render),
    "declared": Part(declared.measure, declared.render),
    "dag_parse": Part(
        lambda quick: airflow_imports.dag_parse(5 if quick else 41),
        airflow_imports.render_dag_parse,
    ),
    "plugin": Part(
        lambda quick: airflow_imports.plugin(5 if quick else 21), airflow_imports.render_plugin
    ),
    "dag_run": Part(
        lambda quick: airflow_run.dag_run(2 if quick else 10), airflow_run.render_dag_run
    ),
    "plan": Part(
        lambda quick: airflow_run.plan(1, 100) if quick else airflow_run.plan(),
        airflow_run.render_plan,
    ),
    "plan_files": Part(
        lambda quick: airflow_run.plan(1, 100 if quick else 10_000, files=True),
        airflow_run.render_plan,
    ),
    "sync": Part(lambda quick: sync_command.measure(2 if quick else 9), sync_command.render),
    "start": Part(lambda quick: start.measure(1, 1) if quick else start.measure(), start.render),
}


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that servers are stopped on the way out


def main() -> int:
    """Measure, keep the figures in .local/bench.json, and replace the parts' sections."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="few rounds and small numbers")
    parser.add_argument("--no-page", action="store_true", help="leave docs/performance.md alone")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _end)
    state = State()
    state.make()
    results: dict[str, Any] = state.recall("bench") or {}
    for name in given.parts or PARTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        load, began = os.getloadavg()[0], datetime.now(UTC)
        figures = PARTS[name].measure(given.quick)
        minutes = (datetime.now(UTC) - began).total_seconds() / 60
        measured = f"{began:%Y-%m-%d} in {minutes:.0f} min: {machine()}, load {load:.1f} before it"
        print(json.dumps(figures, indent=1), flush=True)
        if given.quick:
            continue
        results[name] = {"figures": figures, "measured": measured}
        state.remember("bench", results)
        if not given.no_page:
            new = section(name, PARTS[name].render(figures), measured=measured)
            PAGE.write_text(replaced(PAGE.read_text("utf-8"), {name: new}, list(PARTS)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
