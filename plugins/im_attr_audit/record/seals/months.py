"""How many polls of each month a seal has: a line of its checkpoint, so it is signed.

A fold removes good polls of one month. These numbers show how many polls of a seal a fold may have
removed, and that none of the others is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from im_attr_audit.evidence.canonical import MONTHS, Value, canonical
from im_attr_audit.evidence.checkpoint import Checkpoint

_DAY_US = 86_400 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GOOD = b'"ok"'

#: Polls by month (``2026-11``; empty where the time cannot be) and whether they are good.
Months: TypeAlias = Counter[tuple[str, bool]]


def month_of(microseconds: int) -> str:
    """The month (UTC) of a time, as it is sorted and read: ``2026-11``."""
    try:
        return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m}"
    except OverflowError:
        return ""


def count_months(requested: Sequence[bytes], outcomes: Sequence[bytes]) -> Months:
    """The months of some polls, from the tokens of requested_at and outcome."""
    if {*map(len, requested)} == {16}:
        # Of a time in 2001 to 2286, tokens are ordered as numbers are. Most seals have one month.
        month = month_of(int(min(requested)))
        if month == month_of(int(max(requested))):
            good = outcomes.count(_GOOD)
            return +Counter({(month, True): good, (month, False): len(outcomes) - good})
    try:
        days: list[int | None] = [int(each) // _DAY_US for each in requested]
    except ValueError:
        days = [int(e) // _DAY_US if e.isdigit() else None for e in requested]
    found: Months = Counter()
    for (day, outcome), number in Counter(zip(days, outcomes, strict=True)).items():
        month = "" if day is None else month_of(day * _DAY_US)
        found[month, outcome == _GOOD] += number
    return found


def line_of_months(months: Mapping[tuple[str, bool], int]) -> tuple[str, ...]:
    """The line: of each month, how many polls are good and how many are not. None: no poll."""
    names = sorted({month for month, _ in months})
    counts: list[Value] = [
        [name, months.get((name, True), 0), months.get((name, False), 0)] for name in names
    ]
    return (canonical([MONTHS, *counts]).decode(),) if counts else ()


def signed_months(checkpoint: Checkpoint) -> Months | None:
    """What the checkpoint signs; None: it has no poll, or an earlier version made it."""
    for line in checkpoint.extensions:
        type_, *counts = json.loads(line)
        if type_ == MONTHS:
            found: Months = Counter()
            for month, good, other in counts:
                found[str(month), True], found[str(month), False] = int(good), int(other)
            return found
    return None
