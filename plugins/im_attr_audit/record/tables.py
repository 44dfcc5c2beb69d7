"""Read the record's tables as they are stored, without any function or view of the database.

Rows come by COPY of named columns of the base tables, in a form in which Postgres writes integers,
null and quoted texts as JSON does. Before that the catalog is asked whether the relations are the
plain tables that they seem to be: a view, a rewrite rule, row-level security, an inheriting table
or a column of another type could show a reader something else than what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from sqlalchemy import Connection, text

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.canonical import NULL, escape_controls

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

_SETTINGS = """
set local search_path = pg_catalog, pg_temp;
set local bytea_output = 'hex';
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
                 then 'another table inherits from it' end as reason
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
_BATCH = 2000
_SEPARATOR = b"\x1f"
_CONTROLS = bytes(range(32))
_FIELD = re.compile(rb'("(?:[^"\\]|\\.)*"|[^\x1f\n]*)(?:\x1f|\n)', re.DOTALL)


def prepare(connection: Connection) -> None:
    """Set up the transaction and check that the record's tables are tables. Raises NotATable."""
    for statement in _SETTINGS.split(";"):
        connection.execute(text(statement))
    found = dict(connection.execute(text(_UNLIKE), {"tables": list(TABLES)}).tuples().all())
    for table, columns in TABLES.items():
        reason = found.get(table, "it does not exist, or this login may not see it")
        if reason is None:
            types = dict(connection.execute(text(_TYPES), {"table": table}).tuples().all())
            unlike = [name for name, type_ in columns.items() if types.get(name) != type_]
            if unlike:
                reason = f"column {unlike[0]} is missing or not of the type {columns[unlike[0]]}"
        if reason:
            raise NotATable(
                f"attr_audit.{table} cannot be verified: {reason}. Ask the owner of the database "
                "why, and verify a backup or an export."
            )


def read_rows(connection: Connection, table: str, order: str, take: Take) -> None:
    """Give the rows of a table to ``take``, in batches.

    A value is a token, or a time or a hash as Postgres writes it. It all happens in one thread:
    psycopg2 releases the interpreter for every row, and a second thread would have to be waited
    for each time.
    """
    columns = TABLES[table]
    written = [
        f"case when c.{name} then 'true' when not c.{name} then 'false' end"
        if type_ == "bool"
        else f"c.{name}"
        for name, type_ in columns.items()
    ]
    texts = [name for name, type_ in columns.items() if type_ == "text"]
    statement = (
        f"copy (select {', '.join(written)} from only attr_audit.{table} as c order by {order}) "  # noqa: S608 - names from TABLES
        f"to stdout (format csv, delimiter e'\\x1f', null 'null', quote '\"', escape e'\\\\', "
        f"force_quote ({', '.join(texts)}))"
    )
    sink = _Sink(lambda batch: take(_split(batch, len(columns))))
    cursor = connection.connection.cursor()
    try:
        cursor.copy_expert(statement, sink)
    finally:
        cursor.close()
    sink.flush()


class _Sink:
    """What psycopg2 writes to: each call gets one row."""

    def __init__(self, take: Callable[[list[bytes]], None]) -> None:
        self._batch: list[bytes] = []
        self._take = take

    def write(self, row: bytes) -> None:
        self._batch.append(row)
        if len(self._batch) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._take(batch)


def _split(batch: list[bytes], columns: int) -> list[list[bytes]]:
    together = b"".join(batch)
    controls = len(together) - len(together.translate(None, _CONTROLS))
    if controls == columns * len(batch):  # separators and line ends only
        return [row[:-1].split(_SEPARATOR) for row in batch]
    return [[escape_controls(field) for field in _FIELD.findall(row)] for row in batch]


class Microseconds(dict[bytes, bytes]):
    """A time as Postgres writes it in UTC → microseconds since 1970, as tokens.

    ValueError for a time that no hash can hold: infinity, before the year 1, after 9999.
    """

    _EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

    def __missing__(self, written: bytes) -> bytes:
        if len(self) > 50_000:
            self.clear()
        if written == NULL:
            return NULL
        # 2026-11-01 00:00:00.1+00
        second, fraction = written[:19], written[20:-3]
        if written[-3:] != b"+00":
            raise ValueError(f"not a time in UTC: {written!r}")
        at = datetime.fromisoformat(second.decode() + "+00:00") - self._EPOCH
        value = (at.days * 86400 + at.seconds) * 1_000_000 + int(fraction.ljust(6, b"0"))
        self[written] = found = b"%d" % value
        return found
