"""The page's questions to the record: the statements of ``sql/``, by the names of their files.

Functions are verb + noun, take a connection of a read-only transaction and return rows. No
statement is built from what a visitor wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, TextClause, text

from im_attr_audit import outcomes
from im_attr_audit.apps import AppKey

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Row]

STATEMENTS = Path(__file__).parent / "sql"
#: What one window of the timeline holds at most: more cannot be distinguished on a screen.
MAX_LANE_CHANGES = 400
MAX_FAILED_POLLS = 400

#: What ``change_marks`` says of a change.
MARKS = ("lookalike", "moved_from_slot", "declared", "verdict", "reviewer", "ticket", "reviewed_at")

#: Which outcomes are good and which have failed: the table's, in every statement that asks.
OUTCOMES: Mapping[str, Any] = {
    "good": sorted(outcomes.GOOD),
    "failed": sorted(outcomes.FAILED),
}


@cache
def statement(name: str) -> TextClause:
    """The statement in ``sql/NAME.sql``; ``{part}`` in it is the text of ``sql/parts/part.sql``."""
    written = (STATEMENTS / f"{name}.sql").read_text(encoding="utf-8")
    for part in (STATEMENTS / "parts").glob("*.sql"):
        written = written.replace(f"{{{part.stem}}}\n", part.read_text(encoding="utf-8"))
    return text(written)


def read(connection: Connection, query: str, /, **parameters: Any) -> Rows:
    """All rows of a statement."""
    result = connection.execute(statement(query), {**OUTCOMES, **parameters})
    # A third of the time of result.mappings(), which looks the names up again for each row.
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


def read_plain(connection: Connection, query: str, /, **parameters: Any) -> Sequence[Any]:
    """All rows as tuples: cheaper where there are thousands."""
    return connection.execute(statement(query), {**OUTCOMES, **parameters}).all()


def read_one(connection: Connection, query: str, /, **parameters: Any) -> Row | None:
    """The row, or None."""
    result = connection.execute(statement(query), {**OUTCOMES, **parameters})
    row = result.mappings().one_or_none()
    return None if row is None else dict(row)


def read_now(connection: Connection) -> datetime:
    """The database's clock."""
    at = connection.execute(text("select now()")).scalar_one()
    assert isinstance(at, datetime)  # noqa: S101 - for the type
    return at


def join_by_hash(connection: Connection) -> None:
    """Until the transaction ends, no nested loops: where the planner expects one row of a view and
    there are thousands, each would be compared with each."""
    connection.exec_driver_sql("set local enable_nestloop = off")


def read_apps(connection: Connection, stale_after: timedelta, *, retired: bool) -> Rows:
    """All apps, without the retired ones unless asked for."""
    return read(connection, "apps", stale_after=stale_after, retired=retired)


def read_marks(connection: Connection, changes: Rows) -> Rows:
    """For each change, in order: whether it is a look-alike, moved, declared and reviewed."""
    apps = [AppKey(row["region"], row["sdk_app_id"]) for row in changes]
    seqs = [row["seq"] for row in changes]
    found = {
        (row.pop("region"), row.pop("sdk_app_id"), row.pop("seq")): row
        for row in read(connection, "change_marks", **arrays(apps), seqs=seqs)
    }
    # A baseline has none.
    return [
        found.get((*app, seq)) or dict.fromkeys(MARKS) for app, seq in zip(apps, seqs, strict=True)
    ]


def narrow_to_name(connection: Connection, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters, with the only changes that a rare name can be in."""
    if not filters["name"]:
        return {**filters, "only": None}
    found = read_one(connection, "changes_by_name", name=filters["name"])
    return {**filters, "only": found["change_ids"] if found else None}


def stream_changes(connection: Connection, filters: Mapping[str, Any]) -> Iterator[Row]:
    """All changes that match the filters, newest first, without holding them all."""
    filters = narrow_to_name(connection, filters)
    result = connection.execution_options(stream_results=True, max_row_buffer=2000).execute(
        statement("changes"), {**filters, "before_at": None, "before_id": None, "at_most": None}
    )
    yield from map(dict, result.mappings())


def arrays(apps: Collection[AppKey]) -> dict[str, list[Any]]:
    """Apps as the two arrays that the statements take."""
    return {"regions": [app.region for app in apps], "ids": [app.sdk_app_id for app in apps]}
