"""Drop old months of poll, without stopping the sync and without waiting behind a long query.

A month is detached concurrently and then dropped; both give way after a short wait for a lock and
come back. A detaching that was interrupted is finished first. The table change is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from im_attr_audit.errors import AttrAuditError, LockTimeout
from im_attr_audit.record.upkeep.owner import is_pooled, owner_engine, retry_while_locked
from im_attr_audit.record.upkeep.roles import OWNER

#: Two years, and the month that is running out of them.
KEEP_MONTHS = 25
#: How long one try waits for a lock. Others that use the same table wait as long.
LOCK_SECONDS = 2.0

#: Two retentions or folds at once would get into each other's way.
LOCK = 0x706F6C6C73


class RetentionRefused(AttrAuditError):
    """Nothing more can or may be dropped now; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Month:
    """One monthly table: a partition of poll, one half detached, or one that was detached."""

    table: str
    ends_at: datetime
    state: str  # attached, detaching, detached


def drop_old_polls(
    url: str,
    *,
    keep_months: int = KEEP_MONTHS,
    older_than: datetime | None = None,
    patience: float = 60,
    report: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Drop poll's months that lie wholly before ``older_than``; gives the dropped tables' names.

    ``older_than`` (aware) is by default ``keep_months`` whole months before the running one (UTC,
    the database's clock). Raises RetentionRefused where that would drop the running month, and
    where queries have held a month for ``patience`` seconds: what is then half done is finished
    next time.
    """
    # A month cannot be detached concurrently inside a transaction, so this needs a session.
    engine = owner_engine(url, "im-attr-audit retention").execution_options(
        isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        if is_pooled(connection):
            raise RetentionRefused(
                "The database URL leads through a connection pooler. Detaching a month needs one "
                "session: use the URL of the Postgres server itself."
            )
        for statement in (
            f"set role {OWNER}",
            "set timezone = 'UTC'",
            "set statement_timeout = 0",
            f"set lock_timeout = '{int(LOCK_SECONDS * 1000)}ms'",
        ):
            connection.execute(text(statement))

        def locked(action: Callable[[], None]) -> None:
            retry_while_locked(engine, action, lock=LOCK, patience=patience, report=report)

        locked(lambda: _lock(connection))
        limit = _limit(connection, keep_months, older_than)
        for month in _months(connection):
            # One that is half detached, whatever its age: until it is finished no other can begin.
            if month.state == "detaching":
                _take(connection, month.table, locked, drop=False)
        dropped = []
        for month in _months(connection):
            if month.ends_at <= limit:
                _take(connection, month.table, locked, drop=True)
                dropped.append(month.table)
        return dropped


def _lock(connection: Connection) -> None:
    connection.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK})


def _limit(connection: Connection, keep_months: int, older_than: datetime | None) -> datetime:
    running: datetime = connection.execute(
        text("select date_trunc('month', now(), 'UTC')")
    ).scalar_one()
    if older_than is None:
        if keep_months < 0:
            raise RetentionRefused("Months to keep cannot be less than 0.")
        back = running.year * 12 + running.month - 1 - keep_months
        older_than = datetime(max(back // 12, 1), back % 12 + 1, 1, tzinfo=UTC)
    if older_than > running:
        raise RetentionRefused(
            f"The polls since {running:%Y-%m-%d} are of the running month and are not dropped. "
            "Choose an earlier limit."
        )
    return older_than


_MONTHS = r"""
select c.relname as "table",
       case when i.inhrelid is null then 'detached'
            when i.inhdetachpending then 'detaching'
            else 'attached'
        end as state,
       case when i.inhrelid is null
            then to_date(right(c.relname, 7), 'YYYY_MM')::timestamptz + interval '1 month'
            else substring(pg_get_expr(c.relpartbound, c.oid) from $$TO \('(.+)'\)$$)::timestamptz
        end as ends_at
  from pg_class c
  left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'attr_audit.poll'::regclass
 where c.relnamespace = 'attr_audit_internal'::regnamespace and c.relkind = 'r'
   and c.relname ~ '^poll_\d{4}_\d{2}$'
 order by c.relname
"""


def _months(connection: Connection) -> list[_Month]:
    return [_Month(row.table, row.ends_at, row.state) for row in connection.execute(text(_MONTHS))]


def _take(
    connection: Connection,
    table: str,
    locked: Callable[[Callable[[], None]], None],
    *,
    drop: bool,
) -> None:
    """Detach the month, from wherever it stands, and drop it; gives way to other sessions."""
    detach = f"alter table attr_audit.poll detach partition attr_audit_internal.{table}"
    steps = {
        "attached": f"{detach} concurrently",
        "detaching": f"{detach} finalize",
        "detached": f"drop table attr_audit_internal.{table}",
    }

    def advance() -> None:
        # One that gave way may have left it a step further: always look first.
        while state := _state(connection, table):
            if state == "detached" and not drop:
                return
            connection.execute(text(steps[state]))

    try:
        locked(advance)
    except LockTimeout as error:
        raise RetentionRefused(
            f"attr_audit_internal.{table} is in use. {error} Run this again later: what is half "
            "done is finished then."
        ) from None


def _state(connection: Connection, table: str) -> str | None:
    return next((m.state for m in _months(connection) if m.table == table), None)
