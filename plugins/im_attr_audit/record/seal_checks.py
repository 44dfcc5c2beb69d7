"""Whether what was sealed is still there, row by row, and nothing was put among it.

Each seal's rows are hashed again from what is stored. Where they do not give the root in the
seal's leaf, the marks in the seal's file name the first row that is not as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest

from sqlalchemy import Connection, text

from im_attr_audit.evidence.bundle import MARK, Seal
from im_attr_audit.record.listed import CLOCKS_US
from im_attr_audit.record.parts import without_garbage_collection
from im_attr_audit.record.rows_root import Root
from im_attr_audit.record.sealed_rows import (
    END,
    KINDS,
    Batch,
    Kind,
    microseconds_of,
    read_batches,
)

#: Seals whose first bad row is looked for.
_NAMED = 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT_SINCE = r"""
select min(substring(pg_catalog.pg_get_expr(c.relpartbound, c.oid) from $$FROM \('(.+?)'\)$$)
           ::timestamptz)
  from pg_catalog.pg_inherits i
  join pg_catalog.pg_class c on c.oid = i.inhrelid
 where i.inhparent = 'attr_audit.poll'::regclass
"""


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
    seals: Sequence[Seal],
    take: Callable[[Kind, Batch], None] = lambda _kind, _batch: None,
) -> SealCheck:
    """Check every sealed row, in the transaction that `prepare_sealed` has set up.

    ``take`` is given the rows that no seal covers yet, in order: they are read once.
    """
    found = SealCheck()
    lacking = _Lacking(
        _kept_since(connection, seals),
        frozenset(connection.execute(text(_FOLDED)).scalars()) if seals else frozenset(),
    )
    for kind in KINDS:
        window = _Window(kind, seals, found)
        _check_kind(connection, kind, seals, lacking, found, window)
        last = seals[-1].last[kind.number] if seals else -END
        for batch in read_batches(connection, kind, last, END):
            window.check(len(seals), batch, 0, len(batch))
            found.waiting += len(batch)
            take(kind, batch)
    _check_folds(connection, lacking, found)
    return found


@dataclass(slots=True)
class _Lacking:
    """Polls that retention dropped or folded. ``missing``: so many of folded months are gone."""

    kept_since: int
    folded: frozenset[datetime]
    missing: int = 0

    def reason(self, kind: Kind, seal: Seal) -> str | None:
        """Why polls of the seal may lack; None: they may not."""
        if kind.number != 0 or seal.polls_from is None:
            return None
        if seal.polls_from < self.kept_since:
            return f"polls before {at(self.kept_since)} are not kept"
        begin = _EPOCH + timedelta(microseconds=seal.polls_from)
        end = _EPOCH + timedelta(microseconds=seal.closed_us)
        month = begin.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if any(month <= folded <= end for folded in self.folded):
            return f"good polls of {month:%Y-%m} are folded"
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
    since = connection.execute(text(_KEPT_SINCE)).scalar_one()
    if since is None or not seals:
        return 0
    # Retention keeps the running month, whatever it is asked for.
    running = _EPOCH + timedelta(microseconds=seals[-1].closed_us)
    is_retention = since <= running.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (since - _EPOCH) // timedelta(microseconds=1) if is_retention else 0


class _Window:
    """The recorded_at of a seal's rows must lie between the closing of two seals."""

    def __init__(self, kind: Kind, seals: Sequence[Seal], found: SealCheck) -> None:
        self._kind, self._seals, self._found = kind, seals, found
        self._reported: set[int] = set()

    def check(self, number: int, batch: Batch, begin: int, end: int) -> None:
        """Check rows that belong to seal ``number``; the number of seals: to none yet."""
        if begin == end or number in self._reported:
            return
        column = batch.columns[self._kind.recorded_at][begin:end]
        since = self._seals[number - 1].closed_us - CLOCKS_US if number else -END
        until = self._seals[number].closed_us + CLOCKS_US if number < len(self._seals) else END
        if {*map(len, column)} == {16}:
            low, high = int(min(column)), int(max(column))
            if since <= low and high <= until:
                return
        for place, token in enumerate(column, begin):
            time = microseconds_of(token)
            if time is None or not since <= time <= until:
                self._reported.add(number)
                self._report(number, batch.row(place), time)
                return

    def _report(self, number: int, row: list[bytes], time: int | None) -> None:
        label = self._kind.label(row)
        when = "a time that cannot be" if time is None else at(time)
        if number < len(self._seals):
            was = f"seal {number}, closed at {at(self._seals[number].closed_us)}"
        else:
            was = "no seal yet"
        before = f"; seal {number - 1} closed at {at(self._seals[number - 1].closed_us)}"
        self._found.findings.append(
            f"{label} is dated falsely: its recorded_at is {when}, and it is in {was}"
            f"{before if number else ''}"
        )


def _check_kind(
    connection: Connection,
    kind: Kind,
    seals: Sequence[Seal],
    lacking: _Lacking,
    found: SealCheck,
    window: _Window,
) -> None:
    number, root, bad = 0, Root(), 0

    def finish() -> None:
        nonlocal number, root, bad
        count, expected = seals[number].rows(kind.number)
        if (root.size, root.hex()) != (count, expected) and not _may_lack(
            connection, kind, seals, number, root.size, lacking, found
        ):
            bad += 1
            _explain(connection, kind, seals, number, found, bad <= _NAMED)
        found.rows += root.size
        number, root = number + 1, Root()

    last = seals[-1].last[kind.number] if seals else -END
    for batch in read_batches(connection, kind, -END, last):
        begin = 0
        while begin < len(batch):
            while True:
                end = batch.until(seals[number].last[kind.number], begin)
                if end > begin:
                    break
                finish()
            root.extend(batch.hashes[begin:end])
            window.check(number, batch, begin, end)
            begin = end
    while number < len(seals):
        finish()


def _may_lack(
    connection: Connection,
    kind: Kind,
    seals: Sequence[Seal],
    number: int,
    size: int,
    lacking: _Lacking,
    found: SealCheck,
) -> bool:
    """Whether polls of the seal may lack; what is left must be as sealed, in its order."""
    seal = seals[number]
    reason = lacking.reason(kind, seal)
    if reason is None:
        return False
    count, _ = seal.rows(kind.number)
    kept = seal.marks_of(kind.number)
    if size and kept is not None:
        rows, marks = _sealed_rows(connection, kind, seals, number)
        if (odd := _first_other(marks, kept)) is not None:
            label = kind.label(rows[odd])
            found.findings.append(f"{_where(seal)}: {label} is not as it was sealed")
            return True
    found.notes.append(
        f"{_where(seal)}: {count - size} of its {count} polls cannot be checked; {reason}"
    )
    if seal.polls_from is not None and seal.polls_from >= lacking.kept_since:
        lacking.missing += count - size
    return True


def _explain(
    connection: Connection,
    kind: Kind,
    seals: Sequence[Seal],
    number: int,
    found: SealCheck,
    is_named: bool,
) -> None:
    what = f"its {kind.plural} are not as they were sealed"
    kept = seals[number].marks_of(kind.number)
    if is_named and kept is not None:
        rows, marks = _sealed_rows(connection, kind, seals, number)
        what = _first_difference(kind, rows, marks, kept)
    found.findings.append(f"{_where(seals[number])}: {what}")


def _where(seal: Seal) -> str:
    return f"seal {seal.n}, closed at {at(seal.closed_us)}"


def _sealed_rows(
    connection: Connection, kind: Kind, seals: Sequence[Seal], number: int
) -> tuple[list[list[bytes]], list[bytes]]:
    after = seals[number - 1].last[kind.number] if number else -END
    return _rows(connection, kind, after, seals[number].last[kind.number])


def _rows(
    connection: Connection, kind: Kind, after: int, until: int
) -> tuple[list[list[bytes]], list[bytes]]:
    """The columns that name a row, and the marks."""
    rows: list[list[bytes]] = []
    marks: list[bytes] = []
    for batch in read_batches(connection, kind, after, until):
        rows += [batch.row(place)[:4] for place in range(len(batch))]
        marks += [hash_[:MARK] for hash_ in batch.hashes]
    return rows, marks


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
