"""An Airflow Connection of type postgres as a SQLAlchemy engine, always over psycopg2.

Airflow's own hook would take psycopg 3 and leave the TLS settings in the Connection's extra out of
the engine; it also costs every task process a third of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL


def create_audit_engine(url: URL, connect_args: Mapping[str, Any] | None = None) -> Engine:
    """An engine for the audit database: psycopg2 whatever the URL says, UTC, bounded waits.

    A statement that waits longer than five minutes (two for a lock) is given up: the task fails,
    and Airflow tries it again.
    """
    given = dict(connect_args or {})
    # The last one counts: memory is the deployment's to choose, the rest is ours.
    given["options"] = (
        f"-c work_mem=32MB {given.get('options') or ''} "
        "-c TimeZone=UTC -c statement_timeout=300s -c lock_timeout=120s"
    )
    given.setdefault("application_name", "im-attr-audit")
    given.setdefault("connect_timeout", 30)
    return create_engine(
        url.set(drivername="postgresql+psycopg2"),
        connect_args=given,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=2,
    )


class PostgresConnection(Protocol):
    """What of an Airflow Connection is read, whichever of Airflow's two classes it is."""

    host: str | None
    port: int | None
    login: str | None
    password: str | None
    schema: str | None

    @property
    def extra_dejson(self) -> Mapping[str, Any]: ...


def engine_of_connection(connection: PostgresConnection) -> Engine:
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
    return create_audit_engine(url, {k: v for k, v in extra.items() if _is_libpq_option(k, v)})


def _is_libpq_option(name: str, value: Any) -> bool:
    if name in ("database", "dbname", "host", "port", "user", "password"):
        return False
    try:
        make_dsn(None, **{name: value})
    except (psycopg2.ProgrammingError, TypeError):
        return False
    return True
