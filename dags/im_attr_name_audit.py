"""The DAG im_attr_name_audit: schedule and shape only; im_attr_audit.tasks does the work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from im_attr_audit import settings, tasks

HERE = Path(__file__).parent
RETRY_SECONDS = settings.RETRY_SECONDS.read()

DOC = """
### What are the attribute names, and when did they change?

Asks Tencent Cloud Chat for every listed app's user-attribute names, and records every change in
Postgres (schema `attr_audit`).

* **plan** reads the Variable `im_attr_audit_conn_ids`, retires apps that are no longer listed and
  records the declared names whenever they have changed.
* **sync** polls and records, one instance per region, or per part of a region with more than 250
  apps. It is red while one of its apps could not be polled; the others are recorded. *Clear* it
  after fixing a connection.
* **publish** emits the asset `im-attr-audit/changes`, one event per region and run with changes
  that no event has announced yet.
* **report** logs the table of this run, sends alerts, and fails if anything failed.

A failed poll changes nothing: "we could not look" is never recorded as "nothing changed".
"""


# `publish` and `report` read the asset's events to see what is announced, and may announce: where
# *Clear, only failed* runs `sync` and `report` again and leaves `publish`, `report` announces the
# rest.
ANNOUNCES: dict[str, Any] = {
    "trigger_rule": "all_done",
    "inlets": [tasks.CHANGES],
    "outlets": [tasks.CHANGES_ALIAS],
    "execution_timeout": timedelta(minutes=10),
}


def _where_declared(ti: Any) -> dict[str, Any]:
    """Where a file of declared names is looked for."""
    return {"dag_folder": HERE, "bundle": getattr(ti, "bundle_instance", None)}


@dag(
    dag_id=settings.DAG_ID,
    dag_display_name="Attribute name audit",
    description="Records every change of Tencent Cloud Chat's user-attribute names",
    doc_md=DOC,
    schedule=settings.schedule(),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    tags=["audit", "tencent-im"],
    params={
        "conn_ids": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "minLength": 1},
            minItems=1,
            uniqueItems=True,
            title="Connections",
            description="Limit this run to some of the connections in im_attr_audit_conn_ids; "
            "empty: all of them.",
        )
    },
    default_args={
        "owner": "im-attr-audit",
        "retry_delay": timedelta(seconds=RETRY_SECONDS),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(seconds=RETRY_SECONDS * 8),
    },
)
def im_attr_name_audit() -> None:
    """plan → sync (mapped) → publish → report."""

    @task(retries=2, execution_timeout=timedelta(minutes=10))
    def plan(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        ti = get_current_context()["ti"]
        return tasks.plan(
            (params or {}).get("conn_ids"),
            dag_run_id=ti.run_id,
            **_where_declared(ti),
        )

    @task(
        map_index_template="{{ task.op_kwargs['label'] }}",
        execution_timeout=timedelta(minutes=30),
        retries=3,
    )
    def sync(label: str, conn_ids: list[str], problems: dict[str, str]) -> dict[str, int]:
        context = get_current_context()
        ti, begun_at = context["ti"], context["dag_run"].start_date
        if not conn_ids:
            return tasks.declare_again(ti.run_id, **_where_declared(ti))
        return tasks.sync(conn_ids, problems, dag_run_id=ti.run_id, begun_at=begun_at, ti=ti)

    @task(retries=2, **ANNOUNCES)
    def publish() -> int:
        context = get_current_context()
        return tasks.publish(context["inlet_events"], context["outlet_events"])

    @task(retries=0, **ANNOUNCES)
    def report() -> None:
        context = get_current_context()
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
        tasks.report(
            ti.xcom_pull(task_ids="plan"),
            dag_run_id=ti.run_id,
            states=states,
            **_where_declared(ti),
        )
        tasks.publish(context["inlet_events"], context["outlet_events"])

    planned = plan()
    synced = sync.expand_kwargs(planned)
    published = publish()
    reported = report()
    synced >> published >> reported
    # Clearing may leave `publish` as it is: `report` waits for every sync by itself.
    synced >> reported
    planned >> reported
    # Airflow takes a run's state from its last tasks, and leaves out teardowns. The syncs decide,
    # so that a run turns green when the one failed instance is cleared and succeeds.
    last: Any
    for last in (published, reported):
        last.is_teardown = True


im_attr_name_audit()
