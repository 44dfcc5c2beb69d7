"""Whether the relations for questions say what `tests.replay` says of the same polls."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests import replay
from tests.replay import Attested, Episode, Gap, Life, Window

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


class Reading:
    """The record at one moment, as the reader sees it, and the lives from which it has to follow.

    ``connection``: in a transaction, whose time is the present. Other groups than those of the
    lives are left out. Each method compares, and returns what both say.
    """

    def __init__(self, connection: Connection, lives: Sequence[Life]) -> None:
        self._connection = connection
        self.lives = lives
        self._groups = sorted({group for life in lives for _, group in life.groups})
        [[self.now]] = connection.execute(text("select now()"))

    def _rows(self, columns: str, source: str, **values: Any) -> list[tuple[Any, ...]]:
        where = "app_group = any(cast(:groups as text[]))"
        statement = f"select {columns} from attr_audit.{source} where {where}"
        found = self._connection.execute(text(statement), {**values, "groups": self._groups})
        return [tuple(row) for row in found]

    def gaps(self, lo: datetime, hi: datetime, longer_than: timedelta) -> list[Gap]:
        given = self._rows("*", "gaps(:lo, :hi, :longer)", lo=lo, hi=hi, longer=longer_than)
        right = replay.gaps(self.lives, lo, hi, longer_than, self.now)
        assert sorted(given) == right, (lo, hi, longer_than, set(given) ^ set(right))
        return right

    def name_in_window(self, name: str, lo: datetime, hi: datetime) -> list[Window]:
        given = self._rows("*", "name_in_window(:name, :lo, :hi)", name=name, lo=lo, hi=hi)
        right = replay.name_in_window(self.lives, name, lo, hi, self.now)
        for row, its in zip(sorted(given), right, strict=True):
            assert row[:4] == its[:4], (name, lo, hi)
            assert row[4:7] == pytest.approx(its[4:7], abs=1e-6), (name, lo, hi, row, its)
            assert row[7] == its.verdict, (name, lo, hi, row, its)
        return right

    def attest(self, lo: datetime, hi: datetime) -> list[Attested]:
        columns = (
            "app_group, region, sdk_app_id, polls_good, polls_failed, changes, source_changes, "
            "longest_gap_seconds, first_good_at, last_good_at, verdict"
        )
        given = self._rows(columns, "attest(:lo, :hi)", lo=lo, hi=hi)
        right = replay.attest(self.lives, lo, hi)
        for row, its in zip(sorted(given, key=str), right, strict=True):
            assert row == its, (lo, hi)
        return right

    def drift_episodes(self, slots: Sequence[int]) -> list[Episode]:
        columns = (
            "app_group, slot, began_seen_at, began_not_before, ended_not_before, ended_seen_at, "
            "first_region, first_sdk_app_id, first_name, seconds"
        )
        given = sorted(self._rows(columns, "drift_episodes"), key=lambda row: row[:3])
        right = replay.drift_episodes(self.lives, slots)
        assert [row[:9] for row in given] == right
        for row, its in zip(given, right, strict=True):
            until = its.ended_seen_at or self.now
            assert row[9] == pytest.approx((until - its.began_seen_at).total_seconds())
        return right

    def changes(self) -> list[tuple[Any, ...]]:
        columns = (
            "region, sdk_app_id, seen_at, slot, not_before, app_group, old_name, new_name, "
            "moved_from_slot, detect_seconds"
        )
        right = sorted(
            (
                *(*life.app, c.seen_at, c.slot, c.not_before, life.group_at(c.seen_at)),
                *(c.old, c.new, c.moved_from, (c.seen_at - c.not_before).total_seconds()),
            )
            for life in self.lives
            for c in life.changes()
            if not c.is_baseline
        )
        assert sorted(self._rows(columns, "changes")) == right
        return right

    def coverage_by_month(self) -> int:
        given = self._rows(
            "month, app_group, region, sdk_app_id, covered_pct, polls_good, polls_failed",
            "coverage_by_month",
        )
        right = sorted(row for life in self.lives for row in _months(life, self.now))
        for row, its in zip(sorted(given), right, strict=True):
            assert row[:4] == its[:4]
            assert row[4] == pytest.approx(its[4], abs=1e-2), (row, its)
            assert row[5:] == its[5:], (row, its)
        return len(right)


def _months(life: Life, now: datetime) -> Iterator[tuple[Any, ...]]:
    """The rows that coverage_by_month has of an app, its longest gaps left out."""
    last = min(life.retired_at, now)
    month = life.first_polled_at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month <= last:
        after = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
        lo, hi = max(month, life.first_polled_at), min(after, last)
        for group, begin, end in life.stays(lo, hi) if lo < hi else ():
            missing = sum(gap.seconds for gap in replay.gaps([life], begin, end, HOUR, now))
            if not life.looks:  # never seen: nothing is covered, however short the time is
                missing = (end - begin).total_seconds()
            yield (
                *(date(month.year, month.month, 1), group, *life.app),
                100 - 100 * missing / (end - begin).total_seconds(),
                *(len(life.good(begin, end)), life.failures(begin, end)),
            )
        month = after


def windows(
    lives: Sequence[Life], begin: datetime, end: datetime, number: int, seed: int
) -> Iterator[tuple[datetime, datetime]]:
    """Windows of every length, many of which begin or end at a bound or a tick beside one."""
    rng = random.Random(seed)
    length = end - begin

    def instant() -> datetime:
        if rng.random() < 0.5:
            return begin + length * rng.uniform(-0.1, 1.1)
        life = rng.choice([life for life in lives if life.looks])
        return rng.choice(rng.choice(life.looks)[:3]) + rng.choice([-TICK, TICK * 0, TICK])

    for _ in range(number):
        lo = instant()
        hi = instant() if rng.random() < 0.5 else lo + timedelta(minutes=10 ** rng.uniform(0, 3))
        if lo != hi:
            yield min(lo, hi), max(lo, hi)
