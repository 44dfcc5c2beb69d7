"""Whether no more sealed polls are missing than folds have removed, month by month."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from im_attr_audit.evidence.canonical import COVERAGE
from im_attr_audit.record.seals.log import Log

#: Rows of one sort that are named.
_NAMED = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOLDS = """
select to_char(c.from_at at time zone 'UTC', 'YYYY-MM') as month,
       (date_part('epoch', c.folded_at) * 1e6::float8)::int8 as folded_us,
       sum(c.polls)::int8 as polls
  from only attr_audit.coverage as c
 where c.from_at between timestamptz '1970-01-01 00:00Z' and timestamptz '9999-01-01 00:00Z'
 group by 1, 2
"""
# A good poll that is kept: the fold that has its time, and whether its row says so.
_KEPT = """
select p.poll_id, p.region, p.sdk_app_id, p.is_folded is true as is_marked, s.folded_us
  from attr_audit.poll as p
  left join lateral (
       select (date_part('epoch', c.folded_at) * 1e6::float8)::int8 as folded_us
         from only attr_audit.coverage as c
        where c.region = p.region and c.sdk_app_id = p.sdk_app_id
          and p.requested_at between c.from_at and c.to_at
          and (date_part('epoch', p.requested_at - c.from_at) * 1e6::float8)::int8
              = any(c.asked_us)
        limit 1) as s on true
 where p.outcome = 'ok' and p.requested_at >= :begins_at and p.requested_at < :ends_at
   and (p.is_folded is true or s.folded_us is not null)
"""
_MARKED_ELSEWHERE = """
select p.poll_id, p.region, p.sdk_app_id
  from attr_audit.poll as p
 where p.is_folded is true and (p.outcome <> 'ok' or date_trunc('month', p.requested_at, 'UTC')
                                                     <> all(cast(:months as timestamptz[])))
 order by p.poll_id
 limit 21
"""

# A fold keeps each poll that a change cites. It was made near the time at which the change was
# seen, nearly always; what is not found there is looked up by its number.
_CITED = """
select c.region, c.sdk_app_id, c.seq, c.poll_id
  from only attr_audit.change as c
 where c.seen_at >= :begins_at and c.seen_at < :ends_at and c.poll_id is not null
   and not exists (select from attr_audit.poll as p
                    where p.region = c.region and p.sdk_app_id = c.sdk_app_id
                      and p.poll_id = c.poll_id
                      and p.requested_at between c.seen_at - interval '1 day'
                                             and c.seen_at + interval '1 day')
"""
_EXISTS = "select exists (select from attr_audit.poll as p where p.poll_id = :poll_id)"


@dataclass(slots=True)
class _Fold:
    """A month's polls of one fold. ``listed``: the first seal that was made after it, if known."""

    month: str
    polls: int
    listed: int | None


@dataclass(slots=True)
class Folds:
    """What was folded, and how many sealed polls are missing for it.

    ``folds``: by month and time of the fold.
    """

    findings: list[str] = field(default_factory=list)
    folds: dict[tuple[str, int], _Fold] = field(default_factory=dict)
    #: How many polls are missing, by the first and the last month that they can be of, and seal.
    _missing: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    @property
    def months(self) -> set[str]:
        """The months of which good polls were folded."""
        return {fold.month for fold in self.folds.values()}

    def months_of(self, number: int) -> set[str]:
        """The months of which polls of the seal can have been folded: not before it was made."""
        return {f.month for f in self.folds.values() if f.listed is None or f.listed > number}

    def claim(self, first: str, last: str, number: int, missing: int) -> None:
        """So many good polls of the seal are missing, of these months."""
        if missing:
            self._missing[first, last, number] += missing

    def check(self, connection: Connection, kept_since: int) -> list[str]:
        """What is wrong, once every seal was looked at. ``kept_since``: see `Lacking`."""
        if self.folds:
            self._check_kept(connection)
            self._check_cited(connection, kept_since)
        self._check_numbers()
        return self.findings

    def _check_kept(self, connection: Connection) -> None:
        findings: list[str] = []
        for month in sorted(self.months):
            begins_at = _begin_of(month)
            given = {"begins_at": begins_at, "ends_at": _end_of(begins_at)}
            for row in connection.execute(text(_KEPT), given):
                what = f"poll {row.poll_id} of {row.region}/{row.sdk_app_id}"
                if row.folded_us is not None:
                    if (fold := self.folds.get((month, row.folded_us))) is not None:
                        fold.polls -= 1
                    if not row.is_marked:
                        findings.append(
                            f"{what} is in attr_audit.coverage and not marked as folded"
                        )
                else:
                    findings.append(f"{what} is marked as folded and not in attr_audit.coverage")
        months = [_begin_of(month) for month in self.months]
        for row in connection.execute(text(_MARKED_ELSEWHERE), {"months": months}):
            what = f"poll {row.poll_id} of {row.region}/{row.sdk_app_id}"
            findings.append(f"{what} is marked as folded and not in attr_audit.coverage")
        self._find(findings, "other polls are wrongly marked as folded")

    def _check_cited(self, connection: Connection, kept_since: int) -> None:
        # A change of the first hour can be of a poll of the month before.
        known_from = _EPOCH + timedelta(microseconds=kept_since, hours=1)
        findings: list[str] = []
        for month in sorted(self.months):
            begins_at = _begin_of(month)
            given = {
                "begins_at": max(begins_at, known_from),
                "ends_at": _end_of(begins_at),
            }
            for row in connection.execute(text(_CITED), given).all():
                if not connection.execute(text(_EXISTS), {"poll_id": row.poll_id}).scalar_one():
                    change = f"change {row.region}/{row.sdk_app_id} seq {row.seq}"
                    findings.append(f"poll {row.poll_id} is gone, and {change} cites it")
        self._find(findings, "other polls are gone that changes cite")

    def _find(self, findings: list[str], others: str) -> None:
        """Add the first of these, and how many others there are."""
        self.findings += findings[:_NAMED]
        if len(findings) > _NAMED:
            self.findings.append(f"{len(findings) - _NAMED} {others}")

    def _check_numbers(self) -> None:
        """Months of which more polls are missing than were folded after their seals were made."""
        since = sorted({0, *(f.listed for f in self.folds.values() if f.listed is not None)})
        missing: Counter[tuple[str, str, int]] = Counter()
        for (first, last, number), polls in self._missing.items():
            missing[first, last, max(each for each in since if each <= number)] += polls
        for begin, end in sorted({(first, last) for first, last, _ in missing}):
            for number in since:
                gone = sum(
                    polls
                    for (first, last, at), polls in missing.items()
                    if begin <= first and last <= end and at >= number
                )
                folded = sum(
                    fold.polls
                    for fold in self.folds.values()
                    if begin <= fold.month <= end and (fold.listed is None or fold.listed > number)
                )
                if gone > folded:
                    span = begin if begin == end else f"{begin} to {end}"
                    self.findings.append(
                        f"{gone} sealed polls of folded months ({span}) are gone, and "
                        f"attr_audit.coverage holds {folded} of them"
                    )
                    break


def read_folds(connection: Connection, log: Log) -> Folds:
    """What was folded, in the transaction of `prepare_sealed`."""
    listed: dict[int, int] = {}
    for number, checkpoint in enumerate(log.checkpoints):
        for line in checkpoint.extensions:
            if line.startswith(f'["{COVERAGE}",'):
                # That fold was there when the rows of this seal were read.
                listed.setdefault(int(json.loads(line)[1]), number)
    found = Folds()
    for month, folded_us, polls in connection.execute(text(_FOLDS)).tuples():
        found.folds[month, folded_us] = _Fold(month, polls, listed.get(folded_us))
    return found


def _end_of(begins_at: datetime) -> datetime:
    return (begins_at + timedelta(days=31)).replace(day=1)


def _begin_of(month: str) -> datetime:
    return datetime.fromisoformat(f"{month}-01T00:00:00+00:00")
