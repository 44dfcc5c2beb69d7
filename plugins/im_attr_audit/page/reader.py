"""The page's way to the audit database: one pooled engine, short read-only transactions.

Nothing but the reader's Connection is used where there is one. A Connection that was changed in
Airflow counts within seconds; a password in it is never shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, TimeoutError

from im_attr_audit.errors import LockTimeout, SecretsUnavailable, UnsuitableDatabase
from im_attr_audit.frames import without_frames
from im_attr_audit.record.engine import PostgresConnection, engine_of_connection
from im_attr_audit.settings import AUDIT_DB as WRITER
from im_attr_audit.settings import AUDIT_DB_READER as READER
from im_attr_audit.settings import BadSetting

#: How long a Connection is used before Airflow is asked for it again, in seconds.
_TRUSTED_FOR = 30.0


class CannotRead(Exception):
    """The record cannot be read: ``code`` for programs, ``what`` and ``what_next`` for people."""

    def __init__(self, code: str, what: str, what_next: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.what_next = what_next


class Reader:
    """Transactions on the audit database. ``lookup`` gives the Connection, or None."""

    def __init__(self, lookup: Callable[[], PostgresConnection | None]) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._connection: PostgresConnection | None = None
        self._identity: tuple[object, ...] = ()
        self._looked_up_at = 0.0

    @contextmanager
    def transaction(self, *, seconds: int = 10) -> Iterator[Connection]:
        """A read-only transaction whose statements end after so many seconds; or CannotRead."""
        with self._reading(self._current_engine, seconds) as connection:
            yield connection

    @contextmanager
    def own_transaction(self, *, seconds: int) -> Iterator[Connection]:
        """The same over a connection of its own, which is none of the pool's: for long streams."""
        with self._reading(self._engine_without_pool, seconds) as connection:
            yield connection

    @contextmanager
    def _reading(self, engine: Callable[[], Engine], seconds: int) -> Iterator[Connection]:
        try:
            with engine().connect() as connection:
                # One round trip; the figure is an integer of ours.
                connection.exec_driver_sql(
                    "set transaction isolation level repeatable read, read only; "
                    f"set local statement_timeout = '{int(seconds)}s'; "
                    f"set local lock_timeout = '{min(5, int(seconds) - 1)}s'"
                )
                yield connection
        except UnsuitableDatabase as error:
            raise CannotRead("unsuitable", str(error), "Fix it and reload this page.") from None
        except LockTimeout as error:
            raise CannotRead("locked", str(error), "Reload this page in a minute.") from None
        except (DBAPIError, TimeoutError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            self._looked_up_at = 0.0
            # The cause would put host and user into the caller's log.
            raise reason from None

    @without_frames
    def _current_engine(self) -> Engine:
        with self._lock:
            if self._engine is not None and time.monotonic() - self._looked_up_at < _TRUSTED_FOR:
                return self._engine
            connection = self._lookup()
            if connection is None:
                raise CannotRead(
                    "no_connection",
                    f"Airflow has no connection {READER}, and no {WRITER} either.",
                    f"Create the connection {READER} (type postgres, role attr_audit_reader), and "
                    f"run `im-attr-audit migrate` on its database.",
                )
            identity = (
                connection.host,
                connection.port,
                connection.login,
                connection.password,
                connection.schema,
                repr(sorted(connection.extra_dejson.items())),
            )
            if self._engine is None or identity != self._identity:
                if self._engine is not None:
                    self._engine.dispose()
                self._engine = engine_of_connection(connection)
                self._connection = connection
                self._identity = identity
            self._looked_up_at = time.monotonic()
            return self._engine

    @without_frames
    def _engine_without_pool(self) -> Engine:
        self._current_engine()
        assert self._connection is not None  # noqa: S101 - an engine was made of it
        return engine_of_connection(self._connection, pooled=False)

    def dispose(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None


def connection_from_airflow() -> PostgresConnection | None:
    """The reader's Connection where it exists, else the writer's.

    CannotRead where a secrets backend failed: the reader's is then not known to be missing.
    """
    from im_attr_audit.lookup import find_reading_connection

    try:
        return find_reading_connection()
    except SecretsUnavailable as error:
        raise CannotRead(
            "secrets_unavailable", f"Cannot connect: {error}.", "Check the secrets backend."
        ) from None
    except BadSetting as error:
        raise CannotRead("misconfigured", f"Cannot connect: {error}.", "Fix it.") from None


def _reason(error: DBAPIError | TimeoutError) -> CannotRead | None:
    state = getattr(getattr(error, "orig", None), "pgcode", None)
    if state in ("42P01", "3F000", "42883", "42703"):
        return CannotRead(
            "not_migrated",
            "The audit database has no schema attr_audit yet, or an older one.",
            "Run `im-attr-audit migrate` with the owner's URL in IM_ATTR_AUDIT_DATABASE_URL.",
        )
    if state == "42501":
        return CannotRead(
            "no_privilege",
            "The role of the page's connection has no permission to read the schema attr_audit.",
            f"Let {READER} log in as attr_audit_reader, or run `im-attr-audit migrate`, which "
            f"grants it what it needs.",
        )
    if state == "57014":
        return CannotRead(
            "timeout",
            "The audit database took too long to answer this request; it was cancelled.",
            "Narrow it down: a shorter period, one app, one group.",
        )
    if isinstance(error, DataError):
        return CannotRead(
            "unreadable_row",
            "A row that this request needs holds a value that cannot be read.",
            "Run `im-attr-audit verify`, which names rows that are not as they were recorded.",
        )
    if isinstance(error, OperationalError | InterfaceError | TimeoutError):
        return CannotRead(
            "database_down",
            "The audit database cannot be reached.",
            f"Check that Postgres is up and that the connection {READER} (or {WRITER}) has "
            f"the right host, port, database, user and password. Until then the DAG records "
            f"nothing either; what is recorded is safe.",
        )
    return None
