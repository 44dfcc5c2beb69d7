"""What each chart of bi/superset and bi/grafana shows of the quarter, from its script alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from datetime import UTC, datetime, time, timedelta
from typing import Any

from im_attr_audit.apps import AppKey

from tests import quarter_answers as questions
from tests.quarter import (
    CHINA,
    END,
    FRANKFURT,
    SEALED_AT,
    SINGAPORE,
    STORY,
    Change,
    changes,
    day,
    head_seq,
    seen,
)
from tests.quarter import rows as recorded
from tests.quarter_answers import Q2

#: A row by column. Times of days are UTC's.
Rows = list[dict[str, Any]]
Groups = Collection[str]

APPS = sorted(STORY.listed)
UNKNOWN, NO_NAME = "(unknown)", "(no name)"


def _named(columns: str, rows: list[tuple[Any, ...]], groups: Groups) -> Rows:
    named = [dict(zip(columns.split(), row, strict=True)) for row in rows]
    return [row for row in named if row.get("app_group", min(groups)) in groups]


def _changes(groups: Groups) -> list[Change]:
    return [
        change for change in changes() if Q2[0] <= change.seen_at < Q2[1] and change.group in groups
    ]


def _week(at: datetime) -> datetime:
    monday = (at - timedelta(days=at.weekday())).date()
    return datetime.combine(monday, time(), UTC)


def drift_now(groups: Groups) -> Rows:
    columns = "app_group slot began_not_before began_seen_at first_region first_sdk_app_id"
    return _named(f"{columns} first_name", questions.drift_since_when(), groups)


def last_good_polls(groups: Groups) -> Rows:
    """`known_at` and `last_ok_at` are one time where every app had a good poll."""
    return [
        {
            "app_group": STORY.group(app, END),
            "region": app.region,
            "sdk_app_id": app.sdk_app_id,
            "known_at": seen(app)[-1].confirmed,
            "last_ok_at": seen(app)[-1].confirmed,
            "last_outcome": "unavailable" if failures else "ok",
            "consecutive_failures": failures,
        }
        for app in APPS
        for failures in [questions.failures_since(app, seen(app)[-1])]
        if STORY.group(app, END) in groups
    ]


def changes_per_week(groups: Groups) -> Rows:
    counted = Counter((_week(c.seen_at), c.kind) for c in _changes(groups))
    return [
        {"seen_at": week, "time": week, "kind": kind, "metric": kind, "changes": count}
        for (week, kind), count in counted.items()
    ]


def longest_time_to_detect(groups: Groups) -> Rows:
    found = defaultdict(list)
    for c in _changes(groups):
        found[_week(c.seen_at), c.group].append((c.seen_at - c.not_before).total_seconds())
    return [
        {
            "seen_at": week,
            "time": week,
            "app_group": group,
            "metric": group,
            "seconds": max(took),
            "longest_hours": max(took) / 3600,
        }
        for (week, group), took in found.items()
    ]


def lowest_coverage_per_month(groups: Groups) -> Rows:
    """Of April to June, in each of which every app that was listed has a row."""
    found = defaultdict(list)
    for month in (4, 5, 6):
        for app in APPS:
            for group, stay in questions.stays(app, (day(month, 1), day(month + 1, 1))):
                for span in questions.cut([stay], (STORY.listed[app][0][0], END)):
                    missing = questions.length(questions.cut(questions.wide_gaps(app), span))
                    share = 100 - 100 * missing / questions.length([span])
                    found[day(month, 1), group].append(share)
    return [
        {
            "month": month,
            "time": month,
            "app_group": group,
            "metric": group,
            "covered_pct": min(shares),
            "lowest": min(shares),
        }
        for (month, group), shares in found.items()
        if group in groups
    ]


def failures_by_cause(groups: Groups) -> Rows:
    columns = "outcome error_code polls apps first_at last_at meaning advice"
    return _named(columns, questions.failures_by_cause(groups), groups)


def look_alikes(groups: Groups) -> Rows:
    rows = [
        (c.seen_at, c.group, *c.app, c.slot, c.old, c.new, questions.LOOKALIKES[c.new])
        for c in _changes(groups)
        if c.new in questions.LOOKALIKES
    ]
    columns = "seen_at app_group region sdk_app_id slot old_name new_name lookalike"
    return _named(columns, rows, groups)


def chain(groups: Groups) -> Rows:
    rows = [(STORY.group(app, END), *app, head_seq(app), True, None, head_seq(app)) for app in APPS]
    columns = "app_group region sdk_app_id rows_checked ok first_bad_seq head_seq"
    return _named(columns, rows, groups)


#: What is not as declared at the end, but for singapore: slot, what, declared, actual, since when.
_NOT_AS_DECLARED: dict[AppKey, list[tuple[int, str, str | None, str | None, str | None]]] = {
    FRANKFURT: [(0, "different", "sex", "s\u0435x", "confusable")],
    CHINA: [(1, "missing", "points", None, None), (3, "undeclared", None, "points", None)],
}


def violations(groups: Groups) -> Rows:
    """Singapore was seen longer ago than the tasks allow: none of its declared slots is known."""
    names = {0: "sex", 1: "city", 2: "Membership level"}
    last = seen(SINGAPORE)[-1]
    rows: list[tuple[Any, ...]] = [
        (last.confirmed, "shop", *SINGAPORE, slot, "unknown", name, actual, lookalike)
        for slot, name in names.items()
        for actual in [last.names[slot]]
        for lookalike in ["case" if actual != name else None]
    ]
    for app, found in _NOT_AS_DECLARED.items():
        for slot, violation, declared, actual, lookalike in found:
            [since] = [
                c.seen_at for c in changes() if c.app == app and (c.slot, c.new) == (slot, actual)
            ]
            group = STORY.group(app, END)
            rows.append((since, group, *app, slot, violation, declared, actual, lookalike))
    columns = "since app_group region sdk_app_id slot violation declared_name actual_name lookalike"
    return _named(columns, rows, groups)


def count_of_violations(groups: Groups) -> Rows:
    return [{"slots": len(violations(groups))}]


def seals(_: Groups) -> Rows:
    """The first one has everything, the second one nothing. Nobody planned in the database."""
    polls = sum(len(run.polls) for run in STORY.runs()) + 1  # the late one
    everything = (polls, sum(head_seq(app) for app in APPS))
    columns = "sealed_at closed_at n polls changes targets has_timestamp origin"
    counts = (everything, (0, 0))
    return [
        dict(
            zip(
                columns.split(), (at, at, n, *counts[n], 0, False, "example.com/audit"), strict=True
            )
        )
        for n, at in enumerate(SEALED_AT)
    ]


def stale_apps(groups: Groups) -> Rows:
    """All of them: the quarter is over."""
    return [{"apps": sum(STORY.group(app, END) in groups for app in APPS)}]


def slots_with_drift(groups: Groups) -> Rows:
    return [{"slots": len(drift_now(groups))}]


def count_of_changes(groups: Groups) -> Rows:
    return [{"changes": len(_changes(groups))}]


#: By the chart's title. What is until now, or a time line, the tests look at on their own.
SUPERSET: dict[str, Callable[[Groups], Rows]] = {
    "Violations": violations,
    "Drift now": drift_now,
    "Oldest knowledge": last_good_polls,
    "Changes per week": changes_per_week,
    "Longest time to detect": longest_time_to_detect,
    "Lowest coverage per month": lowest_coverage_per_month,
    "Failures by cause": failures_by_cause,
    "Look-alikes": look_alikes,
    "Chain": chain,
    "Seals": seals,
}
GRAFANA: dict[str, Callable[[Groups], Rows]] = {
    "Stale apps": stale_apps,
    "Slots with drift": slots_with_drift,
    "Slots not as declared": count_of_violations,
    "Violations": violations,
    "Changes": count_of_changes,
    "Drift now": drift_now,
    "Last good polls": last_good_polls,
    "Changes per week": changes_per_week,
    "Longest time to detect, per week": longest_time_to_detect,
    "Lowest coverage per month": lowest_coverage_per_month,
    "Look-alikes": look_alikes,
    "Failures by cause": failures_by_cause,
    "Chain": chain,
    "Seals": seals,
}


def name_at(app: AppKey, slot: int, at: datetime) -> str | None:
    """What the time line of names has to show at a time that is no bound; None: nothing yet."""
    for name, _, polls, _ in questions.spells(app, slot):
        if polls[0].arrived < at < polls[-1].confirmed:
            return NO_NAME if name is None else name
    return UNKNOWN if at > seen(app)[0].arrived else None


_HALF_AN_HOUR = timedelta(minutes=30)


def name_bounds(app: AppKey, slot: int) -> list[datetime]:
    """When that can change."""
    found = questions.spells(app, slot)
    bounds = [at for _, _, polls, _ in found for at in (polls[0].arrived, polls[-1].confirmed)]
    # Also where the record has a row for the same name: a type was learned, or it changed.
    rows = [row for row in recorded(app) if row.slot == slot]
    return bounds + [at for row in rows for at in (row.seen_at - _HALF_AN_HOUR, row.seen_at)]


def gap_bounds(app: AppKey) -> list[datetime]:
    """The same for the time line of polls."""
    return [STORY.listed[app][0][0], *(at for gap in questions.wide_gaps(app) for at in gap)]


def is_in_gap(app: AppKey, at: datetime) -> bool:
    return any(begin < at < end for begin, end in questions.wide_gaps(app))
