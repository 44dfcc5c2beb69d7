"""Whole processes side by side: ours, hand-written SQL, dlt (scd2) and dbt (snapshots).

Each polls the same data into a database of its own on the same Postgres. The peers come in their
own environments, the newest that can be installed.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from im_attr_audit.record.upkeep.roles import WRITER

from benchmarks.measure import ratio
from benchmarks.record import check
from benchmarks.server import fresh, plain_url, settle
from benchmarks.world import State, World
from launch.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "peers"
#: What pip is asked for, newest first: dbt's newest cannot be installed without GitHub.
REQUIREMENTS = {
    "dlt": (("dlt[postgres]", "pyarrow", "pandas"),),
    "dbt": (("dbt-core", "dbt-postgres"), ("dbt-core<1.12", "dbt-postgres")),
}


def environments(folder: Path) -> dict[str, str]:
    """Make what is missing of the peers' environments; the versions found in them."""
    found = {}
    for name, wanted in REQUIREMENTS.items():
        python = folder / name / "bin" / "python"
        if not (folder / name / "made").exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            for requirements in wanted:
                command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
                if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                    (folder / name / "made").touch()
                    break
            else:
                raise RuntimeError(f"{name} cannot be installed")
        package = REQUIREMENTS[name][0][0].partition("[")[0]
        program = f"import importlib.metadata as m; print(m.version({package!r}))"
        said = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
        found[name] = said.stdout.strip()
    return found


@dataclass
class Runner:
    """One side: how its process is called, and in which database it records."""

    name: str
    command: list[str]
    database: str
    whole: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    def poll(self, *, counted: bool) -> None:
        """One process, timed from outside and by itself."""
        began = time.perf_counter()
        done = subprocess.run(
            self.command,
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
        )
        whole = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(f"{self.name} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        if counted:
            self.whole.append(whole)
            self.step.append(json.loads(done.stdout.splitlines()[-1])["step"])


def measure(
    server: EmbeddedPostgres, environments_in: Path, folder: Path, apps: int, rounds: int
) -> dict[str, Any]:
    """Medians of the whole process and of the step, and the ratios to the floor, per side."""
    world = World(apps)
    pickled, listed = folder / "polls.pickle", folder / "state.jsonl"
    sides = []
    for name in ("ours", "floor"):
        fresh(server, f"peer_{name}")
        url = server.url(f"peer_{name}", WRITER)
        if name == "floor":
            url = plain_url(server, f"peer_{name}", WRITER)
        command = [sys.executable, "-m", "benchmarks.one_poll", name, url, str(pickled), "run"]
        sides.append(Runner(name, command, f"peer_{name}"))
    scripts = {
        "dlt scd2": ("dlt", "dlt_scd2.py", ["rows"]),
        "dlt scd2 (arrow)": ("dlt", "dlt_scd2.py", ["arrow"]),
        "dbt snapshot": ("dbt", "dbt_snapshot.py", []),
    }
    for number, (name, (environment, script, more)) in enumerate(scripts.items()):
        database = f"peer_{number}"
        fresh(server, database, ours=False)
        own = folder / f"{database}_{apps}"
        own.mkdir()
        python = str(environments_in / environment / "bin" / "python")
        command = [python, str(PEERS / script), plain_url(server, database), str(listed), str(own)]
        sides.append(Runner(name, [*command, *more], database))

    for number in range(rounds + 2):
        if number:
            world.advance()
        pickled.write_bytes(pickle.dumps(world.polls()))
        with listed.open("w") as file:
            for (region, app), names in world.state.items():
                for slot, name in names.items():
                    file.write(json.dumps([region, app, slot, name]) + "\n")
        for side in sides if number % 2 else reversed(sides):
            # The baseline and one more poll do not count.
            side.poll(counted=number >= 2)
        if number == 0:
            for side in sides:
                settle(server, side.database)
    for side in sides:
        if side.name in ("ours", "floor"):
            check(server, side.database, world)
        else:
            _check_peer(server, side, world)
    floor = next(side for side in sides if side.name == "floor")
    return {
        "apps": apps,
        "rounds": rounds,
        "sides": {
            side.name: {
                "whole": statistics.median(side.whole),
                "step": statistics.median(side.step),
                "whole_ratio": ratio(side.whole, floor.whole),
                "step_ratio": ratio(side.step, floor.step),
            }
            for side in sides
        },
    }


def _check_peer(server: EmbeddedPostgres, side: Runner, world: World) -> None:
    """Its current rows are the truth, and its closed ones are as many as there were changes."""
    until = "dbt_valid_to" if side.name.startswith("dbt") else "_dlt_valid_to"
    with server.connect(side.database) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"select region, sdk_app_id, slot, name from peer.names where {until} is null"
        )
        found: State = {}
        for region, app, slot, name in cursor.fetchall():
            found.setdefault((region, app), {})[slot] = name
        assert found == world.state, f"{side.name}: what it holds is not what is true"
        cursor.execute(f"select count(*) from peer.names where {until} is not null")
        assert cursor.fetchone() == (world.changes_so_far,), f"{side.name}: its history"
