"""The human-in-the-loop task of the DAG im_attr_name_review: it asks, waits and records the answer.

It is one task, not two: while a run waits, Airflow's scheduler checks again and again whether each
task that would follow can start. A task that waits for its answer costs it next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param

from im_attr_audit.messages import questions
from im_attr_audit.tasks import review

#: The key in Airflow's task state store of an answer that is not recorded yet.
_KEPT = "answer"


def form() -> dict[str, Param]:
    """What a person may fill in."""
    fields = {"ticket": questions.MOST_OF_A_TICKET, "comment": questions.MOST_OF_A_COMMENT}
    return {
        name: Param("", type=["null", "string"], maxLength=most, title=name.title())
        for name, most in fields.items()
    }


class ReviewOperator(HITLOperator):
    """Asks about ``changes`` (``seq`` by SDKAppID) of a region.

    The answer is kept in Airflow until it is recorded, so a try that failed because the audit
    database was down does not ask again. An answer that does not fit the form does.
    """

    # Airflow puts a mapped argument in its place only where it also renders templates.
    template_fields = (*HITLOperator.template_fields, "region", "changes")

    def __init__(self, *, region: str, changes: Mapping[str, Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.region = region
        self.changes = changes

    def execute(self, context: Any) -> Any:
        """Ask, or record the answer that an earlier try could not record."""
        kept = context["task_state_store"].get(_KEPT)
        return super().execute(context) if kept is None else self._record(context, kept)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer, once it is kept."""
        response = dict(super().execute_complete(context, event))
        response["responded_at"] = response["responded_at"].isoformat()
        review.check(response, dag_run_id=context["dag_run"].run_id)
        context["task_state_store"].set(_KEPT, response)
        return self._record(context, response)

    def _record(self, context: Any, response: Mapping[str, Any]) -> int:
        """Give how many reviews are new. A task that is cleared later asks again."""
        recorded = review.record(
            self.region, self.changes, response, dag_run_id=context["dag_run"].run_id
        )
        context["task_state_store"].delete(_KEPT)
        return recorded
