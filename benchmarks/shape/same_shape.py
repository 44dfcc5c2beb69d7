"""A DAG of the shape of im_attr_name_audit whose tasks do nothing: what Airflow itself costs.

Same tasks, options, mapping, edges, params and assets. Alone in its folder, so that this can be a
DAG folder.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, AssetAlias, Param, dag, task

REGIONS = ("china", "frankfurt", "jakarta", "seoul", "silicon_valley", "singapore")
CHANGES = Asset("same-shape/changes")
CHANGES_ALIAS = AssetAlias("same-shape-changes")
RETRY_SECONDS = int(os.environ.get("IM_ATTR_AUDIT_RETRY_SECONDS", "30"))

DOC = """
### Nothing

* **plan** gives one instance per region.
* **sync** does nothing, one instance per region.
* **publish** emits nothing.
* **report** says nothing.
"""


@dag(
    dag_id="im_attr_same_shape",
    dag_display_name="The same shape",
    description="Does nothing, in the shape of the DAG im_attr_name_audit",
    doc_md=DOC,
    schedule=os.environ.get("IM_ATTR_AUDIT_SCHEDULE", "*/15 * * * *"),
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
            description="Has no effect.",
        )
    },
    default_args={"owner": "im-attr-audit"},
)
def im_attr_same_shape() -> None:
    """plan → sync (mapped) → publish → report."""

    @task(
        retries=2,
        retry_delay=timedelta(seconds=RETRY_SECONDS),
        execution_timeout=timedelta(minutes=10),
    )
    def plan(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return [{"label": label, "conn_ids": [label], "problems": {}} for label in REGIONS]

    @task(
        map_index_template="{{ task.op_kwargs['label'] }}",
        execution_timeout=timedelta(minutes=30),
        retries=3,
        retry_delay=timedelta(seconds=RETRY_SECONDS),
        retry_exponential_backoff=2,
        max_retry_delay=timedelta(seconds=RETRY_SECONDS * 8),
    )
    def sync(label: str, conn_ids: list[str], problems: dict[str, str]) -> None:
        pass

    @task(
        trigger_rule="all_done",
        outlets=[CHANGES_ALIAS],
        retries=2,
        retry_delay=timedelta(seconds=RETRY_SECONDS),
        execution_timeout=timedelta(minutes=10),
    )
    def publish() -> None:
        pass

    @task(
        trigger_rule="all_done",
        retries=0,
        inlets=[CHANGES],
        execution_timeout=timedelta(minutes=10),
    )
    def report() -> None:
        pass

    planned = plan()
    synced = sync.expand_kwargs(planned)
    published = publish()
    reported = report()
    synced >> published >> reported
    planned >> reported


im_attr_same_shape()
