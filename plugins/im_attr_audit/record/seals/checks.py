"""Whether what was sealed is still there, row by row, and nothing was put among it.

Each seal's rows are hashed again from what is stored. Where they do not give the root in the
seal's leaf, the marks in the seal's file name the first row that is not as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Literal

from sqlalchemy import Connection, Engine, text

from im_attr_audit.evidence.bundle import MARKS, Seal
from im_attr_audit.evidence.canonical import CHANGE
from im_attr_audit.evidence.note import BadNote
from im_attr_audit.record.checks.parts import without_garbage_collection
from im_attr_audit.record.checks.tables import KEPT_SINCE
from im_attr_audit.record.seals.hashes import (
    Hashed,
    Misdated,
    hash_stretches,
    misdated,
    stretch_of,
    stretches,
)
from im_attr_audit.record.seals.listed import CLOCKS_US
from im_attr_audit.record.seals.log import Log
from im_attr_audit.record.seals.marks import hash_of_marks, signed_hash
from im_attr_audit.record.seals.rows import END, KINDS, Batch, Heads, Kind, read_batches

#: Seals whose first bad row is looked for.
_NAMED = 20
#: A poll is recorded within the hour in which it was sent: `verify` reports any other.
_UNDER_WAY_US = 3600 * 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOLDED = """
select distinct date_trunc('month', c.from_at, 'UTC') as month from only attr_audit.coverage as c
"""
# Without those whose rows are kept, for a change cites them.
_FOLDED_POLLS = """
select coalesce((select sum(c.polls) from only attr_audit.coverage as c
                  where c.from_at >= :kept_since), 0)
       - (select count(*) from attr_audit.poll as p where p.is_folded)
"""


@dataclass(slots=True)
class SealCheck:
    """What was found. ``findings`` are sentences; ``notes`` are worth a look and are no findings.

    ``rows``: how many sealed rows were hashed. ``waiting``: rows that no seal covers yet.
    """

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    waiting: int = 0


def at(microseconds: int) -> str:
    """A time as a person reads it."""
    return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%d %H:%M:%S}Z"


@without_garbage_collection()
def check_sealed_rows(
    connection: Connection,
    log: Log,
    take: Callable[[Kind, Batch], None] = lambda _kind, _batch: None,
    *,
    engine: Engine | None = None,
    chosen: Sequence[int] | None = None,
) -> SealCheck:
    """Check sealed rows, in the transaction that `prepare_sealed` has set up. Raises PartFailed.

    ``take`` is given the rows that no seal covers yet, in order: they are read once. ``engine``:
    what other processes connect with; None: there are none. ``chosen``: only the rows of these
    seals (numbers, in order) and those that no seal covers; None: all.
    """
    found = SealCheck()
    seals = log.seals
    lacking = _Lacking(
        _kept_since(connection, seals),
        frozenset(connection.execute(text(_FOLDED)).scalars()) if seals else frozenset(),
    )
    numbers = range(len(seals)) if chosen is None else chosen
    work = [part for kind in KINDS for part in stretches(kind, seals, numbers)]
    heads = Heads(connection)
    hashed = hash_stretches(connection, engine, work, heads)
    # Changes first: where one differs, so do the polls whose head it is.
    for kind in sorted(KINDS, key=lambda kind: kind.type != CHANGE):
        look = _Look(connection, kind, log, lacking, found)
        for part in hashed:
            if part.kind == kind.number:
                look.report(part)
        last = seals[-1].last[kind.number] if seals else -END
        since = seals[-1].closed_us if seals else None
        is_reported = False
        for batch in read_batches(connection, kind, last, END, heads):
            if not is_reported and (bad := misdated(kind, batch, 0, len(batch), since, None)):
                look.report_date(Misdated(None, *bad))
                is_reported = True
            found.waiting += len(batch)
            take(kind, batch)
    if chosen is None:
        _check_folds(connection, lacking, found)
    return found


@dataclass(slots=True)
class _Lacking:
    """Polls that retention dropped or folded. ``missing``: so many of folded months are gone."""

    kept_since: int
    folded: frozenset[datetime]
    missing: int = 0

    def reason(
        self, kind: Kind, seal: Seal, before: Seal | None
    ) -> tuple[str, Literal["dropped", "folded"]] | None:
        """Why polls of the seal may lack; None: they may not. ``before``: the seal before it.

        `polls_from` is not signed, and whoever edits it must not excuse a poll: the time at which
        the seal before it closed is, and no poll of this one was sent long before that.
        """
        if kind.number != 0 or seal.polls_from is None:
            return None
        since = seal.polls_from
        if before is not None:
            since = max(since, before.closed_us - _UNDER_WAY_US - CLOCKS_US)
        if since < self.kept_since:
            return f"polls before {at(self.kept_since)} are not kept", "dropped"
        begin = _EPOCH + timedelta(microseconds=since)
        end = _EPOCH + timedelta(microseconds=seal.closed_us)
        month = begin.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if any(month <= folded <= end for folded in self.folded):
            return f"good polls of {month:%Y-%m} are folded", "folded"
        return None


def _check_folds(connection: Connection, lacking: _Lacking, found: SealCheck) -> None:
    """No more polls may be missing than spans say were folded."""
    if not lacking.missing:
        return
    kept = _EPOCH + timedelta(microseconds=lacking.kept_since)
    folded = connection.execute(text(_FOLDED_POLLS), {"kept_since": kept}).scalar_one()
    if lacking.missing > folded:
        found.findings.append(
            f"{lacking.missing} sealed polls of folded months are gone, and attr_audit.coverage "
            f"holds {folded} of them"
        )


def _kept_since(connection: Connection, seals: Sequence[Seal]) -> int:
    """Polls of earlier months were dropped; 0: none were, or it was not retention."""
    since = connection.execute(text(KEPT_SINCE)).scalar_one()
    if since is None or not seals:
        return 0
    # Retention keeps the running month, whatever it is asked for.
    running = _EPOCH + timedelta(microseconds=seals[-1].closed_us)
    is_retention = since <= running.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (since - _EPOCH) // timedelta(microseconds=1) if is_retention else 0


@dataclass(slots=True)
class _Look:
    """Names what is not as it was sealed, of one kind of rows."""

    connection: Connection
    kind: Kind
    log: Log
    lacking: _Lacking
    found: SealCheck
    bad: int = 0

    def report(self, part: Hashed) -> None:
        """What was found in some seals."""
        self.found.rows += part.rows
        for number, size in part.unlike:
            if not self._may_lack(number, size):
                self.bad += 1
                self._explain(number)
        for each in part.misdated:
            self.report_date(each)

    def report_date(self, row: Misdated) -> None:
        """A row that was not recorded when its seal was open."""
        seals = self.log.seals
        when = "a time that cannot be" if row.time is None else at(row.time)
        number = len(seals) if row.seal is None else row.seal
        where = "no seal yet"
        if row.seal is not None:
            where = f"seal {number}, closed at {at(seals[number].closed_us)}"
        before = f"; seal {number - 1} closed at {at(seals[number - 1].closed_us)}"
        self.found.findings.append(
            f"{row.label} is dated falsely: its recorded_at is {when}, and it is in {where}"
            f"{before if number else ''}"
        )

    def _may_lack(self, number: int, size: int) -> bool:
        """Whether polls of the seal may lack; what is left must be as sealed, in its order."""
        seal = self.log.seals[number]
        before = self.log.seals[number - 1] if number else None
        excuse = self.lacking.reason(self.kind, seal, before)
        count, _ = seal.rows(self.kind.number)
        if excuse is None or size >= count:
            return False
        reason, how = excuse
        what = f"{count - size} of its {count} polls cannot be checked"
        kept = self._kept(number) if size else []
        if kept is None:
            what = (
                f"none of its {count} polls can be checked, and {count - size} are missing: it has "
                "no marks of them"
            )
        elif size:
            rows, hashes = self._rows(number)
            bytes_ = len(kept[0])
            if (odd := _first_other([hash_[:bytes_] for hash_ in hashes], kept)) is not None:
                label = self.kind.label(rows[odd])
                self.found.findings.append(f"{_where(seal)}: {label} is not as it was sealed")
                return True
            if bytes_ < MARKS[0]:
                what += (
                    f", and the other {size} only by {bytes_} bytes of their hashes, which a "
                    "forged poll can be made to have"
                )
        self.found.notes.append(f"{_where(seal)}: {what}; {reason}")
        if how == "folded":
            self.lacking.missing += count - size
        return True

    def _explain(self, number: int) -> None:
        what = f"its {self.kind.plural} are not as they were sealed"
        if self.bad <= _NAMED and (kept := self._kept(number)) is not None:
            rows, hashes = self._rows(number)
            size = len(kept[0]) if kept else 0
            what = _first_difference(self.kind, rows, [hash_[:size] for hash_ in hashes], kept)
        self.found.findings.append(f"{_where(self.log.seals[number])}: {what}")

    def _kept(self, number: int) -> list[bytes] | None:
        """The marks; a finding where they are not those that the seal's checkpoint signs."""
        seal, what = self.log.seals[number], "its marks are missing or edited"
        try:
            signed = signed_hash(self.log.signed(number))
        except BadNote as error:
            signed, what = "", f"its checkpoint was edited: {error}"
        whole = self.log.whole(number)
        if signed is not None and hash_of_marks(whole.marks) != signed:
            self.found.findings.append(f"{_where(seal)}: its rows cannot be compared: {what}")
            return None
        return whole.marks_of(self.kind.number)

    def _rows(self, number: int) -> tuple[list[list[bytes]], list[bytes]]:
        """The columns that name a row, and the hashes."""
        [end] = (part := stretch_of(self.kind, self.log.seals, number, number + 1)).ends
        rows: list[list[bytes]] = []
        hashes: list[bytes] = []
        for batch in read_batches(self.connection, self.kind, part.after, end.last):
            rows += [batch.row(place)[:4] for place in range(len(batch))]
            hashes += batch.hashes
        return rows, hashes


def _where(seal: Seal) -> str:
    return f"seal {seal.n}, closed at {at(seal.closed_us)}"


def _first_other(marks: Sequence[bytes], kept: Sequence[bytes]) -> int | None:
    """The first mark that ``kept`` does not have after those before it; None: it has all."""
    others = iter(kept)
    return next((at for at, mark in enumerate(marks) if mark not in others), None)


def _first_difference(
    kind: Kind,
    rows: Sequence[Sequence[bytes]],
    marks: Sequence[bytes],
    kept: Sequence[bytes],
) -> str:
    pairs = enumerate(zip_longest(marks, kept))
    first = next((place for place, (now, then) in pairs if now != then), None)
    if first is None:
        return f"its {kind.plural} are not as they were sealed"
    label = kind.label(rows[first]) if first < len(rows) else ""
    if len(marks) < len(kept):
        places = [f"after {kind.label(rows[first - 1])}"] if first else []
        places += [f"before {label}"] if label else []
        place = " and ".join(places) or "all of them"
        return f"{len(kept) - len(marks)} {kind.plural} are gone, the first {place}"
    if len(marks) > len(kept):
        return f"{label} was added after it closed"
    if sorted(marks) == sorted(kept):
        return f"{label} is not at its place: rows were put in another order"
    return f"{label} is not as it was sealed"
