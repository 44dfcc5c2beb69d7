"""The log of a run made in one process, as one file for each task, where Airflow's UI reads it."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

# What `dag.test()` of Airflow 3.3 logs before each task.
_START = re.compile(r"\[DAG TEST\] starting task_id=(\S+) map_index=(-?\d+)")


def write_task_logs(log: Path, folder: Path, dag_id: str, run_id: str) -> list[Path]:
    """Write the part of ``log`` after each task's start to a file of its own; returns the files.

    What precedes the first task belongs to none of them. Each start of a task is one more attempt.
    """
    attempts: Counter[tuple[str, str]] = Counter()
    parts: list[tuple[Path, list[str]]] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if started := _START.search(line):
            task, index = started.groups()
            attempts[task, index] += 1
            file = folder / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task}"
            if int(index) >= 0:
                file /= f"map_index={index}"
            parts.append((file / f"attempt={attempts[task, index]}.log", []))
        if parts:
            parts[-1][1].append(line)
    for file, lines in parts:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            written.writelines(lines)
    return [file for file, _ in parts]
