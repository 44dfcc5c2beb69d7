"""The DAG im_attr_name_review: schedule and shape; im_attr_audit.tasks.review does the work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task, task_group
from im_attr_audit import settings, tasks
from im_attr_audit.messages import questions
from im_attr_audit.tasks import review
from im_attr_audit.tasks.review_operator import ReviewOperator, form

DOC = """
### Was this change expected? A person answers, and the answer is recorded.

Runs when the audit announces changes (asset `im-attr-audit/changes`). Baselines and changes as
declared need no review.

* **ask** reads the announced changes: one question for each region and run.
* **review** waits under *Required Actions*, for weeks if need be, without a process or a pool slot.
  Choose *Expected* or *Not expected*; ticket and comment are optional. It stores the answer in
  `attr_audit.review` with your name. *Clear* a review to ask again: the last answer counts.

Trigger the DAG by hand to ask about every unreviewed change of the last 30 days (param `days`).
"""


@dag(
    dag_id=settings.REVIEW_DAG_ID,
    dag_display_name="Attribute name review",
    description="Asks a person about each change that is not as declared",
    doc_md=DOC,
    schedule=[tasks.CHANGES],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # A run may wait for weeks. In each loop, of a second or more, Airflow's scheduler looks at 20
    # active runs of all DAGs: of more that wait, every other run would have to wait as well. What
    # comes after so many is asked about in one run, as soon as one of them ends.
    max_active_runs=16,
    tags=["audit", "tencent-im"],
    params={
        "days": Param(
            30,
            type="integer",
            minimum=1,
            maximum=3660,
            title="Days",
            description="A run triggered by hand asks about unreviewed changes of this many days "
            "back.",
        )
    },
    default_args={
        "owner": "im-attr-audit",
        "retry_delay": timedelta(seconds=settings.RETRY_SECONDS.read()),
    },
)
def im_attr_name_review() -> None:
    """ask → one review for each region and run."""

    @task(retries=3, execution_timeout=timedelta(minutes=10))
    def ask(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        context = get_current_context()
        return review.ask(
            context["triggering_asset_events"],
            days=(params or {}).get("days", 30),
            dag_run_id=context["dag_run"].run_id,
        )

    @task_group
    def of_region(region: str, subject: str, body: str, changes: dict[str, list[int]]) -> None:
        ReviewOperator(
            task_id="review",
            region=region,
            changes=changes,
            subject=subject,
            body=body,
            options=list(questions.OPTIONS),
            params=form(),
            map_index_template="{{ task.subject }}",
            # Airflow has the answer. It is recorded once the database is back. An answer that does
            # not fit the form fails the try, and the next one asks again.
            retries=10,
            retry_exponential_backoff=2,
            max_retry_delay=timedelta(hours=1),
        )

    of_region.expand_kwargs(ask())


im_attr_name_review()
