"""What the tasks of the DAG im_attr_name_review do; its errors become Airflow's, as in `tasks`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from im_attr_audit.settings import DAG_ID
from im_attr_audit.tasks import as_airflow_errors, audit_engine

log = logging.getLogger(__name__)

#: Questions of one run: a mapping may have 1,024 instances.
MOST_QUESTIONS = 1000


@as_airflow_errors()
def ask(
    triggering_asset_events: Mapping[Any, Sequence[Any]], *, days: int, dag_run_id: str
) -> list[dict[str, Any]]:
    """The questions of this run: ``{"region", "subject", "body", "changes"}`` each.

    A run that events triggered asks about what no other run asked about. A run that a person
    triggered (no events) asks about everything unreviewed of the last ``days``.
    """
    from im_attr_audit.messages.questions import questions
    from im_attr_audit.record.reviews import note_requests, read_unasked, read_unreviewed

    announced = list(_announced(triggering_asset_events))
    engine = audit_engine()
    try:
        if triggering_asset_events:
            changes = read_unasked(engine, announced, dag_run_id=dag_run_id)
        else:
            changes = read_unreviewed(engine, timedelta(days=days))
        base_url = (conf.get("api", "base_url", fallback=None) or "").rstrip("/")
        asked = questions(changes, base_url=base_url)
        if rest := asked[MOST_QUESTIONS:]:
            log.warning(
                "%d questions are left out: a run asks %d. Trigger the DAG again once these are "
                "answered.",
                len(rest),
                MOST_QUESTIONS,
            )
            asked = asked[:MOST_QUESTIONS]
        wanted = {
            (each.region, app, seq)
            for each in asked
            for app, seqs in each.changes.items()
            for seq in seqs
        }
        note_requests(
            engine,
            [c for c in changes if (c.region, c.sdk_app_id, c.seq) in wanted],
            dag_run_id=dag_run_id,
        )
    finally:
        engine.dispose()
    if not asked:
        log.info("There is nothing to review: baselines, changes as declared, or reviewed already.")
    return [
        {
            "region": each.region,
            "subject": each.subject,
            "body": each.body,
            "changes": {str(app): list(seqs) for app, seqs in each.changes.items()},
        }
        for each in asked
    ]


def _announced(events: Mapping[Any, Sequence[Any]]) -> Iterator[str]:
    """The runs in the audit's own events; anybody else may write some, too."""
    for event in (event for of_asset in events.values() for event in of_asset):
        extra = event.extra
        if event.source_dag_id != DAG_ID or not isinstance(extra, Mapping):
            continue
        if isinstance(run := extra.get("dag_run_id"), str):
            yield run


def check(response: Mapping[str, Any], *, dag_run_id: str) -> None:
    """Fail the task for good where the response is not an answer: it must not be kept."""
    from im_attr_audit.messages.questions import NotAnAnswer, answer_of

    try:
        answer_of(response, dag_run_id=dag_run_id)
    except NotAnAnswer as error:
        raise AirflowFailException(f"Nothing was recorded: {error}. Clear the review.") from None


@as_airflow_errors()
def record(
    region: str,
    changes: Mapping[str, Sequence[int]],
    response: Mapping[str, Any],
    *,
    dag_run_id: str,
) -> int:
    """Record the answer for these changes (``seq`` by SDKAppID); how many reviews are new."""
    from im_attr_audit.messages.questions import answer_of
    from im_attr_audit.record.reviews import record_answer

    check(response, dag_run_id=dag_run_id)
    answer = answer_of(response, dag_run_id=dag_run_id)
    engine = audit_engine()
    try:
        recorded = record_answer(
            engine, region, {int(app): seqs for app, seqs in changes.items()}, answer
        )
    finally:
        engine.dispose()
    log.info("Recorded for %d changes: %s, by %r.", recorded, answer.verdict, answer.reviewer)
    return recorded
