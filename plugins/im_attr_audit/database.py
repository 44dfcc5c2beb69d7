"""An Airflow Connection of type postgres as a SQLAlchemy engine, always over psycopg2.

Airflow's own hook would take psycopg 3 and leave the TLS settings in the Connection's extra out of
the engine; it also costs every task process a third of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from im_attr_audit.store import create_audit_engine


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
