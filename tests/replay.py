"""Answers to an analyst's questions, by brute force: from what each poll truly saw, one by one.

Knows neither the database nor its rules of recording. Every question is answered by cutting time at
every bound that occurs and looking at each piece in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from im_attr_audit.apps import AppKey
from im_attr_audit.names import AttrName

HOUR = timedelta(hours=1)
NEVER = datetime.max.replace(tzinfo=UTC)


class Look(NamedTuple):
    """A good poll: its first request, when what it saw was first seen, its last request."""

    asked_at: datetime
    seen_at: datetime
    looked_at: datetime
    names: dict[int, AttrName]
    api: str | None


class Change(NamedTuple):
    """A difference between two looks."""

    seen_at: datetime
    not_before: datetime
    slot: int
    old: str | None
    new: str | None
    is_baseline: bool
    moved_from: int | None


@dataclass
class Life:
    """One app: its polls, and from when on it was in which group."""

    app: AppKey
    first_polled_at: datetime = NEVER
    looks: list[Look] = field(default_factory=list)
    failed: list[datetime] = field(default_factory=list)
    groups: list[tuple[datetime, str]] = field(default_factory=list)
    retired_at: datetime = NEVER

    def jump(self, by: timedelta) -> None:
        """The database's clock jumps ahead by so much: the past becomes older by that."""
        if self.first_polled_at != NEVER:
            self.first_polled_at -= by
        self.looks = [
            look._replace(
                asked_at=look.asked_at - by,
                seen_at=look.seen_at - by,
                looked_at=look.looked_at - by,
            )
            for look in self.looks
        ]
        self.failed = [at - by for at in self.failed]

    def stays(self, lo: datetime, hi: datetime) -> Iterator[tuple[str, datetime, datetime]]:
        """Its groups in a window, each with the part of the window; the first reaches back."""
        for number, (since, group) in enumerate(self.groups):
            begin = lo if number == 0 else max(lo, since)
            end = min(hi, self.groups[number + 1][0]) if number + 1 < len(self.groups) else hi
            if begin < end:
                yield group, begin, end

    def group_at(self, at: datetime) -> str:
        return [g for since, g in self.groups if since <= at or since == self.groups[0][0]][-1]

    def gaps(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Between every two good polls; before the first and after the last one, too."""
        known = [
            (self.first_polled_at, self.first_polled_at),
            *((look.asked_at, look.looked_at) for look in self.looks),
            (now, now),
        ]
        for (_, left), (right, _) in itertools.pairwise(known):
            yield left, right

    def failures(self, lo: datetime, hi: datetime) -> int:
        return sum(lo <= at < hi for at in self.failed)

    def good(self, lo: datetime, hi: datetime) -> list[Look]:
        return [look for look in self.looks if lo <= look.asked_at < hi]

    def changes(self) -> Iterator[Change]:
        """Every difference between consecutive looks."""
        for before, after in itertools.pairwise(self.looks):
            differing = [
                slot
                for slot in sorted(before.names.keys() | after.names.keys())
                if before.names.get(slot) != after.names.get(slot)
            ]
            for slot in differing:
                old, new = before.names.get(slot), after.names.get(slot)
                learned = bool(old and new and old.name == new.name and old.type is None)
                left = [
                    other
                    for other in differing
                    if other != slot
                    and new is not None
                    and (was := before.names.get(other)) is not None
                    and was.name == new.name
                    and ((now_is := after.names.get(other)) is None or now_is.name != was.name)
                ]
                stays = bool(old and new and old.name == new.name)
                yield Change(
                    after.seen_at,
                    before.looked_at,
                    slot,
                    old and old.name,
                    new and new.name,
                    learned or before.api != after.api,
                    min(left, default=None) if not stays else None,
                )

    def state(self, name: str, left: datetime, right: datetime) -> tuple[bool, bool]:
        """Whether it certainly had the name in a piece of time that has no bound inside, and
        whether possibly.

        No instant inside: a piece can be as short as a tick.
        """
        number = sum(look.seen_at <= left for look in self.looks)
        if number == 0:
            return False, True
        here = _slots(self.looks[number - 1], name)
        if right <= self.looks[number - 1].looked_at:
            return bool(here), bool(here)
        if number == len(self.looks):
            return False, True
        after = _slots(self.looks[number], name)
        return bool(here & after), bool(here | after)


class Absence(NamedTuple):
    """A time without a name that the app had before: the bounds of its loss and of its return."""

    region: str
    sdk_app_id: int
    not_before: datetime
    seen_at: datetime
    back_not_before: datetime | None
    back_seen_at: datetime | None


def absences(lives: Iterable[Life], name: str) -> list[Absence]:
    """Of a name, whatever the slot: looks in a row that do not see it, after one that did."""
    found = []
    for life in lives:
        grouped = itertools.groupby(life.looks, lambda look: bool(_slots(look, name)))
        runs = [(has, list(looks)) for has, looks in grouped]
        for before, (has, looks), after in zip(
            [None, *runs], runs, [*runs[1:], None], strict=False
        ):
            if before and not has:
                lost = (before[1][-1].looked_at, looks[0].seen_at)
                back = (looks[-1].looked_at, after[1][0].seen_at) if after else (None, None)
                found.append(Absence(*life.app, *lost, *back))
    return found


def _slots(look: Look, name: str) -> set[int]:
    return {slot for slot, each in look.names.items() if each.name == name}


def _pieces(
    lo: datetime, hi: datetime, bounds: Iterable[datetime]
) -> Iterator[tuple[datetime, datetime]]:
    """Every piece between two bounds."""
    yield from itertools.pairwise(sorted({lo, hi, *(b for b in bounds if lo < b < hi)}))


def _bounds(life: Life) -> list[datetime]:
    return [at for look in life.looks for at in look[:3]]


class Gap(NamedTuple):
    """A row of gaps."""

    gap_from: datetime
    gap_to: datetime
    app_group: str
    region: str
    sdk_app_id: int
    seconds: float
    polls_failed: int


def gaps(
    lives: Sequence[Life], lo: datetime, hi: datetime, longer_than: timedelta, now: datetime
) -> list[Gap]:
    """What gaps() has to return, sorted."""
    rows = []
    for life in lives:
        for left, right in life.gaps(now):
            if right - left <= longer_than:
                continue
            for group, begin, end in life.stays(lo, hi):
                first, last = max(left, begin), min(right, end)
                if first < last:
                    seconds = (last - first).total_seconds()
                    failed = life.failures(first, last)
                    rows.append(Gap(first, last, group, *life.app, seconds, failed))
    return sorted(rows)


class Window(NamedTuple):
    """A row of name_in_window."""

    app_group: str
    region: str
    sdk_app_id: int
    slots: list[int]
    certain_pct: float
    possible_pct: float
    blind_seconds: float
    verdict: str


def name_in_window(
    lives: Sequence[Life], name: str, lo: datetime, hi: datetime, now: datetime
) -> list[Window]:
    """What name_in_window() has to return, sorted by group and app."""
    rows = []
    for life in lives:
        if life.retired_at <= lo:
            continue
        wide = [gap for gap in list(life.gaps(now))[1:-1] if gap[1] - gap[0] > HOUR]
        for group, begin, end in life.stays(lo, hi):
            certain = possible = blind = timedelta(0)
            cuts = [*_bounds(life), *itertools.chain.from_iterable(wide)]
            for left, right in _pieces(begin, end, cuts):
                length = right - left
                sure, maybe = life.state(name, left, right)
                certain += length * sure
                possible += length * maybe
                known = (
                    bool(life.looks)
                    and life.looks[0].seen_at <= left
                    and right <= life.looks[-1].looked_at
                )
                blind += length * (not known or any(a <= left and right <= b for a, b in wide))
            whole = end - begin
            if certain == whole and not blind:
                verdict = "yes"
            elif certain and possible == whole:
                verdict = "yes, with gaps"
            elif certain:
                verdict = "partly"
            else:
                verdict = "unknown" if possible else "no"
            rows.append(
                Window(
                    group,
                    *life.app,
                    _slots_in(life, name, begin, end),
                    100 * (certain / whole),
                    100 * (possible / whole),
                    blind.total_seconds(),
                    verdict,
                )
            )
    return sorted(rows)


def _slots_in(life: Life, name: str, lo: datetime, hi: datetime) -> list[int]:
    """The slots in which it was or can have been seen in the window."""
    found = set()
    for number, look in enumerate(life.looks):
        begin = life.looks[number - 1].looked_at if number else datetime.min.replace(tzinfo=UTC)
        end = life.looks[number + 1].seen_at if number + 1 < len(life.looks) else NEVER
        if begin < hi and end > lo:
            found |= _slots(look, name)
    return sorted(found)


class Attested(NamedTuple):
    """A row of attest, the chain's head left out."""

    app_group: str
    region: str
    sdk_app_id: int
    polls_good: int
    polls_failed: int
    changes: int
    source_changes: int
    longest_gap_seconds: float
    first_good_at: datetime | None
    last_good_at: datetime | None
    verdict: str


def attest(lives: Sequence[Life], lo: datetime, hi: datetime) -> list[Attested]:
    """What attest() has to return, sorted by group and app."""
    return sorted(
        (
            _attest(life, group, begin, end)
            for life in lives
            if life.retired_at > lo
            for group, begin, end in life.stays(lo, hi)
        ),
        key=str,
    )


def _attest(life: Life, group: str, lo: datetime, hi: datetime) -> Attested:
    good = life.good(lo, hi)
    before = [look for look in life.looks if look.asked_at <= lo]
    after = [look for look in life.looks if look.asked_at >= hi]
    changes = [c for c in life.changes() if not c.is_baseline]
    inside = [c for c in changes if lo <= c.seen_at < hi]
    switches = [b for a, b in itertools.pairwise(life.looks) if a.api != b.api]
    sources = sum(lo <= look.asked_at < hi for look in switches)
    shown = {c.seen_at for c in life.changes() if c.is_baseline and c.old != c.new}
    sources = max(sources, sum(lo <= at < hi for at in shown))
    # Without a good poll: before the first and after the last one as well.
    first = datetime.min.replace(tzinfo=UTC)
    around = [(first, first), *((k.asked_at, k.looked_at) for k in life.looks), (NEVER, NEVER)]
    cut = [
        (min(b, hi) - max(a, lo), b - a)
        for (_, a), (b, _) in itertools.pairwise(around)
        if a < hi and b > lo
    ]
    widest = max((length for _, length in cut), default=timedelta(0))
    if inside:
        verdict = "changed"
    elif sources:
        verdict = "source changed"
    elif not good and (not before or not after or widest > HOUR):
        verdict = "not watched"
    elif (
        before
        and after
        and widest <= HOUR
        and not any(c.not_before < hi <= c.seen_at for c in changes)
        and after[0] not in switches
    ):
        verdict = "unchanged"
    else:
        verdict = "no change seen, with gaps"
    return Attested(
        group,
        *life.app,
        len(good),
        life.failures(lo, hi),
        len(inside),
        sources,
        max((length.total_seconds() for length, _ in cut), default=0),
        before[-1].asked_at if before else (good + after)[0].asked_at if good + after else None,
        after[0].asked_at if after else (before + good)[-1].asked_at if before + good else None,
        verdict,
    )


class Episode(NamedTuple):
    """A row of drift_episodes, without its seconds."""

    app_group: str
    slot: int
    began_seen_at: datetime
    began_not_before: datetime | None
    ended_not_before: datetime | None
    ended_seen_at: datetime | None
    first_region: str
    first_sdk_app_id: int
    first_name: str | None


_ABSENT = "absent", None


def drift_episodes(lives: Sequence[Life], slots: Iterable[int]) -> list[Episode]:
    """What drift_episodes has to return, sorted by group, slot and time."""
    times = sorted(
        {look.seen_at for life in lives for look in life.looks}
        | {since for life in lives for since, _ in life.groups}
        | {life.retired_at for life in lives if life.retired_at != NEVER}
    )
    episodes = []
    for group in sorted({group for life in lives for _, group in life.groups}):
        for slot in slots:
            before: dict[AppKey, tuple[str, str | None]] = {}
            began: tuple[datetime, datetime | None, AppKey, str | None] | None = None
            for at in times:
                states = {life.app: _member(life, group, slot, at) for life in lives}
                drifts = _drifts([name for here, name in states.values() if here == "here"])
                turned = sorted(
                    (life for life in lives if states[life.app] != before.get(life.app, _ABSENT)),
                    key=lambda life: life.app,
                )
                if drifts and began is None:
                    bound = _bound(turned[0], at, before.get(turned[0].app, _ABSENT))
                    began = at, bound, turned[0].app, states[turned[0].app][1]
                elif not drifts and began is not None:
                    bound = _bound(turned[0], at, before.get(turned[0].app, _ABSENT))
                    episodes.append(
                        Episode(group, slot, *began[:2], bound, at, *began[2], began[3])
                    )
                    began = None
                before = states
            if began is not None:
                episodes.append(Episode(group, slot, *began[:2], None, None, *began[2], began[3]))
    return episodes


def _member(life: Life, group: str, slot: int, at: datetime) -> tuple[str, str | None]:
    """Whether the app counts in the group, and the name it was last seen with."""
    seen = [look for look in life.looks if look.seen_at <= at]
    if not seen or at >= life.retired_at or life.group_at(at) != group:
        return _ABSENT
    name = seen[-1].names.get(slot)
    return "here", name and name.name


def _drifts(names: list[str | None]) -> bool:
    named = [name for name in names if name is not None]
    return len(set(named)) > 1 or (bool(named) and len(named) < len(names))


def _bound(life: Life, at: datetime, before: tuple[str, str | None]) -> datetime | None:
    """The earliest time at which what the app was seen to do at the time can have happened."""
    for number, look in enumerate(life.looks):
        if look.seen_at == at:
            return life.looks[number - 1].looked_at if number else None
    return at
