"""An Airflow Connection of type postgres as a SQLAlchemy engine, always over psycopg2.

Airflow's own hook would take psycopg 3 and leave the TLS settings in the Connection's extra out of
the engine; it also costs every task process a third of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from im_attr_audit.errors import AttrAuditError

#: What every transaction needs, set in it: a connection pooler may drop start-up options, and hands
#: a session's settings to its next client.
_TRANSACTION = """
set local timezone = 'UTC';
set local statement_timeout = '300s';
set local lock_timeout = '20s';
"""
_MEMORY = "set local work_mem = '32MB';"


class UnsuitableDatabase(AttrAuditError):
    """The audit database cannot hold names as they are; the text says what to do."""


def create_audit_engine(
    url: URL, connect_args: Mapping[str, Any] | None = None, *, pooled: bool = True
) -> Engine:
    """An engine for the audit database: psycopg2 whatever the URL says, UTF-8, UTC, bounded waits.

    A statement that takes longer than five minutes, or waits longer than 20 seconds for a lock, is
    given up: the task fails, and Airflow retries it. Connecting raises UnsuitableDatabase where
    the server's encoding is not UTF-8. Not ``pooled``: every connection is closed after use.
    """
    given = {
        "application_name": "im-attr-audit",
        "connect_timeout": 30,
        **(connect_args or {}),
        "client_encoding": "UTF8",  # PGCLIENTENCODING would count otherwise
    }
    kept: dict[str, Any] = {"pool_size": 2} if pooled else {"poolclass": NullPool}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg2"),
        connect_args=given,
        hide_parameters=True,
        pool_pre_ping=pooled,
        **kept,
    )
    event.listen(engine, "connect", _check_encoding)
    # Memory is the deployment's to choose, in the connection's options.
    statements = _TRANSACTION + ("" if "work_mem" in given.get("options", "") else _MEMORY)

    def set_up_transaction(connection: Connection) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(statements)
        cursor.close()

    event.listen(engine, "begin", set_up_transaction)
    return engine


def _check_encoding(connection: Any, _: object) -> None:
    """Names are Unicode: no other encoding of client or server can hold all of them."""
    server = connection.info.parameter_status("server_encoding")
    if server not in (None, "UTF8"):
        raise UnsuitableDatabase(
            f"the audit database's encoding is {server}: create one with encoding UTF8"
        )
    if connection.info.parameter_status("client_encoding") != "UTF8":
        connection.set_client_encoding("UTF8")


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
