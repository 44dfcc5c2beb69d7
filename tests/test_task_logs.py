"""Where Airflow's UI finds the log of a task that `make sync` ran."""

from __future__ import annotations

from pathlib import Path

from launch.task_logs import write_task_logs

LOG = """\
2026-11-26T07:45:50Z [info] Filling up the DagBag
2026-11-26T07:45:54Z [info] [DAG TEST] starting task_id=plan map_index=-1
planned
2026-11-26T07:45:56Z [info] [DAG TEST] end task task_id=plan map_index=-1
2026-11-26T07:45:57Z [info] [DAG TEST] starting task_id=sync map_index=0
failed
2026-11-26T07:45:58Z [info] [DAG TEST] starting task_id=sync map_index=0
recorded
"""


def test_each_attempt_of_a_task_has_the_file_that_airflow_reads(tmp_path: Path) -> None:
    log = tmp_path / "sync.log"
    log.write_text(LOG)
    files = write_task_logs(log, tmp_path / "tasks", "a_dag", "manual__1")
    run = tmp_path / "tasks/dag_id=a_dag/run_id=manual__1"
    assert files == [
        run / "task_id=plan/attempt=1.log",
        run / "task_id=sync/map_index=0/attempt=1.log",
        run / "task_id=sync/map_index=0/attempt=2.log",
    ]
    assert "planned" in files[0].read_text()
    assert "recorded" not in files[1].read_text()
    assert "recorded" in files[2].read_text()
    assert "DagBag" not in "".join(file.read_text() for file in files)
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_run_without_a_task_has_no_files(tmp_path: Path) -> None:
    log = tmp_path / "sync.log"
    log.write_text("nothing started\n")
    assert write_task_logs(log, tmp_path / "tasks", "a_dag", "manual__1") == []
