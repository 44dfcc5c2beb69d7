"""Reviews: which changes to ask about, and the answers. The database chains and dates them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Engine, text

from im_attr_audit.names import AttrName

Verdict = Literal["expected", "not_expected"]


@dataclass(frozen=True, slots=True)
class UnreviewedChange:
    """A row of ``unreviewed_changes``, as far as a person needs it to answer."""

    dag_run_id: str | None
    region: str
    sdk_app_id: int
    seq: int
    app_group: str
    slot: int
    kind: str
    old: AttrName | None
    new: AttrName | None
    not_before: datetime
    seen_at: datetime
    lookalike: str | None
    moved_from_slot: int | None
    declared: bool | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person answered. ``reviewed_at``: when Airflow received it, by Airflow's clock."""

    verdict: Verdict
    reviewer: str
    reviewer_id: str | None
    ticket: str | None
    comment: str | None
    reviewed_at: datetime
    dag_run_id: str


_COLUMNS = """
u.dag_run_id, u.region, u.sdk_app_id, u.seq, u.app_group, u.slot, u.kind, u.old_name, u.new_name,
u.old_type, u.new_type, u.not_before, u.seen_at, u.lookalike, u.moved_from_slot, u.declared
"""

# Of several events at the same time Airflow gives a run of this DAG only the first. So its whole
# audit run counts, and what nobody was asked about while the DAG was paused, or its runs waited for
# others. What another run has asked about is left to that run.
_OF_NO_OTHER_RUN = """
not exists (select from attr_audit_internal.review_request q
             where q.region = u.region and q.sdk_app_id = u.sdk_app_id and q.seq = u.seq
               and q.dag_run_id <> :dag_run_id)
"""
_UNASKED = f"""
select {_COLUMNS}
  from attr_audit.unreviewed_changes u
 where u.dag_run_id = any(:runs)
   and {_OF_NO_OTHER_RUN}
 union
select {_COLUMNS}
  from attr_audit.unreviewed_changes u
 where u.seen_at > (select greatest(min(asked_at) - interval '1 day', now() - interval '30 days')
                      from attr_audit_internal.review_request having count(*) > 0)
   and {_OF_NO_OTHER_RUN}
 order by region, sdk_app_id, seq
"""  # noqa: S608 - all of it is written above

_SINCE = f"""
select {_COLUMNS}
  from attr_audit.unreviewed_changes u
 where u.seen_at > now() - cast(:since as interval)
 order by u.region, u.sdk_app_id, u.seq
"""  # noqa: S608 - its columns are written above

_NOTE = """
insert into attr_audit_internal.review_request (region, sdk_app_id, seq, dag_run_id)
select region, sdk_app_id, seq, :dag_run_id
  from unnest(cast(:regions as text[]), cast(:apps as bigint[]), cast(:seqs as bigint[]))
       as c (region, sdk_app_id, seq)
 order by 1, 2, 3
    on conflict do nothing
"""

# In the order in which a sync locks its apps.
_RECORD = """
insert into attr_audit.review (region, sdk_app_id, seq, verdict, reviewer, reviewer_id, ticket,
                               comment, reviewed_at, dag_run_id)
select :region, sdk_app_id, seq, :verdict, :reviewer, :reviewer_id, :ticket, :comment,
       :reviewed_at, :dag_run_id
  from unnest(cast(:apps as bigint[]), cast(:seqs as bigint[])) as c (sdk_app_id, seq)
 order by sdk_app_id, seq
    on conflict on constraint an_answer_is_recorded_once do nothing
returning review_id
"""


def read_unasked(
    engine: Engine, announced: Iterable[str], *, dag_run_id: str
) -> list[UnreviewedChange]:
    """The unreviewed changes that no other run of the review DAG asked about; by region, app, seq.

    Those of the audit's runs ``announced``, and those of the last 30 days since reviews are asked
    for. ``dag_run_id``: the review DAG's run.
    """
    return _read(engine, _UNASKED, {"runs": list(announced), "dag_run_id": dag_run_id})


def read_unreviewed(engine: Engine, since: timedelta) -> list[UnreviewedChange]:
    """Every unreviewed change seen since then, asked about or not. By region, app, seq."""
    return _read(engine, _SINCE, {"since": since})


def note_requests(engine: Engine, changes: Sequence[UnreviewedChange], *, dag_run_id: str) -> None:
    """Record that this run of the review DAG asks about the changes; again: nothing."""
    with engine.begin() as connection:
        connection.execute(
            text(_NOTE),
            {
                "regions": [change.region for change in changes],
                "apps": [change.sdk_app_id for change in changes],
                "seqs": [change.seq for change in changes],
                "dag_run_id": dag_run_id,
            },
        )


def record_answer(
    engine: Engine, region: str, changes: Mapping[int, Sequence[int]], answer: Answer
) -> int:
    """Record one answer for these changes (``seq`` by SDKAppID) of a region; how many are new.

    The same answer again records nothing. Raises database errors where a change does not exist or
    ``reviewed_at`` is in the future.
    """
    pairs = [(app, seq) for app, seqs in changes.items() for seq in seqs]
    with engine.begin() as connection:
        rows = connection.execute(
            text(_RECORD),
            {
                "region": region,
                "apps": [app for app, _ in pairs],
                "seqs": [seq for _, seq in pairs],
                "verdict": answer.verdict,
                "reviewer": answer.reviewer,
                "reviewer_id": answer.reviewer_id,
                "ticket": answer.ticket,
                "comment": answer.comment,
                "reviewed_at": answer.reviewed_at,
                "dag_run_id": answer.dag_run_id,
            },
        )
        return len(rows.all())


def queue_unreviewed(engine: Engine, longer_than: timedelta, *, dag_run_id: str) -> int:
    """Queue an alert for each change that waits longer for its review; how many, each once."""
    with engine.begin() as connection:
        queued: int = connection.execute(
            text("select attr_audit_internal.queue_unreviewed(:longer_than, :dag_run_id)"),
            {"longer_than": longer_than, "dag_run_id": dag_run_id},
        ).scalar_one()
        return queued


def _read(engine: Engine, statement: str, values: Mapping[str, object]) -> list[UnreviewedChange]:
    with engine.connect() as connection:
        return [
            UnreviewedChange(
                dag_run_id=row.dag_run_id,
                region=row.region,
                sdk_app_id=row.sdk_app_id,
                seq=row.seq,
                app_group=row.app_group,
                slot=row.slot,
                kind=row.kind,
                old=None if row.old_name is None else AttrName(row.old_name, row.old_type),
                new=None if row.new_name is None else AttrName(row.new_name, row.new_type),
                not_before=row.not_before,
                seen_at=row.seen_at,
                lookalike=row.lookalike,
                moved_from_slot=row.moved_from_slot,
                declared=row.declared,
            )
            for row in connection.execute(text(statement), values)
        ]
