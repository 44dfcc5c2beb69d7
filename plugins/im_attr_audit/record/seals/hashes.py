"""Hash the rows of seals again, in several processes at once that see one snapshot.

What is not as it was sealed is only found here; `checks` names the row. Each process has a
connection of its own. This process hashes too: a small record needs no other.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import ClassVar

from sqlalchemy import Connection, Engine, text

from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.record.checks.parts import (
    PartFailed,
    end_with_parent,
    processors,
    reading,
    without_garbage_collection,
)
from im_attr_audit.record.engine import Connector, connector_of, engine_of_connector
from im_attr_audit.record.seals.listed import CLOCKS_US
from im_attr_audit.record.seals.rows import (
    END,
    KINDS,
    Batch,
    Heads,
    Kind,
    microseconds_of,
    prepare_sealed,
    read_batches,
)
from im_attr_audit.record.seals.rows_root import Root

#: Fewer rows are hashed before another process would be ready.
_SMALL = 200_000
#: So many rows are hashed by one process before it takes others, and no fewer than this.
_LEAST = 50_000
_MOST_PROCESSES = 4
_STRETCHES_EACH = 4


@dataclass(frozen=True, slots=True)
class End:
    """Where a seal ends among the rows of one kind, and what its leaf says of them."""

    last: int
    closed_us: int
    rows: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Seals one after another, of one kind of rows.

    ``first``: the first seal's number. ``after``: the last id before them. ``opened_us``: when the
    seal before closed; None: there is none.
    """

    kind: int
    first: int
    after: int
    opened_us: int | None
    ends: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class Misdated:
    """The first row of a seal whose recorded_at does not lie between the closing of two seals.

    ``seal``: None: no seal covers the row yet. ``time``: None: it cannot be.
    """

    seal: int | None
    label: str
    time: int | None


@dataclass(slots=True)
class Hashed:
    """``unlike``: seals whose rows do not give the root, with how many rows there are now."""

    kind: int
    rows: int = 0
    unlike: list[tuple[int, int]] = field(default_factory=list)
    misdated: list[Misdated] = field(default_factory=list)


def stretch_of(kind: Kind, seals: Sequence[Seal], first: int, end: int) -> Stretch:
    """The seals from ``first`` to before ``end``."""
    at = kind.number
    return Stretch(
        at,
        first,
        seals[first - 1].last[at] if first else -END,
        seals[first - 1].closed_us if first else None,
        tuple(End(seal.last[at], seal.closed_us, seal.rows(at)) for seal in seals[first:end]),
    )


def stretches(kind: Kind, seals: Sequence[Seal], chosen: Iterable[int]) -> list[Stretch]:
    """The chosen seals (numbers, in order), cut into stretches of about as many rows each."""
    numbers = list(chosen)
    counts = [seals[number].rows(kind.number)[0] for number in numbers]
    most = max(_LEAST, sum(counts) // (_MOST_PROCESSES * _STRETCHES_EACH) + 1)
    found: list[Stretch] = []
    first = rows = 0
    for place, number in enumerate(numbers):
        rows += counts[place]
        is_last = place + 1 == len(numbers) or numbers[place + 1] != number + 1
        if is_last or rows >= most:
            found.append(stretch_of(kind, seals, numbers[first], number + 1))
            first, rows = place + 1, 0
    return found


@without_garbage_collection()
def hash_stretch(connection: Connection, stretch: Stretch, heads: Heads) -> Hashed:
    """Hash the rows of these seals, in the transaction that `prepare_sealed` has set up."""
    kind = KINDS[stretch.kind]
    found = Hashed(kind.number)
    ends, number, root, closed_us = stretch.ends, 0, Root(), stretch.opened_us
    is_reported = False

    def finish() -> None:
        nonlocal number, root, closed_us, is_reported
        if (root.size, root.hex()) != ends[number].rows:
            found.unlike.append((stretch.first + number, root.size))
        found.rows += root.size
        closed_us, is_reported = ends[number].closed_us, False
        number, root = number + 1, Root()

    for batch in read_batches(connection, kind, stretch.after, ends[-1].last, heads):
        begin = 0
        while begin < len(batch):
            while True:
                end = batch.until(ends[number].last, begin)
                if end > begin:
                    break
                finish()
            root.extend(batch.hashes[begin:end])
            if not is_reported:
                bad = misdated(kind, batch, begin, end, closed_us, ends[number].closed_us)
                if bad is not None:
                    found.misdated.append(Misdated(stretch.first + number, *bad))
                    is_reported = True
            begin = end
    while number < len(ends):
        finish()
    return found


def misdated(
    kind: Kind, batch: Batch, begin: int, end: int, opened_us: int | None, closed_us: int | None
) -> tuple[str, int | None] | None:
    """The first of these rows that was not recorded between the closing of two seals, and when."""
    if begin == end:
        return None
    column = batch.columns[kind.recorded_at][begin:end]
    since = -END if opened_us is None else opened_us - CLOCKS_US
    until = END if closed_us is None else closed_us + CLOCKS_US
    if {*map(len, column)} == {16} and since <= int(min(column)) and int(max(column)) <= until:
        return None
    for place, written in enumerate(column, begin):
        time = microseconds_of(written)
        if time is None or not since <= time <= until:
            return kind.label(batch.row(place)), time
    return None


def newest_time(kind: Kind, batch: Batch, end: int) -> int:
    """When the newest of the batch's first rows was recorded, in microseconds since 1970 UTC."""
    column = batch.columns[kind.recorded_at][:end]
    if {*map(len, column)} == {16}:
        return int(max(column))
    return max(microseconds_of(written) or 0 for written in column)


def hash_stretches(
    connection: Connection, engine: Engine | None, work: Sequence[Stretch], heads: Heads
) -> list[Hashed]:
    """What `hash_stretch` finds in each, in their order. Raises PartFailed.

    ``engine``: what other processes connect with; None: there are to be none. ``heads``: of this
    connection.
    """
    rows = sum(end.rows[0] for stretch in work for end in stretch.ends)
    processes = 1 if engine is None or rows < _SMALL else min(processors(), _MOST_PROCESSES)
    if engine is None or processes == 1 or len(work) == 1:
        return [hash_stretch(connection, stretch, heads) for stretch in work]
    snapshot = connection.execute(text("select pg_catalog.pg_export_snapshot()")).scalar_one()
    pool = ProcessPoolExecutor(
        processes - 1,
        # Not a fork, which would share the database's connection and other threads' locks.
        multiprocessing.get_context("spawn"),
        # The password goes through a pipe: it is neither in the environment nor an argument.
        initializer=_Helper.begin,
        initargs=(connector_of(engine), snapshot),
    )
    with pool:
        try:
            pending = [pool.submit(_Helper.hash, stretch) for stretch in work]
            return _hash_with(connection, work, pending, heads)
        except BrokenProcessPool:
            raise PartFailed(
                "A process that checked part of the seals ended before it was done, so nothing is "
                "known of that part. Run this again."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _hash_with(
    connection: Connection,
    work: Sequence[Stretch],
    pending: Sequence[Future[Hashed]],
    heads: Heads,
) -> list[Hashed]:
    """Hash from the end on what no other process has begun, and wait for the rest."""
    own: dict[int, Hashed] = {}
    for number in reversed(range(len(work))):
        if pending[number].cancel():
            own[number] = hash_stretch(connection, work[number], heads)
    return [
        own[number] if number in own else future.result() for number, future in enumerate(pending)
    ]


class _Helper:
    """The other process: one transaction in the snapshot of the process that started it."""

    connection: ClassVar[Connection]
    heads: ClassVar[Heads]

    @classmethod
    def begin(cls, connector: Connector, snapshot: str) -> None:
        end_with_parent()
        connection = reading(engine_of_connector(connector))
        # Before anything is read: both transactions see the same rows.
        connection.exec_driver_sql(f"set transaction snapshot '{snapshot}'")
        prepare_sealed(connection)
        cls.connection, cls.heads = connection, Heads(connection)

    @classmethod
    def hash(cls, stretch: Stretch) -> Hashed:
        return hash_stretch(cls.connection, stretch, cls.heads)
