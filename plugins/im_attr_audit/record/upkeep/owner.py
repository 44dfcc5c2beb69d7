"""What `migrate` and `retention` share: the owner's login, and waiting for locks without blocking.

A waiting lock request blocks everyone who comes after it. So each wait is short; then the holder is
reported, and it is tried again until patience runs out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from im_attr_audit.errors import AttrAuditError, LockTimeout
from im_attr_audit.record.engine import create_audit_engine, lock_holders

#: How long one wait for a lock takes, in seconds.
LOCK_SECONDS = 2.0

T = TypeVar("T")


class BadDatabaseUrl(AttrAuditError):
    """The owner's URL cannot be used; the text says how to write it."""


def owner_engine(url: str, application: str, lock_seconds: float | None = LOCK_SECONDS) -> Engine:
    """An engine for the owner's or sealer's URL; each connection is closed after use.

    ``lock_seconds``: how long a statement waits for a lock; None: as long as the sync does. Raises
    BadDatabaseUrl.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: libpq's own form of several hosts with ports
        raise BadDatabaseUrl(
            "The database URL cannot be read. Write it as "
            "postgresql://user:password@host/database, or for several hosts as "
            "postgresql://user:password@/database?host=one:5432"
            "&host=two:5432&target_session_attrs=read-write."
        ) from None
    return create_audit_engine(
        parsed, {"application_name": application}, pooled=False, lock_seconds=lock_seconds
    )


def retry_while_locked(
    engine: Engine,
    action: Callable[[], T],
    *,
    lock: int,
    patience: float,
    report: Callable[[str], None],
) -> T:
    """Do it again while locks are in the way, for ``patience`` seconds; gives its result.

    ``report`` gets a sentence whenever other sessions hold the locks than before. ``lock`` is the
    key of the advisory lock. Raises LockTimeout, naming the holders, when patience has run out.
    """
    until = time.monotonic() + patience
    pause, reported = 0.5, ""
    while True:
        try:
            return action()
        except LockTimeout:
            holders = lock_holders(engine, command_lock=lock)
            if time.monotonic() + pause > until:
                raise LockTimeout(
                    f"A lock was not released within {patience:.0f} s. {holders}"
                ) from None
            if holders != reported:
                report(f"Waiting for a lock. {holders}")
                reported = holders
            time.sleep(pause)
            pause = min(2 * pause, 10.0)


def is_pooled(connection: Connection) -> bool:
    """Whether a pooler stands between: the server's process is not the one that logged us in."""
    process = connection.execute(text("select pg_backend_pid()")).scalar_one()
    return bool(process != connection.connection.dbapi_connection.info.backend_pid)  # type: ignore[union-attr]
