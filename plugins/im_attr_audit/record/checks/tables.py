"""Read the record's tables as they are stored, without any function or view of the database.

Rows come by COPY of named columns of the base tables, in its text format: tabs and line ends stand
between values and never within one. Before that the catalog is asked whether the relations are the
plain tables that they seem to be: a view, a rewrite rule, row-level security, an inheriting table
or a column of another type could show a reader something else than what is stored.

A row costs about a microsecond here. Rows are therefore handled by the column and by the hundred:
no Python function is called for a single row.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeAlias

from sqlalchemy import Connection, text

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.checks.canonical import NULL

#: What takes some rows, as one list of tokens for each column.
Take: TypeAlias = Callable[[list[list[bytes]]], None]


class NotATable(AttrAuditError):
    """What is read as a table of the record is something else; nothing it shows can be believed."""


#: The tables with the columns that are read, and their types. The order is that of the hashed text.
TABLES: dict[str, dict[str, str]] = {
    "change": {
        "change_id": "int8",
        "region": "text",
        "sdk_app_id": "int8",
        "seq": "int8",
        "slot": "int2",
        "old_name": "text",
        "new_name": "text",
        "old_type": "int2",
        "new_type": "int2",
        "is_baseline": "bool",
        "not_before": "timestamptz",
        "seen_at": "timestamptz",
        "answer": "text",
        "poll_id": "int8",
        "dag_run_id": "text",
        "recorded_at": "timestamptz",
        "prior_ok_at": "timestamptz",
        "old_not_before": "timestamptz",
        "old_seen_at": "timestamptz",
        "prev_hash": "bytea",
        "row_hash": "bytea",
        "kind": "text",
    },
    "review": {
        "review_id": "int8",
        "region": "text",
        "sdk_app_id": "int8",
        "review_seq": "int8",
        "seq": "int8",
        "verdict": "text",
        "reviewer": "text",
        "reviewer_id": "text",
        "ticket": "text",
        "comment": "text",
        "reviewed_at": "timestamptz",
        "dag_run_id": "text",
        "recorded_at": "timestamptz",
        "prev_hash": "bytea",
        "row_hash": "bytea",
    },
    "snapshot": {
        "region": "text",
        "sdk_app_id": "int8",
        "slot": "int2",
        "name": "text",
        "attr_type": "int2",
        "not_before": "timestamptz",
        "seen_at": "timestamptz",
    },
    "app": {
        "region": "text",
        "sdk_app_id": "int8",
        "first_ok_at": "timestamptz",
        "snapshot_digest": "bytea",
        "names_digest": "bytea",
    },
    "poll": {
        "region": "text",
        "sdk_app_id": "int8",
        "poll_id": "int8",
        "dag_run_id": "text",
        "outcome": "text",
        "requested_at": "timestamptz",
        "recorded_at": "timestamptz",
    },
}

#: From when on polls are kept, by the months that retention left; null where no month is left.
KEPT_SINCE = r"""
select min(substring(pg_catalog.pg_get_expr(m.relpartbound, m.oid) from $$FROM \('(.+?)'\)$$)
           ::timestamptz)
  from pg_catalog.pg_inherits i
  join pg_catalog.pg_class m on m.oid = i.inhrelid
 where i.inhparent = 'attr_audit.poll'::regclass
"""

_SETTINGS = """
set local search_path = pg_catalog, pg_temp;
set local bytea_output = 'hex';
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local statement_timeout = 0
"""
_UNLIKE = """
select c.relname,
       case when c.relkind <> case c.relname when 'poll' then 'p'::"char" else 'r' end
                 then 'it is not a plain table'
            when c.relrowsecurity then 'row-level security is on'
            when exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid)
                 then 'it has a rewrite rule'
            when c.relname <> 'poll'
                 and exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid)
                 then 'another table inherits from it'
            when exists (select from pg_catalog.pg_inherits i
                           join pg_catalog.pg_class p on p.oid = i.inhrelid
                          where i.inhparent = c.oid and p.relkind <> 'r')
                 then 'a partition of it is not a plain table' end as reason
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'attr_audit' and c.relname = any(:tables)
"""
_TYPES = """
select a.attname, t.typname
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_class c on c.oid = a.attrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_type t on t.oid = a.atttypid and t.oid < 16384
 where n.nspname = 'attr_audit' and c.relname = :table and a.attnum > 0 and not a.attisdropped
"""
#: So many bytes are read before they are handled. Of a larger block the values would not fit into a
#: processor's cache, and everything would take twice as long.
_BLOCK = 1 << 16
_NULL = rb"\N"
#: Control characters without tab and line end.
CONTROLS = bytes([*range(9), *range(11, 32)])
_ESCAPED = re.compile(rb"\\(.)|[\x00-\x1f]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Range:
    """SDKAppIDs from ``first`` to before ``end``; None: no bound. No collation orders numbers."""

    first: int | None = None
    end: int | None = None
    #: Only these of them; None: all.
    only: tuple[int, ...] | None = None

    def condition(self) -> str:
        """A where clause, or nothing."""
        bounds = ((self.first, ">= {:d}"), (self.end, "< {:d}"))
        tests = [f"c.sdk_app_id {test.format(at)}" for at, test in bounds if at is not None]
        if self.only is not None:
            listed = ",".join(f"{number:d}" for number in self.only)
            tests.append(f"c.sdk_app_id = any('{{{listed}}}'::int8[])")
        return f"where {' and '.join(tests)}" if tests else ""


def prepare(
    connection: Connection, tables: Mapping[str, Mapping[str, str]] = MappingProxyType(TABLES)
) -> None:
    """Set up the transaction and check that the record's tables are tables. Raises NotATable.

    ``tables``: those that are read, with the types of the columns that are read.
    """
    for statement in _SETTINGS.split(";"):
        connection.execute(text(statement))
    found = dict(connection.execute(text(_UNLIKE), {"tables": list(tables)}).tuples().all())
    for table, columns in tables.items():
        reason = found.get(table, "it does not exist, or this login may not see it")
        if reason is None:
            types = dict(connection.execute(text(_TYPES), {"table": table}).tuples().all())
            unlike = [name for name, type_ in columns.items() if types.get(name) != type_]
            if unlike:
                reason = f"column {unlike[0]} is missing or not of the type {columns[unlike[0]]}"
        if reason:
            raise NotATable(
                f"attr_audit.{table} cannot be verified: {reason}. Where the schema is older than "
                "this version of im-attr-audit, run `im-attr-audit migrate` first. Otherwise ask "
                "the owner of the database why, and verify a backup or an export."
            )


def read_rows(connection: Connection, table: str, apps: Range, order: str, take: Take) -> None:
    """Give the rows of a table that are of these apps to ``take``, some hundreds at a time.

    A value is a token, or a hash as hex (empty: null).
    """
    columns = TABLES[table]
    statement = (
        f"select {', '.join(f'c.{name}' for name in columns)} "  # noqa: S608 - names from TABLES
        f"from only attr_audit.{table} as c {apps.condition()} order by {order}"
    )
    copy_rows(connection, statement, list(columns.values()), take)


def copy_rows(connection: Connection, statement: str, types: list[str], take: Take) -> None:
    """Give a query's rows to ``take``; ``types`` are those of its columns. Else as `read_rows`."""
    times = Microseconds()
    statement = f"copy ({statement}) to stdout"
    copy_lines(connection, statement, lambda block: take(_tokens(block, types, times)))


def copy_lines(connection: Connection, statement: str, take: Callable[[bytes], None]) -> int:
    """Give what COPY writes to ``take``: some lines at a time, without the last line end.

    Returns how many rows the server wrote.
    """
    sink = io.BufferedWriter(_Blocks(take), _BLOCK)
    cursor = connection.connection.cursor()
    try:
        cursor.copy_expert(statement, sink)
        sink.flush()
        return int(cursor.rowcount)
    finally:
        cursor.close()


class _Blocks(io.RawIOBase):
    """What a buffer is flushed to: passes on whole rows and keeps the beginning of the next."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        whole, end, rest = bytes(piece).rpartition(b"\n")
        if end:
            self._take(self._rest + whole)
            self._rest = rest
        else:
            self._rest += rest
        return len(piece)


def _tokens(block: bytes, types: list[str], times: Microseconds) -> list[list[bytes]]:
    """The columns of some rows in COPY's text format, without the last line end."""
    # Postgres has escaped control characters but not all of them, and no quotation mark.
    unusual = len(block.translate(None, CONTROLS)) < len(block) or rb"\v" in block
    values = block.replace(b'"', rb"\"").replace(b"\n", b"\t").split(b"\t")
    columns = []
    for at, type_ in enumerate(types):
        column = values[at :: len(types)]
        if type_ != "bytea" and column.count(_NULL) == len(column):
            column = [NULL] * len(column)
        elif type_ == "text":
            if unusual:
                column = [_NULL if v == _NULL else _ESCAPED.sub(_as_json, v) for v in column]
            column = [NULL if v == _NULL else b'"%b"' % v for v in column]
        elif type_ == "bytea":
            column = [v[3:] for v in column]  # after the \\x
        elif type_ == "timestamptz":
            column = times.column(column)
        elif type_ == "bool":
            column = [_BOOLEANS[v] for v in column]
        elif _NULL in column:
            column = [NULL if v == _NULL else v for v in column]
        columns.append(column)
    return columns


_BOOLEANS = {b"t": b"true", b"f": b"false", _NULL: NULL}
_AS_JSON = {b"\\v": rb"\u000b"}


def _as_json(match: re.Match[bytes]) -> bytes:
    """An escape of COPY's, or a control character that it leaves as it is, as JSON writes it."""
    if match[1] is None:
        return b"\\u%04x" % match[0][0]
    return _AS_JSON.get(match[0], match[0])


class Microseconds(dict[bytes, bytes]):
    """A time as Postgres writes it in UTC → microseconds since 1970, as tokens.

    A time that no hash can hold (infinity, before the year 1, after 9999) stays as it is written.
    """

    _EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

    def __init__(self) -> None:
        super().__init__()
        self._seconds: dict[bytes, bytes] = {}

    def column(self, written: list[bytes]) -> list[bytes]:
        """Some times at once. Almost each has a new fraction of one of a few seconds."""
        if len(self) + len(self._seconds) > 50_000:
            self.clear()
            self._seconds.clear()
        # 2026-11-01 00:00:00.123456+00
        for second in {at[:19] for at in written if len(at) == 29}.difference(self._seconds):
            at = self._parse(second + b"+00")
            if not at.endswith(b"000000") or at < b"0":  # no hash can hold it, or before 1970
                return [self[each] for each in written]
            self._seconds[second] = at[:-6]
        seconds = self._seconds
        return [seconds[a[:19]] + a[20:26] if len(a) == 29 else self[a] for a in written]

    def __missing__(self, written: bytes) -> bytes:
        self[written] = found = self._parse(written)
        return found

    def _parse(self, written: bytes) -> bytes:
        if written == _NULL:
            return NULL
        if written[-3:] != b"+00":
            return written
        try:
            at = datetime.fromisoformat(written[:19].decode() + "+00:00") - self._EPOCH
            fraction = int(written[20:-3].ljust(6, b"0"))
        except ValueError:
            return written
        return b"%d" % ((at.days * 86400 + at.seconds) * 1_000_000 + fraction)
