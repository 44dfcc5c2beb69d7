"""What one run recorded, read from the audit database as the reader, for a person to read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from launch.databases import url_of


@dataclass(frozen=True, slots=True)
class Table:
    """A run's table, and whether every target was recorded."""

    text: str
    complete: bool


def of_run(reader: str, dag_run_id: str, expected: Collection[str]) -> Table:
    """`reader`: an Airflow Connection. `expected`: the connections that were to be asked."""
    from im_attr_audit.record.engine import create_audit_engine
    from im_attr_audit.record.runs import read_run
    from im_attr_audit.report import render

    engine = create_audit_engine(url_of(reader))
    try:
        run = read_run(engine, dag_run_id)
    finally:
        engine.dispose()
    good = {poll.conn_id for poll in run.polls if poll.recorded}
    return Table(render(run), bool(good) and set(expected) <= good)
