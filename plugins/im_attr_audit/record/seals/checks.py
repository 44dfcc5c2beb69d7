"""Whether what was sealed is still there, row by row, and nothing was put among it.

Each seal's rows are hashed again from what is stored. Where they do not give the root in the
seal's leaf, the marks in the seal's file name the first row that is not as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from sqlalchemy import Connection, Engine

from im_attr_audit.evidence.bundle import MARKS, Seal
from im_attr_audit.evidence.canonical import CHANGE
from im_attr_audit.evidence.note import BadNote
from im_attr_audit.record.checks.parts import without_garbage_collection
from im_attr_audit.record.seals.hashes import (
    Hashed,
    Misdated,
    hash_stretches,
    misdated,
    stretch_of,
    stretches,
)
from im_attr_audit.record.seals.lacking import Lacking, at, read_lacking
from im_attr_audit.record.seals.log import Log
from im_attr_audit.record.seals.marks import hash_of_marks, signed_hash
from im_attr_audit.record.seals.months import count_months, signed_months
from im_attr_audit.record.seals.rows import END, KINDS, Batch, Heads, Kind, read_batches
from im_attr_audit.text_format import counted

#: Seals whose first bad row is looked for.
_NAMED = 20


@dataclass(slots=True)
class SealCheck:
    """What was found. ``findings`` are sentences; ``notes`` are worth a look and are no findings.

    ``rows``: how many sealed rows were hashed. ``waiting``: rows that no seal covers yet.
    """

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    waiting: int = 0


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
    lacking = read_lacking(connection, log)
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
        found.findings += lacking.folds.check(connection, lacking.kept_since)
    return found


@dataclass(slots=True)
class _Look:
    """Names what is not as it was sealed, of one kind of rows."""

    connection: Connection
    kind: Kind
    log: Log
    lacking: Lacking
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
        when = "an invalid time" if row.time is None else at(row.time)
        number = len(seals) if row.seal is None else row.seal
        where = "no seal yet"
        if row.seal is not None:
            where = f"seal {number}, closed at {at(seals[number].closed_us)}"
        before = f"; seal {number - 1} closed at {at(seals[number - 1].closed_us)}"
        self.found.findings.append(
            f"{row.label} has a false date: its recorded_at is {when}, but it is in {where}"
            f"{before if number else ''}"
        )

    def _may_lack(self, number: int, size: int) -> bool:
        """Whether polls of the seal may lack; what is left must be as sealed, in its order."""
        seal = self.log.seals[number]
        before = self.log.seals[number - 1] if number else None
        count, _ = seal.rows(self.kind.number)
        if self.kind.number != 0 or size >= count:
            return False
        try:
            months = signed_months(self.log.signed(number))
        except BadNote:
            return False
        if not self.lacking.may_miss(number, seal, before, months):
            return False
        rows, hashes = self._rows(number) if size else ([], [])
        only, odd = self._compare_rest(number, hashes) if size else ("", None)
        if odd is not None:
            label = self.kind.label(rows[odd])
            self.found.findings.append(f"{_where(seal)}: {label} is not as it was sealed")
            return True
        left = count_months([row[7] for row in rows], [row[9] for row in rows])
        missing = self.lacking.compare(number, seal, before, months, left)
        if missing.is_more:
            self.found.findings.append(f"{_where(seal)}: its polls are not as they were sealed")
        for month, polls in missing.gone.items():
            self.found.findings.append(
                f"{_where(seal)}: missing: {counted(polls, 'poll')} of {month} that no fold removes"
            )
        if missing.excused:
            what = f"{missing.excused} of its {count} polls cannot be checked"
            what = only.format(count=count, missing=missing.excused, left=size) or what
            self.found.notes.append(f"{_where(seal)}: {what}; {' and '.join(missing.reasons)}")
        return True

    def _compare_rest(self, number: int, hashes: Sequence[bytes]) -> tuple[str, int | None]:
        """What else the note has to state, and the first of these rows that was not sealed."""
        if (kept := self._kept(number)) is None:
            return (
                "none of its {count} polls can be checked, and {missing} are missing: it has no "
                "marks of them",
                None,
            )
        size = len(kept[0])
        odd = _first_other([hash_[:size] for hash_ in hashes], kept)
        if size == MARKS[0]:
            return "", odd
        return (
            "{missing} of its {count} polls cannot be checked, and the other {left} only by "
            f"{size} bytes of their hashes, which a forged poll can be made to have",
            odd,
        )

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
            rows += [batch.row(place)[:10] for place in range(len(batch))]
            hashes += batch.hashes
        return rows, hashes


def _where(seal: Seal) -> str:
    return f"seal {seal.n}, closed at {at(seal.closed_us)}"


def _first_other(marks: Sequence[bytes], kept: Sequence[bytes]) -> int | None:
    """The first mark that ``kept`` does not have after those before it; None: it has all."""
    others = iter(kept)
    return next((at for at, mark in enumerate(marks) if mark not in others), None)


def _gone(kind: Kind, missing: int, rows: Sequence[Sequence[bytes]], first: int) -> str:
    """How many rows are missing, and the rows before and after the ``first`` that is."""
    if not rows and missing == 1:
        return f"its only {kind.name} is gone"
    number = f"{missing} {kind.plural}"
    if not rows:
        return f"all {number} are gone"
    places = [f"after {kind.label(rows[first - 1])}"] if first else []
    places += [f"before {kind.label(rows[first])}"] if first < len(rows) else []
    place = " and ".join(places)
    if missing == 1:
        return f"1 {kind.name} is gone; it was {place}"
    return f"{number} are gone; the first was {place}"


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
        return _gone(kind, len(kept) - len(marks), rows, first)
    if len(marks) > len(kept):
        return f"{label} was added after it closed"
    if sorted(marks) == sorted(kept):
        return f"{label} is not at its place: rows were put in another order"
    return f"{label} is not as it was sealed"
