"""What one run recorded, read from the audit database as the reader, for a person to read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from launch.databases import url_of

#: At most so many violations are listed.
_SHOWN = 3

_VIOLATIONS = """
select v.region, v.sdk_app_id, v.slot, v.declared_name, v.actual_name
  from attr_audit.violations v
 where v.violation <> 'unknown'
 order by v.since desc, v.region, v.sdk_app_id, v.slot
"""
_UNREVIEWED = "select count(*) from attr_audit.unreviewed_changes where dag_run_id = :dag_run_id"


@dataclass(frozen=True, slots=True)
class Table:
    """A run's table, and whether every target was recorded."""

    text: str
    complete: bool


def of_run(reader: str, dag_run_id: str, expected: Collection[str]) -> Table:
    """`reader`: an Airflow Connection. `expected`: the connections that were to be asked."""
    from im_attr_audit.messages.report import render
    from im_attr_audit.record.engine import create_audit_engine
    from im_attr_audit.record.runs import read_run

    engine = create_audit_engine(url_of(reader))
    try:
        run = read_run(engine, dag_run_id)
    finally:
        engine.dispose()
    good = {poll.conn_id for poll in run.polls if poll.recorded}
    return Table(render(run), bool(good) and set(expected) <= good)


def what_to_answer(reader: str, dag_run_id: str, reviews: str) -> str:
    """What is not as declared, and how many of the run's changes wait for a person at ``reviews``.

    Empty where there is nothing of either.
    """
    from im_attr_audit.messages.report import quoted
    from im_attr_audit.record.engine import create_audit_engine
    from sqlalchemy import text

    engine = create_audit_engine(url_of(reader))
    try:
        with engine.connect() as connection:
            violations = connection.execute(text(_VIOLATIONS)).all()
            unreviewed = connection.execute(text(_UNREVIEWED), {"dag_run_id": dag_run_id}).scalar()
    finally:
        engine.dispose()

    def shown(name: str | None) -> str:
        return "no name" if name is None else quoted(name)

    lines = [
        f"Not as declared: {row.region}/{row.sdk_app_id} slot {row.slot} has "
        f"{shown(row.actual_name)}, declared {shown(row.declared_name)}"
        for row in violations[:_SHOWN]
    ]
    if rest := len(violations) - _SHOWN:
        lines += [f"Not as declared: {rest} more"] if rest > 0 else []
    if unreviewed:
        waits = "1 change waits" if unreviewed == 1 else f"{unreviewed} changes wait"
        lines.append(f"{waits} for your answer: {reviews}")
    return "\n".join(lines)
