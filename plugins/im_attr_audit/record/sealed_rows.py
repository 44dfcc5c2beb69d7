"""The rows that seals cover, as they are stored: their leaf hashes in order, streaming.

Order and membership follow from the ids that the database gave: polls by poll_id, changes by
change_id, planned targets by planned_id and place. No function or view of the database is used.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, text

from im_attr_audit.evidence.canonical import CHANGE, POLL, TARGET, Value
from im_attr_audit.evidence.merkle import root_of
from im_attr_audit.record.canonical import NULL
from im_attr_audit.record.tables import TABLES, copy_rows, prepare

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
}
#: So many ids are read by one statement: their rows fit into memory, and into the server's.
_IDS = 100_000
#: So many leaf hashes are reduced to one.
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of rows. ``statement`` selects them from after one id to another one."""

    number: int
    name: str
    plural: str
    table: str
    id: str
    type: str
    statement: str
    types: tuple[str, ...]
    recorded_at: int
    run: int
    requested_at: int | None = None

    def label(self, row: Sequence[bytes]) -> str:
        """What a person calls the row."""
        values = [_plain(value) for value in row]
        if self.number == 0:
            return f"poll {values[0]} of {values[2]}/{values[3]}"
        if self.number == 1:
            return f"change {values[1]}/{values[2]} seq {values[3]}"
        return f"planned target {values[2]} of run {values[1]} (planned_id {values[0]})"


KINDS = (
    Kind(
        *(0, "poll", "polls", "poll", "poll_id", POLL),
        f"select {', '.join(f'p.{name}' for name in _POLL_TYPES)}, h.row_hash "  # noqa: S608
        "from attr_audit.poll as p left join only attr_audit.change as h "
        "on h.region = p.region and h.sdk_app_id = p.sdk_app_id and h.seq = p.head_seq "
        "where p.poll_id > {after} and p.poll_id <= {until} order by p.poll_id",
        (*_POLL_TYPES.values(), "bytea"),
        recorded_at=16,
        run=5,
        requested_at=7,
    ),
    Kind(
        *(1, "change", "changes", "change", "change_id", CHANGE),
        f"select {', '.join(f'c.{name}' for name in _CHANGE_TYPES)} "  # noqa: S608
        "from only attr_audit.change as c "
        "where c.change_id > {after} and c.change_id <= {until} order by c.change_id",
        tuple(_CHANGE_TYPES.values()),
        recorded_at=15,
        run=14,
    ),
    Kind(
        *(2, "planned target", "planned targets", "planned", "planned_id", TARGET),
        "select p.planned_id, p.dag_run_id, t.conn_id, t.region, t.sdk_app_id, p.recorded_at "
        "from only attr_audit.planned as p cross join lateral "
        "unnest(p.conn_ids, p.regions, p.sdk_app_ids) with ordinality "
        "as t (conn_id, region, sdk_app_id, place) "
        "where p.planned_id > {after} and p.planned_id <= {until} "
        "order by p.planned_id, t.place",
        ("int8", "text", "text", "text", "int8", "timestamptz"),
        recorded_at=5,
        run=1,
    ),
)
#: Larger than every id.
END = 2**63 - 1


@dataclass(slots=True)
class Batch:
    """Some rows: their columns as tokens, and their leaf hashes."""

    columns: list[list[bytes]]
    hashes: list[bytes]

    def __len__(self) -> int:
        return len(self.hashes)

    def row(self, at: int) -> list[bytes]:
        return [column[at] for column in self.columns]

    def until(self, last: int, begin: int = 0) -> int:
        """How many of the rows have an id of at most ``last``; ``begin``: that many have."""
        return bisect_right(self.columns[0], last, begin, key=int)


def prepare_sealed(connection: Connection) -> None:
    """As `tables.prepare`, for what seals cover. Indexes are used, whatever the statistics say."""
    prepare(connection, _TABLES)
    connection.execute(text("set local enable_seqscan = off"))


def read_batches(connection: Connection, kind: Kind, after: int, until: int) -> Iterator[Batch]:
    """The rows with an id after one and up to another one, in order."""
    while after < until:
        # The database gives ids from 1 on; below that there is nothing to step through.
        end = min(after + _IDS, until) if after >= 0 else min(0, until)
        batch = _read(connection, kind, after, end)
        if batch.hashes:
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


def _read(connection: Connection, kind: Kind, after: int, until: int) -> Batch:
    batch = Batch([[] for _ in kind.types], [])
    begin = b'\0["%b",' % kind.type.encode()
    hashes_at = [at for at, type_ in enumerate(kind.types) if type_ == "bytea"]

    def take(columns: list[list[bytes]]) -> None:
        for at in hashes_at:
            columns[at] = [b'"%b"' % value if value else NULL for value in columns[at]]
        batch.hashes += [
            sha256(b"%b%b]" % (begin, row)).digest()
            for row in map(b",".join, zip(*columns, strict=True))
        ]
        for kept, column in zip(batch.columns, columns, strict=True):
            kept += column

    statement = kind.statement.format(after=after, until=until)
    copy_rows(connection, statement, list(kind.types), take)
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


class Root:
    """The root of leaf hashes that come in parts, in constant memory."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []
        self._pending: list[bytes] = []

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Add leaf hashes at the end."""
        self.size += len(hashes)
        self._pending += hashes
        while len(self._pending) >= _CHUNK:
            # A whole number of leaves that is a power of two is one node of the tree.
            self._chunks.append(root_of(self._pending[:_CHUNK]))
            del self._pending[:_CHUNK]

    def hex(self) -> str:
        """The root so far."""
        if not self._chunks:
            return root_of(self._pending).hex()
        rest = [root_of(self._pending)] if self._pending else []
        return root_of([*self._chunks, *rest]).hex()


def microseconds_of(token: bytes) -> int | None:
    """A time's token as a number; None: it is not a time that can be."""
    try:
        return int(token)
    except ValueError:
        return None


def _plain(token: bytes) -> str:
    return token.strip(b'"').decode(errors="replace")
