"""The right answers to the questions of sql/questions, from `tests.quarter`'s script alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from datetime import date, datetime, timedelta
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from im_attr_audit.apps import AppKey
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.tencent.codes import lookup

from tests.quarter import (
    CHINA,
    END,
    FRANKFURT,
    SEOUL,
    SINGAPORE,
    STORY,
    Change,
    Seen,
    changes,
    day,
    failed,
    head_seq,
    seen,
)
from tests.quarter import rows as recorded

Row = tuple[Any, ...]
Span = tuple[datetime, datetime]

_HOUR = timedelta(hours=1)
_APPS = sorted(STORY.listed)
_GROUPS = ("shop", "loyalty", "coupons")
Q2 = (day(4, 1), day(7, 1))


def cut(spans: Iterable[Span], window: Span) -> list[Span]:
    cut = [(max(begin, window[0]), min(end, window[1])) for begin, end in spans]
    return [(begin, end) for begin, end in cut if begin < end]


def length(spans: Iterable[Span]) -> float:
    return sum((end - begin).total_seconds() for begin, end in spans)


def _first_polled(app: AppKey) -> datetime:
    return STORY.listed[app][0][0]


def wide_gaps(app: AppKey) -> list[Span]:
    """Where no good poll is for more than an hour, from the first poll on and without an end."""
    far = datetime.max.replace(tzinfo=END.tzinfo)
    edges = [(one.confirmed, other.asked) for one, other in pairwise(seen(app))]
    edges = [(_first_polled(app), seen(app)[0].asked), *edges, (seen(app)[-1].confirmed, far)]
    return [(begin, end) for begin, end in edges if end - begin > _HOUR]


def _failed_in(app: AppKey, span: Span) -> int:
    return sum(span[0] <= time < span[1] for time in failed(app))


def stays(app: AppKey, window: Span) -> list[tuple[str, Span]]:
    """The groups of the app in the window, and when it was in each."""
    since = STORY.groups[app]
    ends = [at for at, _ in since[1:]] + [window[1]]
    spans = [
        (group, (window[0] if number == 0 else at, end))
        for number, ((at, group), end) in enumerate(zip(since, ends, strict=True))
    ]
    return [(group, inside[0]) for group, span in spans if (inside := cut([span], window))]


def _in_quarter() -> list[Change]:
    return [change for change in changes() if Q2[0] <= change.seen_at < Q2[1]]


Spell = tuple[str | None, Seen | None, list[Seen], Seen | None]


def spells(app: AppKey, slot: int) -> list[Spell]:
    """The names of a slot: each with its polls, the poll before them and the one after them."""
    found = [
        (name, list(polls))
        for name, polls in groupby(seen(app), key=lambda poll: poll.names.get(slot))
    ]
    return [
        (
            name,
            found[i - 1][1][-1] if i else None,
            polls,
            found[i + 1][1][0] if i + 1 < len(found) else None,
        )
        for i, (name, polls) in enumerate(found)
    ]


def campaign_window() -> list[Row]:
    window, rows = (day(5, 4), day(5, 18)), []
    whole = length([window])
    for app in _APPS:
        if STORY.group(app, window[0]) != "shop":
            continue
        named = [spell for spell in spells(app, 2) if spell[0] == "Membership level"]
        sure = [(polls[0].arrived, polls[-1].confirmed) for _, _, polls, _ in named]
        certain = cut(sure, window)
        possible = cut(
            [
                (before.confirmed if before else polls[0].arrived, after.arrived if after else END)
                for _, before, polls, after in named
            ],
            window,
        )
        blind = cut(wide_gaps(app), window)
        share = [round(100 * length(spans) / whole, 2) for spans in (certain, possible)]
        verdict = "yes" if share[0] == 100 else "partly" if share[0] else "no"
        if verdict == "yes" and blind:
            verdict = "yes, with gaps"
        rows.append((*app, [2] if possible else [], *share, length(blind), verdict))
    return rows


def when_was_it_gone() -> list[Row]:
    """Runs of polls that do not see the name in any slot, each after a poll that saw it."""
    rows: list[Row] = []
    for app in _APPS:
        runs = [
            (has, list(polls))
            for has, polls in groupby(
                seen(app), key=lambda p: "Membership level" in p.names.values()
            )
        ]
        for number, (has, polls) in enumerate(runs):
            if has or not number:
                continue
            not_before, seen_at = runs[number - 1][1][-1].confirmed, polls[0].arrived
            back = runs[number + 1][1][0] if number + 1 < len(runs) else None
            lacked = polls[-1].confirmed if back else None
            rows.append(
                (
                    *(*app, not_before, seen_at, lacked, back and back.arrived),
                    *(lacked and lacked - seen_at, back and back.arrived - not_before),
                )
            )
    return sorted(rows, key=lambda row: row[:4])


def gaps() -> list[Row]:
    rows = [
        (*app, STORY.group(app, span[0]), *span, length([span]), _failed_in(app, span))
        for app in _APPS
        for span in cut(wide_gaps(app), Q2)
    ]
    return sorted(rows, key=lambda row: (row[3], row[0], row[1]))


def attest_quarter() -> list[Row]:
    rows = []
    for app in _APPS:
        for group, (begin, end) in stays(app, Q2):
            polls = [poll for poll in seen(app) if begin <= poll.asked < end]
            before = [poll for poll in seen(app) if poll.asked <= begin]
            after = [poll for poll in seen(app) if poll.asked >= end]
            changed = sum(c.app == app and begin <= c.seen_at < end for c in changes())
            switched = sum(
                one.api != other.api and begin <= other.asked < end
                for one, other in pairwise(seen(app))
            )
            watched = before and after and not cut(wide_gaps(app), (begin, end))
            verdict = (
                "changed"
                if changed
                else "source changed"
                if switched
                else "unchanged"
                if watched
                else "no change seen, with gaps"
            )
            first = (before[-1] if before else polls[0]).asked
            counts = (len(polls), _failed_in(app, (begin, end)), changed, switched)
            rows.append((group, *app, *counts, first, verdict))
    return sorted(rows)


def incremental_load() -> list[Row]:
    loaded = {FRANKFURT: 5, SINGAPORE: 4, CHINA: 2, SEOUL: 3}
    return sorted(
        (*c.app, c.seq, c.seen_at, c.slot, c.kind, c.old, c.new)
        for c in changes()
        if c.seq > loaded.get(c.app, 0)
    )


def changes_by_group() -> list[Row]:
    apps = defaultdict(list)
    for change in _in_quarter():
        apps[change.seen_at.date().replace(day=1), change.group].append(change.app)
    return [(*key, len(found), len(set(found))) for key, found in sorted(apps.items())]


def group_on_a_date() -> list[Row]:
    at = day(6, 1)
    return [
        (*app, STORY.group(app, at), _first_polled(app))
        for app in _APPS
        if _first_polled(app) <= at
    ]


#: The new names that look like the old ones.
LOOKALIKES: dict[str | None, str] = {"membership level": "case", "s\u0435x": "confusable"}


def lookalikes() -> list[Row]:
    return [
        (c.seen_at, c.group, c.app.region, c.slot, c.old, c.new, LOOKALIKES[c.new])
        for c in changes()
        if c.new in LOOKALIKES
    ]


def moved_slot() -> list[Row]:
    return [
        (to.seen_at, to.group, *to.app, to.new, left.slot, to.slot)
        for to in changes()
        for left in changes()
        if (to.app, to.run) == (left.app, left.run)
        and to.slot != left.slot
        and to.new is not None
        and to.new == left.old
    ]


Episode = tuple[str, int, datetime | None, datetime, datetime | None, AppKey, str | None]


def _episodes() -> list[Episode]:
    """(group, slot, not before, began, ended, whose change, its name), by trying every instant."""
    arrivals = {app: seen(app)[0].arrived for app in _APPS}
    moved = {at for app in _APPS for at, _ in STORY.groups[app][1:]}
    times = sorted({*(row.seen_at for app in _APPS for row in recorded(app)), *moved})

    def state(app: AppKey, group: str, slot: int, at: datetime) -> tuple[bool, str | None]:
        """Whether the app counts in the group by then, and its name."""
        if arrivals[app] > at or STORY.group(app, at) != group:
            return False, None
        return True, [poll for poll in seen(app) if poll.arrived <= at][-1].names.get(slot)

    def begins(app: AppKey, slot: int, at: datetime) -> datetime | None:
        of = [c for c in changes() if (c.app, c.slot, c.seen_at) == (app, slot, at)]
        return of[0].not_before if of else at if at in moved else None

    found: list[Episode] = []
    for group in sorted({group for app in _APPS for _, group in STORY.groups[app]}):
        for slot in range(4):
            before: dict[AppKey, tuple[bool, str | None]] = dict.fromkeys(_APPS, (False, None))
            opened: Episode | None = None
            for at in times:
                now = {app: state(app, group, slot, at) for app in _APPS}
                drifts = len({name for counts, name in now.values() if counts}) > 1
                if drifts and not opened:
                    first = next(app for app in _APPS if now[app] != before[app])
                    opened = (group, slot, begins(first, slot, at), at, None, first, now[first][1])
                elif opened and not drifts:
                    found.append((*opened[:4], at, *opened[5:]))
                    opened = None
                before = now
            if opened:
                found.append(opened)
    return sorted(found, key=lambda episode: (episode[3], episode[0], episode[1]))


def drift_since_when() -> list[Row]:
    return [
        (group, slot, lower, began, *first, name)
        for group, slot, lower, began, ended, first, name in _episodes()
        if ended is None
    ]


def drift_of_the_past() -> list[Row]:
    return [
        (group, slot, began, ended, first.region, name, (ended - began).total_seconds())
        for group, slot, _, began, ended, first, name in _episodes()
        if ended is not None
    ]


def failures_since(app: AppKey, poll: Seen) -> int:
    return _failed_in(app, (poll.asked, END))


def stale_apps() -> list[Row]:
    last = {app: seen(app)[-1] for app in _APPS}
    return [
        (*app, STORY.group(app, END), poll.confirmed, "unavailable", failures_since(app, poll))
        for app, poll in last.items()
        if poll.confirmed < day(7, 1, 12)
    ]


def failures_by_cause(groups: Container[str] = _GROUPS) -> list[Row]:
    found = defaultdict(list)
    for app in _APPS:
        for time in failed(app):
            if Q2[0] <= time < Q2[1] and STORY.group(app, time) in groups:
                failure: Any = STORY.failure(app, time)
                found[failure.outcome, failure.error_code].append((time, app))
    rows = []
    for (outcome, code), polls in found.items():
        times = [time for time, _ in polls]
        known = lookup(code) if code else None
        rows.append(
            (outcome, code, len(polls), len({app for _, app in polls}), min(times), max(times))
            + (
                (f"{known.meaning}.", f"{known.advice}.")
                if known
                else (OUTCOMES[outcome].meaning, OUTCOMES[outcome].advice)
            )
        )
    return sorted(rows, key=lambda row: -row[2])


def time_to_detect() -> list[Row]:
    took = defaultdict(list)
    for change in _in_quarter():
        took[change.group].append((change.seen_at - change.not_before).total_seconds())
    return [(group, len(all_), max(all_), median(all_)) for group, all_ in sorted(took.items())]


def coverage_by_month() -> list[Row]:
    rows = []
    for month in (4, 5, 6):
        for app in _APPS:
            for group, stay in stays(app, (day(month, 1), day(month + 1, 1))):
                for span in cut([stay], (_first_polled(app), END)):
                    if gaps := cut(wide_gaps(app), span):
                        covered = round(100 - 100 * length(gaps) / length([span]), 2)
                        longest = max(length([gap]) for gap in gaps)
                        good = sum(span[0] <= poll.asked < span[1] for poll in seen(app))
                        counts = (good, _failed_in(app, span))
                        rows.append((date(2026, month, 1), group, *app, covered, longest, *counts))
    return rows


def names_at_an_instant() -> list[Row]:
    at = day(5, 12, 8, 30)
    rows = []
    for app in _APPS:
        if STORY.group(app, at) == "shop":
            before = [poll for poll in seen(app) if poll.arrived <= at][-1]
            after = next(poll for poll in seen(app) if poll.asked >= at)
            name = before.names[2]
            rows.append((*app, name, name == after.names[2]))
    return rows


def changes_per_week() -> list[Row]:
    def monday(at: datetime) -> date:
        return (at - timedelta(days=at.weekday())).date()

    counted = Counter((monday(c.seen_at), c.kind) for c in _in_quarter())
    return [(*key, count) for key, count in sorted(counted.items())]


def names_of_a_slot() -> list[Row]:
    rows: list[Row] = []
    for name, before, polls, after in spells(FRANKFURT, 2):
        bounds = (before and before.confirmed, polls[0].arrived, polls[-1].confirmed)
        rows.append((name, *bounds, after and after.arrived))
    return rows


def is_the_record_intact() -> list[Row]:
    return [(*app, head_seq(app), True, None, head_seq(app)) for app in _APPS]


def evidence_of_a_change() -> list[Row]:
    rows = []
    for c in changes():
        if c.app.region == "frankfurt" and day(5, 12) <= c.seen_at < day(5, 14):
            [poll] = [poll for poll in seen(c.app) if poll.run == c.run]
            reads = (poll.asked, "ok", 2, 2.1)
            rows.append((c.seen_at, c.app.region, c.slot, c.old, c.new, c.run, *reads))
    return rows


#: Question (its file's name without the number) → its right answer.
ANSWERS: dict[str, Callable[[], list[Row]]] = {
    answer.__name__: answer
    for answer in (
        campaign_window,
        when_was_it_gone,
        gaps,
        attest_quarter,
        incremental_load,
        changes_by_group,
        group_on_a_date,
        lookalikes,
        moved_slot,
        drift_since_when,
        drift_of_the_past,
        stale_apps,
        failures_by_cause,
        time_to_detect,
        coverage_by_month,
        names_at_an_instant,
        changes_per_week,
        names_of_a_slot,
        is_the_record_intact,
        evidence_of_a_change,
    )
}
