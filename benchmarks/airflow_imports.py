"""What our DAG file costs the dag-processor, and our plugin each task process.

Both in processes of their own in turn, beside the DAG file of the same shape and beside no plugin.
The dag-processor forks a process for every parse; a task process is measured as a Celery worker or
a pod starts it, that is as a new interpreter.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import ratio
from benchmarks.plain import DAG_ID, SHAPE_ID, SHAPES, plain_environment
from launch.state import ROOT

FILES = {
    "ours": (ROOT / "dags" / "im_attr_name_audit.py", DAG_ID),
    "shape": (SHAPES / "same_shape.py", SHAPE_ID),
}


# -- the DAG file ----------------------------------------------------------------------------------


def dag_parse(rounds: int = 41) -> dict[str, Any]:
    """Milliseconds for a parse as the dag-processor does it, serialization included."""
    with tempfile.TemporaryDirectory() as folder:
        times = _child(["parse", str(rounds)], Path(folder))
    return {
        "rounds": rounds,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": ratio(times["ours"], times["shape"]),
    }


def render_dag_parse(figures: Any) -> str:
    """Its section of the page."""
    ours, shape = (figures["seconds"][name] * 1000 for name in ("ours", "shape"))
    return (
        "### Parsing the DAG file\n\nMeasured as the dag-processor parses it: in a process forked "
        "from one that has loaded Airflow, up to the serialized DAG. Compared with a DAG file of "
        f"the same shape whose tasks do nothing: {ours:.1f} ms and {shape:.1f} ms "
        f"(**{figures['ratio']:.2f}**; {figures['rounds']} rounds in turn)."
    )


def _parse_in_turn(rounds: int) -> dict[str, list[float]]:
    import structlog
    from airflow.dag_processing import manager, processor

    assert manager  # imported for what it brings along
    for path, _ in FILES.values():
        processor._pre_import_airflow_modules(os.fspath(path), structlog.get_logger())
    times: dict[str, list[float]] = {name: [] for name in FILES}
    for number in range(-1, rounds):
        for name in FILES if number % 2 else reversed(FILES):
            taken = _forked_parse(*FILES[name])
            if number >= 0:  # the first round reads bytecode that was never read before
                times[name].append(taken)
    return times


def _forked_parse(path: Path, dag_id: str) -> float:
    """One parse in a process forked from this one; what came of it is looked at, too."""
    import structlog
    from airflow.dag_processing.processor import DagFileParseRequest, _parse_file

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "client"
            asked = DagFileParseRequest(
                file=os.fspath(path), bundle_path=path.parent, bundle_name="dags-folder"
            )
            began = time.perf_counter()
            parsed = _parse_file(asked, structlog.get_logger(logger_name="task"))
            taken = time.perf_counter() - began
            assert parsed is not None
            assert not parsed.import_errors, parsed.import_errors
            assert [dag.dag_id for dag in parsed.serialized_dags] == [dag_id]
            os.write(writing, json.dumps(taken).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{path} was not parsed"
    return float(result)


# -- the plugin ------------------------------------------------------------------------------------


def plugin(rounds: int = 21) -> dict[str, Any]:
    """Milliseconds that a task process needs to load its plugins, with ours and without."""
    times: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "plugins"
        empty.mkdir()
        folders = {"with": ROOT / "plugins", "without": empty}
        for number in range(-1, rounds):
            for name in folders if number % 2 else reversed(folders):
                result = _child(
                    ["plugins"],
                    Path(folder),
                    {"AIRFLOW__CORE__PLUGINS_FOLDER": str(folders[name])},
                )
                assert ("im_attr_audit" in result["plugins"]) == (name == "with"), result
                if number >= 0:
                    times[name].append(result["seconds"])
    return {
        "rounds": rounds,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "added": statistics.median(
            a - b for a, b in zip(times["with"], times["without"], strict=True)
        ),
    }


def render_plugin(figures: Any) -> str:
    """Its section of the page."""
    return (
        "### The plugin in a task process\n\nEvery task process loads the plugins. That takes "
        f"{figures['seconds']['with'] * 1000:.1f} ms with ours and "
        f"{figures['seconds']['without'] * 1000:.1f} ms with none: ours adds "
        f"**{figures['added'] * 1000:.1f} ms** (new interpreters, {figures['rounds']} rounds in "
        "turn)."
    )


def _load_plugins() -> dict[str, Any]:
    # What a task process has imported by the time it comes to the plugins.
    from airflow.sdk.execution_time import task_runner

    assert task_runner
    began = time.perf_counter()
    from airflow.sdk.plugins_manager import _get_plugins, integrate_macros_plugins

    integrate_macros_plugins()
    taken = time.perf_counter() - began
    loaded, errors = _get_plugins()
    assert not errors, errors
    return {"seconds": taken, "plugins": [plugin.name for plugin in loaded]}


# -- the process they are measured in --------------------------------------------------------------


def _child(
    arguments: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """This module in an interpreter of its own; what it says at the end."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.airflow_imports", *arguments],
        cwd=ROOT,
        env=plain_environment()
        | {
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    result = _load_plugins() if sys.argv[1] == "plugins" else _parse_in_turn(int(sys.argv[2]))
    print(json.dumps(result))
