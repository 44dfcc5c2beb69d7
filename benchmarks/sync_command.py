"""`make sync` with all installed and up and nothing changed, beside `airflow dags test`.

The latter on the DAG of the same shape, in a plain Airflow: the same packages, metadata and
settings, but neither our DAG nor our plugin. Postgres and the vendor are up on both sides.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.airflow_run import NAMES, simulator
from benchmarks.clone import Clone, clone
from benchmarks.measure import Side, in_turn, ratio
from benchmarks.plain import SHAPE_ID
from launch import databases, environment
from launch.postgres import EmbeddedPostgres
from simulator.records import NewApp
from simulator.story import APPS, REGIONS


def measure(rounds: int = 9) -> dict[str, Any]:
    """Medians of both commands as whole processes, and the median of the rounds' ratios."""
    with simulator(REGIONS) as vendor, tempfile.TemporaryDirectory() as temporary:
        vendor.add_apps(NewApp(region, number, NAMES) for region, number in APPS.items())
        found = {f"im_{region}": vendor.connection_json(region, n) for region, n in APPS.items()}
        variables = {
            f"AIRFLOW_CONN_{name.upper()}": json.dumps(each) for name, each in found.items()
        }
        variables[environment.CONN_IDS] = json.dumps(list(found))
        with clone(variables) as made:
            made.make("setup")
            made.state.make()
            with made.state.postgres().in_use() as server:
                made.make("sync")  # makes the databases, and the baseline
                plain = _plain_airflow(made, server, Path(temporary))
                sides = [
                    Side("ours", lambda: _sync(made)),
                    Side("shape", lambda: _dags_test(made, plain)),
                ]
                in_turn(sides, 1)  # bytecode, and the shape's first registration
                times = in_turn(sides, rounds)
                _check(server, rounds + 2)
    return {
        "rounds": rounds,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": ratio(times["ours"], times["shape"]),
        "times": times,
    }


def render(figures: Any) -> str:
    """Its section of the page."""
    seconds = figures["seconds"]
    return (
        "### `make sync`\n\nWith everything installed, Postgres running, six regions and no "
        f"change: {seconds['ours']:.1f} s; `airflow dags test` of a DAG of the same shape whose "
        f"tasks do nothing {seconds['shape']:.1f} s (**{figures['ratio']:.2f}**; "
        f"{figures['rounds']} rounds in turn)."
    )


def _sync(made: Clone) -> None:
    said = made.make("sync")
    assert f"{len(APPS)} of {len(APPS)} targets recorded" in said, said


def _plain_airflow(made: Clone, server: EmbeddedPostgres, folder: Path) -> dict[str, str]:
    plugins = folder / "plugins"
    plugins.mkdir()
    ready = databases.prepare(made.state, server, {})
    variables = environment.for_airflow(made.state, made.environment, ready)
    return variables | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(made.folder / "benchmarks" / "shape"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
    }


def _dags_test(made: Clone, plain: dict[str, str]) -> None:
    program = made.folder / ".venv" / "bin" / "airflow"
    done = subprocess.run(
        [str(program), "dags", "test", SHAPE_ID],
        cwd=made.folder,
        env=plain,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def _check(server: EmbeddedPostgres, runs: int) -> None:
    """All runs ended well, on both sides with all tasks, and no change was recorded."""
    with server.connect(databases.AIRFLOW) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select d.dag_id, count(distinct d.run_id), count(*), bool_and(d.state = 'success'"
            " and t.state = 'success') from dag_run d join task_instance t using (dag_id, run_id)"
            " group by 1"
        )
        for dag_id, count, tasks, good in cursor.fetchall():
            # Ours has one more: the baseline.
            wanted = runs - (dag_id == SHAPE_ID)
            assert (count, tasks, good) == (wanted, wanted * (len(APPS) + 3), True), (
                dag_id, count, tasks, good,
            )  # fmt: skip
    with server.connect(databases.AUDIT) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select (select count(*) from attr_audit.poll where outcome = 'ok'),"
            " (select count(*) from attr_audit.change where not is_baseline)"
        )
        assert cursor.fetchone() == (runs * len(APPS), 0)
