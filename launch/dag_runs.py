"""The DAG's runs, from Airflow's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from im_attr_audit.settings import DAG_ID

from launch.databases import AIRFLOW
from launch.postgres import EmbeddedPostgres

FINISHED = ("success", "failed")

# What `dag.test()` leaves behind when it is killed: runs that no scheduler knows how to end.
_END_TORN_TASKS = """
update task_instance set state = 'failed', end_date = now()
 where dag_id = %(dag)s and (state is null or state not in ('success', 'failed', 'skipped',
       'upstream_failed', 'removed'))
   and run_id in (select run_id from dag_run where dag_id = %(dag)s
                   and state in ('running', 'queued') and triggering_user_name = 'dag_test')
"""
_END_TORN_RUNS = """
update dag_run set state = 'failed', end_date = now()
 where dag_id = %(dag)s and state in ('running', 'queued') and triggering_user_name = 'dag_test'
"""


@dataclass(frozen=True, slots=True)
class DagRun:
    run_id: str
    state: str
    ended: datetime | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


class DagRuns:
    """Each question opens its own connection: cheap enough for a caller that waits for a run."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    def newest(self, count: int = 20) -> list[DagRun]:
        """The newest runs, the oldest of them first."""
        with self._server.connect(AIRFLOW, AIRFLOW) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select run_id, state, end_date from dag_run where dag_id = %s"
                " order by id desc limit %s",
                (DAG_ID, count),
            )
            return [DagRun(*row) for row in reversed(cursor.fetchall())]

    def get(self, run_id: str) -> DagRun | None:
        with self._server.connect(AIRFLOW, AIRFLOW) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select run_id, state, end_date from dag_run where dag_id = %s and run_id = %s",
                (DAG_ID, run_id),
            )
            row = cursor.fetchone()
            return None if row is None else DagRun(*row)

    def end_torn(self) -> None:
        """Only while nothing lets the DAG run here (`State.only_one`)."""
        with self._server.connect(AIRFLOW, AIRFLOW) as connection, connection.cursor() as cursor:
            cursor.execute(_END_TORN_TASKS, {"dag": DAG_ID})
            cursor.execute(_END_TORN_RUNS, {"dag": DAG_ID})
