"""What a migration leaves to be done beside a running sync, without blocking it.

An index on a table with rows is built concurrently, which no transaction can hold; the gaps between
earlier polls are noted in a transaction of their own, which locks nothing. Each step that is done
already is skipped, and an interrupted one is begun again by the next `migrate`.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, text

from im_attr_audit.errors import LockTimeout
from im_attr_audit.record.owner import is_pooled
from im_attr_audit.record.roles import OWNER

#: Held while indexes are built. It is never waited for: a statement that waits holds a snapshot,
#: and building an index waits for that.
_LOCK = 0x66696E697368

_CHANGE_BY_DAY = (
    "create index concurrently change_by_day on attr_audit.change "
    "(((seen_at at time zone 'UTC')::date))"
)
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
_DAY_IS_VALID = """
select x.indisvalid from pg_index x where x.indexrelid = to_regclass('attr_audit.change_by_day')
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
    given = {"suffixes": list(_OF_PARTITIONS)}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        missing = connection.execute(text(_MISSING), given).all()
        day = connection.execute(text(_DAY_IS_VALID)).scalar_one_or_none()
        if not missing and day:
            return
        if is_pooled(connection):
            report(
                "Indexes of poll and of changes per day are not built: this needs a session. Run "
                "this again with the URL of the Postgres server, not of a pooler."
            )
            return
        if not connection.execute(text(f"select pg_try_advisory_lock({_LOCK})")).scalar_one():
            raise LockTimeout("Another process builds the indexes of the audit database.")
        missing = connection.execute(text(_MISSING), given).all()
        day = connection.execute(text(_DAY_IS_VALID)).scalar_one_or_none()
        connection.execute(text(f"set role {OWNER}"))
        for part, suffix, is_valid in missing:
            _build(connection, part, suffix, is_valid)
        if day is False:
            connection.execute(text("drop index concurrently attr_audit.change_by_day"))
        if not day:
            connection.execute(text(_CHANGE_BY_DAY))


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
