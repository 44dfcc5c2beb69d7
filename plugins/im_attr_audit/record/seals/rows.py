"""The rows that seals cover, as they are stored: their leaf hashes in order, streaming.

Order and membership follow from the ids that the database gave: polls by poll_id, changes by
change_id, planned targets by planned_id and place. No function or view of the database is used.

A row takes a few microseconds here. Postgres therefore writes each one as a line of CSV that is the
canonical text but for its separators, as in `quick_chains`. JSON escapes control characters and CSV
does not: where a value has one, or a time is too far away for double precision, the rows are read
again in COPY's text format, value by value.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from psycopg2 import DataError
from sqlalchemy import Connection, text

from im_attr_audit.evidence.canonical import Value
from im_attr_audit.record.checks.canonical import NULL, quoted
from im_attr_audit.record.checks.tables import CONTROLS, copy_lines, copy_rows, prepare
from im_attr_audit.record.seals.kinds import CHANGE_TYPES, SEALED_TABLES
from im_attr_audit.record.seals.kinds import END as END
from im_attr_audit.record.seals.kinds import KINDS as KINDS
from im_attr_audit.record.seals.kinds import Kind as Kind
from im_attr_audit.record.seals.kinds import microseconds_of as microseconds_of

#: So many ids are read by one statement: their rows fit into memory, and into the server's.
_IDS = 25_000
#: So many heads are remembered beside those of the rows at hand.
_MOST_HEADS = 100_000
# One value comes back, not as many rows: a row costs the client more than the look-up does. A join
# might read all changes for the heads of a few polls.
_HEADS = """
select string_agg(coalesce((select encode(h.row_hash, 'hex') from only attr_audit.change as h
                             where h.region = k.region and h.sdk_app_id = k.sdk_app_id
                               and h.seq = k.seq limit 1), ''), ',' order by k.place)
  from unnest(cast(:regions as text[]), cast(:numbers as int8[]), cast(:seqs as int8[]))
       with ordinality as k (region, sdk_app_id, seq, place)
"""

#: Region, SDKAppID and seq of a change, as tokens.
HeadKey: TypeAlias = tuple[bytes, bytes, bytes]


class Batch:
    """Some rows: their leaf hashes, their ids, and columns that every row is asked for.

    Rows come as lines of tokens with a tab between two, without the head's hash. A block of lines
    is hashed while it is in the processor's cache, unless a head in it is not known yet.
    """

    def __init__(self, kind: Kind, heads: Heads) -> None:
        kept = {0, kind.recorded_at, kind.run}
        kept.update(each for each in (kind.requested_at, kind.outcome) if each is not None)
        self.columns: dict[int, list[bytes]] = {at: [] for at in kept}
        self._kind, self._heads = kind, heads
        self._begin = b'\0["%b",' % kind.type.encode()
        self._blocks: list[_Block] = []
        #: The leaf hash of each row, once `finish` was called.
        self.hashes: list[bytes] = []

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def lines(self) -> list[bytes]:
        """The tokens of each row with a tab between two, without the head's hash."""
        return [line for block in self._blocks for line in block.lines()]

    def row(self, at: int) -> list[bytes]:
        """A row's tokens."""
        for block in self._blocks:
            if at < len(block.hashes):
                keys = block.keys[at : at + 1]
                self._heads.learn(set(keys))
                ends = self._heads.of(keys)
                return [*block.lines()[at].split(b"\t"), *(end[1:-1] for end in ends)]
            at -= len(block.hashes)
        raise IndexError(at)

    def until(self, last: int, begin: int = 0) -> int:
        """How many of the rows have an id of at most ``last``; ``begin``: that many have."""
        return bisect_right(self.columns[0], last, begin, key=int)

    def is_ordered(self) -> bool:
        """Whether the rows come in the order of their ids."""
        ids = list(map(int, self.columns[0]))
        return sorted(ids) == ids

    def add(self, text: bytes, column: Callable[[int], list[bytes]], cut: int | None) -> None:
        """Some lines, each without its end from ``cut`` on; ``column``: gives tokens by place."""
        for at, kept in self.columns.items():
            kept += column(at)
        block = _Block(text, cut)
        if self._kind.head is not None:
            region, number, seq = map(column, self._kind.head)
            block.keys = list(zip(region, number, seq, strict=True))
        self._blocks.append(block)
        ends = self._heads.of(block.keys)
        if None not in ends:
            self._hash(block, ends)

    def finish(self) -> None:
        """Hash the rows that are not hashed yet, once all are here."""
        late = [block for block in self._blocks if not block.hashes]
        self._heads.learn({key for block in late for key in block.keys})
        for block in late:
            self._hash(block, self._heads.of(block.keys))
        self.hashes = [hash_ for block in self._blocks for hash_ in block.hashes]

    def _hash(self, block: _Block, ends: Sequence[bytes]) -> None:
        begin, cut = self._begin, block.cut
        # No token has a tab or a line end in it.
        lines = block.text.replace(b"\t", b",").split(b"\n")
        if self._kind.head is None:
            block.hashes = [sha256(begin + line[:cut] + b"]").digest() for line in lines]
            return
        block.hashes = [
            sha256(begin + line[:cut] + end).digest() for line, end in zip(lines, ends, strict=True)
        ]


@dataclass(slots=True)
class _Block:
    text: bytes
    cut: int | None
    keys: list[HeadKey] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def lines(self) -> list[bytes]:
        return [line[: self.cut] for line in self.text.split(b"\n")]


class Heads:
    """The hashes of the changes that polls name as their heads. Most polls name one seen before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[HeadKey, bytes] = {}

    def of(self, keys: Sequence[HeadKey]) -> list[bytes]:
        """How the text of a row with each of these ends: the row_hash as a token, in ``,…]``.

        The token is null where it names no change that exists. None: it is not known yet.
        """
        return list(map(self._known.get, keys))  # type: ignore[arg-type]

    def learn(self, used: set[HeadKey]) -> None:
        """Look up those that are not known yet. No other statement may be running."""
        missing = used.difference(self._known)
        if len(self._known) + len(missing) > _MOST_HEADS:
            self._known = {key: self._known[key] for key in used - missing}
        for key, token_ in self._look_up(missing).items():
            self._known[key] = b",%b]" % token_

    def _look_up(self, keys: Iterable[HeadKey]) -> dict[HeadKey, bytes]:
        found = dict.fromkeys(keys, NULL)
        named = [key for key in found if NULL not in key]
        if named:
            regions, numbers, seqs = zip(*named, strict=True)
            # As text: of a list, each element would be parsed as an expression.
            literal = {region: _in_an_array(json.loads(region)) for region in {*regions}}
            given = {
                "regions": f"{{{','.join(map(literal.__getitem__, regions))}}}",
                "numbers": f"{{{b','.join(numbers).decode()}}}",
                "seqs": f"{{{b','.join(seqs).decode()}}}",
            }
            hashes = self._connection.execute(text(_HEADS), given).scalar_one()
            for key, row_hash in zip(named, hashes.encode().split(b","), strict=True):
                found[key] = quoted(row_hash)
        return found


def _in_an_array(value: str) -> str:
    """A text as an element of PostgreSQL's text for an array."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def prepare_sealed(connection: Connection) -> None:
    """As `tables.prepare`, for what seals cover. Indexes are used, whatever the statistics say."""
    prepare(connection, SEALED_TABLES)
    connection.execute(text("set local enable_seqscan = off"))


def read_batches(
    connection: Connection, kind: Kind, after: int, until: int, heads: Heads | None = None
) -> Iterator[Batch]:
    """The rows with an id after one and up to another one, in order.

    ``heads``: of this connection, with those that were looked up before.
    """
    heads = heads or Heads(connection)
    while after < until:
        # The database gives ids from 1 on; below that there is nothing to step through.
        end = min(after + _IDS, until) if after >= 0 else min(0, until)
        batch = _read_quickly(connection, kind, after, end, heads)
        if batch is None:
            batch = _read(connection, kind, after, end, heads)
        if len(batch):
            batch.finish()
            yield batch
        elif end < until:
            # Ids may leave a gap of any width: the next one is looked up.
            first = connection.execute(
                text(
                    f"select min({kind.id}) from attr_audit.{kind.table} "  # noqa: S608
                    f"where {kind.id} > :end"
                ),
                {"end": end},
            ).scalar_one()
            if first is None:
                return
            end = first - 1
        after = end


def _read_quickly(
    connection: Connection, kind: Kind, after: int, until: int, heads: Heads
) -> Batch | None:
    """The rows; None where a line is not the canonical text but for its separators."""
    # Polls are stored in the order of their ids, nearly always: sorting would cost a fifth.
    for ordered in (kind.number != 0, True):
        batch = _read_lines(connection, kind, kind.quick_statement(after, until, ordered), heads)
        if batch is None or ordered or batch.is_ordered():
            break
    return batch


def _read_lines(connection: Connection, kind: Kind, statement: str, heads: Heads) -> Batch | None:
    batch = Batch(kind, heads)
    width = len(kind.columns) + 1
    unusual = False

    def take(block: bytes) -> None:
        nonlocal unusual
        values = block.replace(b"\n", b"\t").split(b"\t")
        exact = values[width - 1 :: width]
        if (
            len(values) != (block.count(b"\n") + 1) * width
            or exact.count(b"t") != len(exact)
            or len(block.translate(None, CONTROLS)) < len(block)
        ):
            unusual = True
        if not unusual:
            batch.add(block, lambda at: values[at::width], -len(b"\tt"))

    savepoint = connection.begin_nested()
    try:
        rows = copy_lines(connection, statement, take)
    except DataError:  # an infinite time
        savepoint.rollback()
        return None
    savepoint.commit()
    # A line end within a value makes two lines of one row.
    return None if unusual or rows != len(batch) else batch


def _read(connection: Connection, kind: Kind, after: int, until: int, heads: Heads) -> Batch:
    batch = Batch(kind, heads)
    hashes_at = [at for at, type_ in enumerate(kind.columns.values()) if type_ == "bytea"]

    def take(columns: list[list[bytes]]) -> None:
        for at in hashes_at:
            columns[at] = list(map(quoted, columns[at]))
        batch.add(
            b"\n".join(map(b"\t".join, zip(*columns, strict=True))), columns.__getitem__, None
        )

    copy_rows(connection, kind.statement(after, until), list(kind.columns.values()), take)
    return batch


def read_history(
    connection: Connection, region: bytes, number: bytes, head: bytes
) -> list[list[Value]]:
    """An app's changes from seq 1 to its head, each as the values that its chain hashes.

    All are tokens; a head that is null has no history.
    """
    if head == NULL:
        return []
    found: list[list[Value]] = []
    columns = list(CHANGE_TYPES)

    def take(taken: list[list[bytes]]) -> None:
        for row in zip(*taken, strict=True):
            if row[1] == region:
                *chained, prev_hash, _ = row
                values = [*map(json.loads, chained), prev_hash.decode() or None]
                found.append(values)

    statement = (
        f"select {', '.join(f'c.{name}' for name in columns)} "  # noqa: S608
        f"from only attr_audit.change as c where c.sdk_app_id = {int(number)} "
        f"and c.seq <= {int(head)} order by c.region, c.seq"
    )
    copy_rows(connection, statement, list(CHANGE_TYPES.values()), take)
    return found
