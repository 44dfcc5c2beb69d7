"""The seven outcomes of a poll: what each means, whether it is good or final, what to do. Pure.

The only table of outcomes. The report, the page, the alerts and the operations guide show these
sentences, and SQL that has to know which outcomes are good or failed is given these sets.

*good*: the poll saw the names, and what it saw is recorded. Freshness goes by good polls alone.
*failed*: the poll did not see the names; it fails its run. ``late`` is neither: what it saw is
older than what is recorded. It fails its run only where the app has no good poll since the run
began.
*final*: the same run does not poll the app again, unless its task is cleared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome. ``advice`` is a sentence that says what to do; empty where nothing is to do."""

    name: str
    meaning: str
    advice: str
    is_good: bool = False
    is_failed: bool = False
    is_final: bool = True


_ROWS: Final = (
    Outcome(
        "ok",
        "The names were read and are recorded.",
        "",
        is_good=True,
    ),
    Outcome(
        "unstable",
        "Two reads gave different names, or all names disappeared and a second run has to confirm "
        "it. Nothing was recorded.",
        "Wait for the next run. If it repeats, somebody is changing names now, or the API answers "
        "inconsistently: compare with the vendor's console.",
        is_failed=True,
        is_final=False,
    ),
    Outcome(
        "rejected",
        "The vendor refused the call with an error code that a retry cannot change.",
        "Follow the advice for the error code, fix the connection, then clear the sync task.",
        is_failed=True,
    ),
    Outcome(
        "unavailable",
        "The vendor could not be reached, or was too busy to answer.",
        "Wait for the next run. If it repeats, check the network path to the region's host and "
        "the vendor's status page.",
        is_failed=True,
        is_final=False,
    ),
    Outcome(
        "invalid",
        "The answer is not valid. It is kept in attr_audit.poll, column answer.",
        "Check that the connection's host and port are the vendor's. If they are, report the "
        "answer as an issue of im-attr-audit.",
        is_failed=True,
    ),
    Outcome(
        "misconfigured",
        "The connection cannot be used; nothing was sent.",
        "Fix the connection, then clear the sync task.",
        is_failed=True,
    ),
    Outcome(
        "late",
        "A newer poll of the app was recorded before this one. Nothing was recorded.",
        "Nothing to do if the app has a newer good poll. If it has none, a clock was wrong: check "
        "the database's clock.",
    ),
)

OUTCOMES: Final[Mapping[str, Outcome]] = MappingProxyType({row.name: row for row in _ROWS})
GOOD: Final = frozenset(row.name for row in _ROWS if row.is_good)
FAILED: Final = frozenset(row.name for row in _ROWS if row.is_failed)
FINAL: Final = frozenset(row.name for row in _ROWS if row.is_final)
