"""Whether a tool's rows are those of plain SQL, which was asked a little later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

Row = dict[str, Any]

#: How far two values may be apart that grow until now: seconds, percent.
SECONDS, PERCENT = 600.0, 0.5


def compare(given: list[Row], right: list[Row]) -> str:
    """How many rows agree, and what was compared how. An AssertionError says what differs.

    Every value is compared exactly (numbers to three digits), in any order of the rows. Only the
    values that `_until_now` names may differ by what passes between the two questions.
    """
    assert len(given) == len(right), f"{len(given)} rows, not {len(right)}"
    grow: Counter[str] = Counter()
    for mine, its in zip(_sorted(given), _sorted(right), strict=True):
        assert mine[0] == its[0], f"{mine[0]} is not {its[0]}"
        for (name, value), (other, wanted) in zip(mine[1], its[1], strict=True):
            assert name == other
            assert abs(value - wanted) <= _tolerance(name), f"{name}: {value} is not {wanted}"
            grow[name] += 1
    near = [f"{name} of {count} within {_words(name)}" for name, count in sorted(grow.items())]
    return f"{len(given)} rows, as plain SQL" + (f" ({', '.join(near)})" if near else "")


def _tolerance(name: str) -> float:
    return PERCENT if name.endswith("_pct") else SECONDS


def _words(name: str) -> str:
    return f"{PERCENT:g} %" if name.endswith("_pct") else f"{SECONDS:g} s"


def _until_now(row: Row) -> set[str]:
    """The columns of this row whose value depends on when the question is asked."""
    found = {"age_seconds"}
    if "ended_seen_at" in row and row["ended_seen_at"] is None:
        found |= {"seconds"}  # of an episode of drift that is open
    if "month" in row and _plain(row["month"]) >= _this_month():
        found |= {"longest_gap_seconds", "covered_pct"}
    return {name for name in found & row.keys() if row[name] is not None}


def _this_month() -> int:
    now = datetime.now(UTC)
    return int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp()) * 1000


def _sorted(rows: Iterable[Row]) -> list[tuple[list[tuple[str, str]], list[tuple[str, float]]]]:
    """Each row as its exact values and those until now, by column."""
    found = []
    for row in rows:
        near = _until_now(row)
        exact = [(name, str(_plain(row[name]))) for name in sorted(row.keys() - near)]
        found.append((exact, [(name, float(row[name])) for name in sorted(near)]))
    return sorted(found)


def _plain(value: Any) -> Any:
    """Superset's JSON has times as milliseconds since 1970, and a number may be int or float."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return int(value.timestamp() * 1000)
    if isinstance(value, float | Decimal):
        value = round(float(value), 3)
        return int(value) if value == int(value) else value
    return value
