"""What a migration leaves to be done beside a running sync, without blocking it.

An index on a table with rows is built concurrently, which no transaction can hold; the gaps between
earlier polls are noted in a transaction of their own, which locks nothing. Each step that is done
already is skipped, and an interrupted one is begun again by the next `migrate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, text

from im_attr_audit.errors import LockTimeout
from im_attr_audit.record.upkeep.owner import is_pooled
from im_attr_audit.record.upkeep.roles import OWNER

#: Held while indexes are built. It is never waited for: a statement that waits holds a snapshot,
#: and building an index waits for that.
_LOCK = 0x66696E697368

#: Indexes of change that its migrations make only if it has no rows: name → definition.
_OF_CHANGE = {
    "change_by_day": "(((seen_at at time zone 'UTC')::date))",
    "change_by_old_name": "(old_name) where old_name is not null",
}
#: Indexes of poll that its migration makes on partitions without rows only: suffix → definition.
_OF_PARTITIONS = {
    "late": "(region, sdk_app_id, requested_at) where outcome = 'late'",
    "by_id": "using brin (poll_id) with (pages_per_range = 32, autosummarize = on)",
}
# Partitions where one of them is missing, is not attached, or was left invalid.
_MISSING = """
select c.relname as part, s.suffix, x.indisvalid as is_valid
  from unnest(cast(:suffixes as text[])) s (suffix)
  join pg_inherits i on i.inhparent = 'attr_audit.poll'::regclass and not i.inhdetachpending
  join pg_class c on c.oid = i.inhrelid
  left join pg_class n on n.relname = c.relname || '_' || s.suffix
                       and n.relnamespace = c.relnamespace
  left join pg_index x on x.indexrelid = n.oid
 where to_regclass('attr_audit.poll_' || s.suffix) is not null
   and not exists (select from pg_inherits a
                     join pg_index p on p.indexrelid = a.inhrelid
                    where a.inhparent = to_regclass('attr_audit.poll_' || s.suffix)
                      and p.indrelid = c.oid)
 order by c.relname
"""
# Those of change that are missing, or were left invalid.
_MISSING_OF_CHANGE = """
select n.name, x.indisvalid is not null as is_invalid
  from unnest(cast(:names as text[])) n (name)
  left join pg_index x on x.indexrelid = to_regclass('attr_audit.' || n.name)
 where x.indisvalid is not true
 order by n.name
"""


def finish_migration(engine: Engine, report: Callable[[str], None]) -> None:
    """Note the gaps of earlier polls and build the indexes that are missing.

    ``engine``: the owner's. Through a pooler the indexes are not built, and ``report`` gets a
    sentence: building one needs a session. Raises LockTimeout as the engine does, and
    while another process builds them.
    """
    with engine.begin() as connection:
        connection.execute(text(f"set local role {OWNER}"))
        connection.execute(text("select attr_audit_internal.note_earlier_gaps()"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not any(_missing(connection)):
            return
        if is_pooled(connection):
            report(
                "Indexes of poll and of change are not built: this needs a session. Run "
                "this again with the URL of the Postgres server, not of a pooler."
            )
            return
        if not connection.execute(text(f"select pg_try_advisory_lock({_LOCK})")).scalar_one():
            raise LockTimeout("Another process builds the indexes of the audit database.")
        of_partitions, of_change = _missing(connection)
        connection.execute(text(f"set role {OWNER}"))
        for part, suffix, is_valid in of_partitions:
            _build(connection, part, suffix, is_valid)
        for name, is_invalid in of_change:
            if is_invalid:
                connection.execute(text(f"drop index concurrently attr_audit.{name}"))
            connection.execute(
                text(f"create index concurrently {name} on attr_audit.change {_OF_CHANGE[name]}")
            )


def _missing(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
    """The indexes that are missing or invalid: of partitions of poll, and of change."""
    suffixes, names = list(_OF_PARTITIONS), list(_OF_CHANGE)
    return (
        connection.execute(text(_MISSING), {"suffixes": suffixes}).all(),
        connection.execute(text(_MISSING_OF_CHANGE), {"names": names}).all(),
    )


def _build(connection: Connection, part: str, suffix: str, is_valid: bool | None) -> None:
    """One index of one partition, attached to its parent's."""
    index, schema = f"{part}_{suffix}", "attr_audit_internal"
    if is_valid is False:
        connection.execute(text(f"drop index concurrently {schema}.{index}"))
    if not is_valid:
        connection.execute(
            text(f"create index concurrently {index} on {schema}.{part} {_OF_PARTITIONS[suffix]}")
        )
    connection.execute(
        text(f"alter index attr_audit.poll_{suffix} attach partition {schema}.{index}")
    )
