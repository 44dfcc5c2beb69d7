"""An Airflow Connection of type postgres as a SQLAlchemy engine, always over psycopg2.

Airflow's own hook would take psycopg 3 and leave the TLS settings in the Connection's extra out of
the engine; it also costs every task process a third of a second.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2
from psycopg2.errors import DeadlockDetected, LockNotAvailable
from psycopg2.extensions import make_dsn
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.pool import NullPool

from im_attr_audit.errors import LockTimeout, UnsuitableDatabase
from im_attr_audit.frames import without_frames

#: Everything that could change a statement's meaning or its answer, and what bounds its time. It is
#: set in each transaction: a connection pooler may ignore start-up options, and it hands a session
#: over with whatever another client has set in it.
_TRANSACTION = """
set local client_encoding = 'UTF8';
set local standard_conforming_strings = on;
set local array_nulls = on;
set local search_path = attr_audit;
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local statement_timeout = '300s';
"""
_ISOLATION = "set transaction isolation level read committed;"
_MEMORY = "set local work_mem = '32MB';"

#: How long a statement waits for a lock, in seconds.
LOCK_SECONDS: float = 20

#: How the server refuses an option while a session starts. The driver gives only the text then.
_REFUSED_OPTION = re.compile(
    r"FATAL:\s+((?:unrecognized configuration parameter|invalid value for parameter"
    r"|permission denied to set parameter|parameter \".*\" cannot be changed"
    r"|invalid command-line argument for server process|-.* requires a value$).*)",
    re.MULTILINE,
)

#: A server that vanished without a word, as in a failover, is given up after a minute. The system's
#: own limits are hours, in which a task would hang and no other run begin. libpq ignores what the
#: system does not have.
_LIVENESS = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

_HOLDERS = text("""
select distinct on (held.pid)
       format('process %s (role %s, application "%s", %s on %s, since %s)',
              held.pid, seen.usename, seen.application_name, held.mode,
              coalesce(class.relname, 'the command''s lock'),
              coalesce(date_trunc('second', seen.xact_start, 'UTC')::text, 'an unknown time'))
  from pg_locks as held
  join pg_stat_activity as seen on seen.pid = held.pid
  left join pg_class as class on class.oid = held.relation
 where held.granted and held.pid <> pg_backend_pid()
   and held.database = (select oid from pg_database where datname = current_database())
   and (class.relkind in ('r', 'p')
        and class.relnamespace in (select oid from pg_namespace
                                    where nspname in ('attr_audit', 'attr_audit_internal'))
        and (held.mode <> 'AccessShareLock' or :command_lock is not null)
        or held.locktype = 'advisory' and held.objsubid = 1
        and (held.classid::bigint << 32 | held.objid::bigint) = :command_lock)
 order by held.pid, held.mode = 'AccessExclusiveLock' desc, class.relname limit 5
""")


def create_audit_engine(
    url: URL,
    connect_args: Mapping[str, Any] | None = None,
    *,
    pooled: bool = True,
    lock_seconds: float | None = None,
) -> Engine:
    """An engine for the audit database: psycopg2 whatever the URL says, UTF-8, UTC, bounded waits.

    A statement that takes longer than five minutes is given up; one that waits longer than
    ``lock_seconds`` (20) for a lock, or that is in a deadlock, raises LockTimeout. Connecting
    raises UnsuitableDatabase where the server's encoding is not UTF-8, where texts are not quoted
    as in standard SQL, or where a pooler refuses the connection's options. Not ``pooled``: every
    connection is closed after use.
    """
    given = {
        "application_name": "im-attr-audit",
        "connect_timeout": 30,
        **_LIVENESS,
        **(connect_args or {}),
        "client_encoding": "UTF8",  # PGCLIENTENCODING would count otherwise
    }
    kept: dict[str, Any] = {"pool_size": 2} if pooled else {"poolclass": NullPool}
    url = url.set(drivername="postgresql+psycopg2")
    _, options = url.get_dialect()().create_connect_args(url)
    connector = Connector({**options, **given})
    engine = create_engine(
        url.set(password=None),
        creator=connector,
        execution_options={"connector": connector},
        hide_parameters=True,
        pool_pre_ping=pooled,
        **kept,
    )
    event.listen(engine, "connect", _check_session)
    event.listen(engine, "handle_error", _explain)
    wait = round(1000 * (LOCK_SECONDS if lock_seconds is None else lock_seconds))
    statements = _TRANSACTION + f"set local lock_timeout = '{wait}ms';"
    if "work_mem" not in given.get("options", ""):  # the deployment's to choose
        statements += _MEMORY

    def set_up_transaction(connection: Connection) -> None:
        asked = connection.get_execution_options().get("isolation_level")
        cursor = connection.connection.cursor()
        cursor.execute(statements if asked else _ISOLATION + statements)
        cursor.close()

    event.listen(engine, "begin", set_up_transaction)
    return engine


class Connector:
    """Opens connections. The password is here alone: no engine and no error's frame shows it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @without_frames
    def __call__(self) -> Any:
        return psycopg2.connect(**self.options)


def connector_of(engine: Engine) -> Connector:
    """What opens the engine's connections; it can be sent to another process."""
    connector: Connector = engine.get_execution_options()["connector"]
    return connector


def engine_of_connector(connector: Connector) -> Engine:
    """An engine for the same database and role, without a pool."""
    return create_audit_engine(make_url("postgresql://"), connector.options, pooled=False)


def _check_session(connection: Any, _: object) -> None:
    """Refuse what cannot be set in a transaction.

    Names are Unicode: no other encoding of client or server can hold all of them. And the driver
    quotes texts by what ``standard_conforming_strings`` was when the session began.
    """
    server = connection.info.parameter_status("server_encoding")
    if server is None:  # a pooler need not report it
        with connection.cursor() as cursor:
            cursor.execute("show server_encoding")
            (server,) = cursor.fetchone()
        connection.rollback()
    if server != "UTF8":
        raise UnsuitableDatabase(
            f"The audit database's encoding is {server}, which cannot hold every name: create a "
            "database with encoding UTF8."
        )
    if connection.info.parameter_status("standard_conforming_strings") == "off":
        raise UnsuitableDatabase(
            "standard_conforming_strings is off for this role or database, which changes texts "
            "with backslashes: reset it with `alter role … reset standard_conforming_strings`."
        )
    if connection.encoding != "UTF8":  # a pooler ignored what was asked for
        connection.set_client_encoding("UTF8")


def _explain(context: ExceptionContext) -> None:
    """Replace a driver's error that has one known cause by a sentence."""
    error = context.original_exception
    if "unsupported startup parameter" in str(error):
        raise UnsuitableDatabase(
            "The connection pooler of the audit database refuses start-up options: remove "
            "`options` from the connection's extra, and PGOPTIONS from the environment."
        ) from None
    refused = _REFUSED_OPTION.search(str(error)) if context.connection is None else None
    if refused is not None:
        raise UnsuitableDatabase(
            "The audit database's server refuses the connection's start-up options "
            f"({refused[1]}): correct or remove `options` in the connection's extra, and "
            "PGOPTIONS in the environment."
        ) from None
    if isinstance(error, LockNotAvailable | DeadlockDetected) and context.engine is not None:
        raise LockTimeout(_lock_sentence(context.engine)) from None


def _lock_sentence(engine: Engine) -> str:
    sentence = "A lock in the audit database was not released in time."
    with contextlib.suppress(Exception):  # it only adds to the sentence
        sentence += f" {lock_holders(engine)}"
    return sentence


def lock_holders(engine: Engine, *, command_lock: int | None = None) -> str:
    """A sentence that names the sessions that hold locks in the audit database.

    ``command_lock``: the key of the advisory lock of a command of the owner. Such a command also
    waits for sessions that only read.
    """
    with engine.connect() as connection:
        holders = connection.execute(_HOLDERS, {"command_lock": command_lock}).scalars().all()
    return f"Locks are held by {'; '.join(holders)}." if holders else "It has been released since."


class PostgresConnection(Protocol):
    """What of an Airflow Connection is read, whichever of Airflow's two classes it is."""

    host: str | None
    port: int | None
    login: str | None
    password: str | None
    schema: str | None

    @property
    def extra_dejson(self) -> Mapping[str, Any]: ...


def engine_of_connection(connection: PostgresConnection, *, pooled: bool = True) -> Engine:
    """The engine; extras that libpq knows (sslmode, sslrootcert …) are given to it."""
    extra = connection.extra_dejson
    url = URL.create(
        "postgresql+psycopg2",
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=extra.get("database") or connection.schema,
        query=extra.get("sqlalchemy_query") or {},
    )
    options = {name: value for name, value in extra.items() if _is_libpq_option(name, value)}
    return create_audit_engine(url, options, pooled=pooled)


def _is_libpq_option(name: str, value: Any) -> bool:
    if name in ("database", "dbname", "host", "port", "user", "password"):
        return False
    try:
        make_dsn(None, **{name: value})
    except (psycopg2.ProgrammingError, TypeError):
        return False
    return True
