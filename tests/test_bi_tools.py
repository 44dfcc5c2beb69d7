"""`make test-bi` notices a wrong value in every column; only what grows until now may differ."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.bi_tools.compare import PERCENT, SECONDS, compare

_MAY = datetime(2026, 5, 12, 9, tzinfo=UTC)
_NOW = datetime.now(UTC)

POLL = {"requested_at": _MAY, "region": "seoul", "seconds": 2.1, "poll_id": 7}
MAY = {"month": date(2026, 5, 1), "longest_gap_seconds": 46800.0, "covered_pct": 98.25}
ENDED = {"began_seen_at": _MAY, "ended_seen_at": _MAY + timedelta(hours=1), "seconds": 3600.0}
OPEN = {**ENDED, "ended_seen_at": None}
RUNNING = {**MAY, "month": _NOW.date().replace(day=1)}
AGE = {"region": "seoul", "age_seconds": 1.5e7}


def sent(row: dict[str, Any]) -> dict[str, Any]:
    """The row in Superset's JSON."""
    out = {}
    for name, value in row.items():
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        out[name] = value.timestamp() * 1000 if isinstance(value, datetime) else value
    return out


@pytest.mark.parametrize("row", [POLL, MAY, ENDED, OPEN, RUNNING, AGE])
def test_the_rows_of_both_agree_in_any_order(row: dict[str, Any]) -> None:
    other = {**row, "region": "tokyo"}
    row = {"region": "seoul", **row}
    assert compare([sent(other), sent(row)], [row, other]).startswith("2 rows, as plain SQL")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        *((POLL, name) for name in ("seconds", "poll_id", "region")),
        *((MAY, name) for name in ("longest_gap_seconds", "covered_pct")),
        (ENDED, "seconds"),
    ],
)
def test_a_value_that_is_settled_is_compared_exactly(row: dict[str, Any], column: str) -> None:
    said = compare([sent(row)], [row])
    assert said == "1 rows, as plain SQL"
    value = row[column]
    wrong = f"{value}x" if isinstance(value, str) else value + 0.01
    with pytest.raises(AssertionError, match="is not"):
        compare([sent({**row, column: wrong})], [row])


@pytest.mark.parametrize(
    ("row", "column", "tolerance"),
    [
        (OPEN, "seconds", SECONDS),
        (RUNNING, "longest_gap_seconds", SECONDS),
        (RUNNING, "covered_pct", PERCENT),
        (AGE, "age_seconds", SECONDS),
    ],
)
def test_a_value_that_grows_until_now_is_compared_with_a_tolerance_and_named(
    row: dict[str, Any], column: str, tolerance: float
) -> None:
    said = compare([sent({**row, column: row[column] + 0.9 * tolerance})], [row])
    assert f"{column} of 1 within {tolerance:g} " in said
    with pytest.raises(AssertionError, match=column):
        compare([sent({**row, column: row[column] + 1.1 * tolerance})], [row])


def test_rows_that_are_missing_are_noticed() -> None:
    with pytest.raises(AssertionError, match="1 rows, not 2"):
        compare([sent(POLL)], [POLL, POLL])
