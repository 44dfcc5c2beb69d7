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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from psycopg2 import DataError
from sqlalchemy import Connection, text

from im_attr_audit.evidence.canonical import CHANGE, POLL, TARGET, Value
from im_attr_audit.record.canonical import NULL, quoted, token
from im_attr_audit.record.listed import DECLARATION_TYPES
from im_attr_audit.record.tables import CONTROLS, TABLES, copy_lines, copy_rows, prepare

_POLL_TYPES = {
    "poll_id": "int8",
    "conn_id": "text",
    "region": "text",
    "sdk_app_id": "int8",
    "api": "text",
    "dag_run_id": "text",
    "try_number": "int4",
    "requested_at": "timestamptz",
    "responded_at": "timestamptz",
    "outcome": "text",
    "reads": "int2",
    "http_status": "int4",
    "error_code": "int4",
    "error_info": "text",
    "answer": "text",
    "vendor_date": "timestamptz",
    "recorded_at": "timestamptz",
    "last_requested_at": "timestamptz",
    "names_read": "int2",
    "first_responded_at": "timestamptz",
    "head_seq": "int8",
}
_CHANGE_TYPES = {name: type_ for name, type_ in TABLES["change"].items() if name != "kind"}
_PLANNED_TYPES = {
    "planned_id": "int8",
    "dag_run_id": "text",
    "recorded_at": "timestamptz",
    "conn_ids": "_text",
    "regions": "_text",
    "sdk_app_ids": "_int8",
}
_TABLES: Mapping[str, Mapping[str, str]] = {
    "poll": _POLL_TYPES,
    "change": _CHANGE_TYPES,
    "planned": _PLANNED_TYPES,
    "review": TABLES["review"],
    "declaration": DECLARATION_TYPES,
}
#: So many ids are read by one statement: their rows fit into memory, and into the server's.
_IDS = 25_000
#: So many heads are remembered beside those of the rows at hand.
_MOST_HEADS = 100_000
#: Until then a time's microseconds are exact in double precision, and none is mistaken for another.
_EXACT_UNTIL = "timestamptz '2200-01-01 00:00:00+00'"
_WRITTEN = {
    "timestamptz": "(date_part('epoch', {0}) * 1e6::float8)::int8",
    "bool": "{0}::text",
    "bytea": "encode({0}, 'hex')",
}
_HEADS = """
select k.place, encode(h.row_hash, 'hex')
  from unnest(cast(:regions as text[]), cast(:numbers as int8[]), cast(:seqs as int8[]))
       with ordinality as k (region, sdk_app_id, seq, place)
  join only attr_audit.change as h
    on h.region = k.region and h.sdk_app_id = k.sdk_app_id and h.seq = k.seq
"""

#: Region, SDKAppID and seq of a change, as tokens.
HeadKey: TypeAlias = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of rows. ``columns``: their expressions with their types. ``source``: where they are
    from, between two ids and in order. ``head``: where a row names its app's head, which follows
    its other values.
    """

    number: int
    name: str
    plural: str
    table: str
    id: str
    type: str
    columns: Mapping[str, str]
    source: str
    recorded_at: int
    run: int
    requested_at: int | None = None
    head: tuple[int, int, int] | None = None

    def label(self, row: Sequence[bytes]) -> str:
        """What a person calls the row."""
        values = [_plain(value) for value in row]
        if self.number == 0:
            return f"poll {values[0]} of {values[2]}/{values[3]}"
        if self.number == 1:
            return f"change {values[1]}/{values[2]} seq {values[3]}"
        return f"planned target {values[2]} of run {values[1]} (planned_id {values[0]})"

    def statement(self, after: int, until: int) -> str:
        """The rows with an id after one and up to another one."""
        return f"select {', '.join(self.columns)} {self.source.format(after=after, until=until)}"

    def quick_statement(self, after: int, until: int) -> str:
        """COPY of the same rows, as lines of tokens; last, whether the line's times are exact."""
        written = [
            f"{_WRITTEN.get(type_, '{0}').format(column)} as c{at}"
            for at, (column, type_) in enumerate(self.columns.items())
        ]
        times = [column for column, type_ in self.columns.items() if type_ == "timestamptz"]
        quoted = [
            f"c{at}" for at, type_ in enumerate(self.columns.values()) if type_ in ("text", "bytea")
        ]
        written.append(f"(greatest({', '.join(times)}) < {_EXACT_UNTIL})::text as exact")
        return (
            f"copy (select {', '.join(written)} "
            f"{self.source.format(after=after, until=until)}) to stdout (format csv, "
            f"delimiter E'\\t', null 'null', quote '\"', escape '\\', "
            f"force_quote ({', '.join(quoted)}))"
        )


KINDS = (
    Kind(
        *(0, "poll", "polls", "poll", "poll_id", POLL),
        {f"p.{name}": type_ for name, type_ in _POLL_TYPES.items()},
        "from attr_audit.poll as p where p.poll_id > {after} and p.poll_id <= {until} "
        "order by p.poll_id",
        recorded_at=16,
        run=5,
        requested_at=7,
        head=(2, 3, 20),
    ),
    Kind(
        *(1, "change", "changes", "change", "change_id", CHANGE),
        {f"c.{name}": type_ for name, type_ in _CHANGE_TYPES.items()},
        "from only attr_audit.change as c "
        "where c.change_id > {after} and c.change_id <= {until} order by c.change_id",
        recorded_at=15,
        run=14,
    ),
    Kind(
        *(2, "planned target", "planned targets", "planned", "planned_id", TARGET),
        {
            "p.planned_id": "int8",
            "p.dag_run_id": "text",
            "t.conn_id": "text",
            "t.region": "text",
            "t.sdk_app_id": "int8",
            "p.recorded_at": "timestamptz",
        },
        "from only attr_audit.planned as p cross join lateral "
        "unnest(p.conn_ids, p.regions, p.sdk_app_ids) with ordinality "
        "as t (conn_id, region, sdk_app_id, place) "
        "where p.planned_id > {after} and p.planned_id <= {until} "
        "order by p.planned_id, t.place",
        recorded_at=5,
        run=1,
    ),
)
#: Larger than every id.
END = 2**63 - 1


class Batch:
    """Some rows: their tokens, and their leaf hashes. Columns are kept that every row is asked for.

    ``lines``: the tokens of each row with a tab between two, without the head's hash.
    """

    def __init__(self, kind: Kind) -> None:
        kept = {0, kind.recorded_at, kind.run, *(kind.head or ())}
        if kind.requested_at is not None:
            kept.add(kind.requested_at)
        self.columns: dict[int, list[bytes]] = {at: [] for at in kept}
        self.lines: list[bytes] = []
        self.hashes: list[bytes] = []
        self._kind = kind
        self._heads: list[bytes] = []

    def __len__(self) -> int:
        return len(self.lines)

    def row(self, at: int) -> list[bytes]:
        """A row's tokens."""
        return self.lines[at].split(b"\t") + self._heads[at : at + 1]

    def until(self, last: int, begin: int = 0) -> int:
        """How many of the rows have an id of at most ``last``; ``begin``: that many have."""
        return bisect_right(self.columns[0], last, begin, key=int)

    def finish(self, heads: Heads) -> None:
        """Hash the rows, once all are here."""
        begin = b'\0["%b",' % self._kind.type.encode()
        values = (line.replace(b"\t", b",") for line in self.lines)
        if self._kind.head is None:
            self.hashes = [sha256(b"%b%b]" % (begin, value)).digest() for value in values]
            return
        keys = list(zip(*(self.columns[at] for at in self._kind.head), strict=True))
        self._heads = heads.of(keys)
        self.hashes = [
            sha256(b"%b%b,%b]" % (begin, value, head)).digest()
            for value, head in zip(values, self._heads, strict=True)
        ]


class Heads:
    """The hashes of the changes that polls name as their heads. Most polls name one seen before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[HeadKey, bytes] = {}

    def of(self, keys: Sequence[HeadKey]) -> list[bytes]:
        """The row_hash of each as a token; null where it names no change that exists."""
        used = set(keys)
        missing = used.difference(self._known)
        if len(self._known) + len(missing) > _MOST_HEADS:
            self._known = {key: self._known[key] for key in used - missing}
        self._known.update(self._look_up(missing))
        return list(map(self._known.__getitem__, keys))

    def _look_up(self, keys: Iterable[HeadKey]) -> dict[HeadKey, bytes]:
        found = dict.fromkeys(keys, NULL)
        named = [key for key in found if NULL not in key]
        if named:
            given = {
                "regions": [json.loads(region) for region, _, _ in named],
                "numbers": [int(number) for _, number, _ in named],
                "seqs": [int(seq) for _, _, seq in named],
            }
            for place, row_hash in self._connection.execute(text(_HEADS), given):
                found[named[place - 1]] = token(row_hash or None)
        return found


def prepare_sealed(connection: Connection) -> None:
    """As `tables.prepare`, for what seals cover. Indexes are used, whatever the statistics say."""
    prepare(connection, _TABLES)
    connection.execute(text("set local enable_seqscan = off"))


def read_batches(connection: Connection, kind: Kind, after: int, until: int) -> Iterator[Batch]:
    """The rows with an id after one and up to another one, in order."""
    heads = Heads(connection)
    while after < until:
        # The database gives ids from 1 on; below that there is nothing to step through.
        end = min(after + _IDS, until) if after >= 0 else min(0, until)
        batch = _read_quickly(connection, kind, after, end)
        if batch is None:
            batch = _read(connection, kind, after, end)
        if batch.lines:
            batch.finish(heads)
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


def _read_quickly(connection: Connection, kind: Kind, after: int, until: int) -> Batch | None:
    """The rows; None where a line is not the canonical text but for its separators."""
    batch = Batch(kind)
    width = len(kind.columns) + 1
    unusual = False

    def take(block: bytes) -> None:
        nonlocal unusual
        values = block.replace(b"\n", b"\t").split(b"\t")
        lines = block.replace(b"\ttrue\n", b"\n").removesuffix(b"\ttrue").split(b"\n")
        if (
            len(values) != len(lines) * width
            or {*values[width - 1 :: width]} != {b"true"}
            or len(block.translate(None, CONTROLS)) < len(block)
        ):
            unusual = True
            return
        batch.lines += lines
        for at, column in batch.columns.items():
            column += values[at::width]

    savepoint = connection.begin_nested()
    try:
        rows = copy_lines(connection, kind.quick_statement(after, until), take)
    except DataError:  # an infinite time
        savepoint.rollback()
        return None
    savepoint.commit()
    # A line end within a value makes two lines of one row.
    return None if unusual or rows != len(batch) else batch


def _read(connection: Connection, kind: Kind, after: int, until: int) -> Batch:
    batch = Batch(kind)
    hashes_at = [at for at, type_ in enumerate(kind.columns.values()) if type_ == "bytea"]

    def take(columns: list[list[bytes]]) -> None:
        for at in hashes_at:
            columns[at] = list(map(quoted, columns[at]))
        batch.lines += map(b"\t".join, zip(*columns, strict=True))
        for at, kept in batch.columns.items():
            kept += columns[at]

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
    columns = list(_CHANGE_TYPES)

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
    copy_rows(connection, statement, list(_CHANGE_TYPES.values()), take)
    return found


def microseconds_of(token: bytes) -> int | None:
    """A time's token as a number; None: it is not a time that can be."""
    try:
        return int(token)
    except ValueError:
        return None


def _plain(token: bytes) -> str:
    return token.strip(b'"').decode(errors="replace")
