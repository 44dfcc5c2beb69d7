"""An Airflow Connection of type postgres becomes an engine over psycopg2, its TLS settings too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from im_attr_audit.record.engine import engine_of_connection
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.conftest import WRITER, AuditDb


def connection(db: AuditDb, **extra: Any) -> Any:
    """The writer's connection, with these extras."""
    return SimpleNamespace(
        host="127.0.0.1",
        port=db.server.port,
        login=WRITER,
        password=db.server.password(WRITER),
        schema=db.name,
        extra_dejson=extra,
    )


def test_it_speaks_psycopg2_in_utc_with_bounded_waits(audit_db: AuditDb) -> None:
    engine = engine_of_connection(connection(audit_db))
    assert engine.driver == "psycopg2"
    with engine.connect() as session:
        settings = {
            name: session.execute(text(f"show {name}")).scalar_one()
            for name in ("timezone", "statement_timeout", "lock_timeout", "application_name")
        }
    engine.dispose()
    assert settings == {
        "timezone": "UTC",
        "statement_timeout": "5min",
        "lock_timeout": "20s",
        "application_name": "im-attr-audit",
    }


def test_extras_that_libpq_knows_reach_it_and_others_do_no_harm(audit_db: AuditDb) -> None:
    wanted = {
        "application_name": "audit",
        "options": "-c work_mem=8MB",
        "cursor": "x",
        "iam": False,
    }
    engine = engine_of_connection(connection(audit_db, **wanted))
    with engine.connect() as session:
        assert session.execute(text("show application_name")).scalar_one() == "audit"
        assert session.execute(text("show work_mem")).scalar_one() == "8MB"
        assert session.execute(text("show timezone")).scalar_one() == "UTC"
    engine.dispose()


def test_a_demand_for_tls_is_not_dropped(audit_db: AuditDb) -> None:
    # The test server has no TLS: a client that demands it is refused, not served without it.
    engine = engine_of_connection(connection(audit_db, sslmode="require"))
    with pytest.raises(OperationalError, match="SSL"):
        engine.connect()
    engine.dispose()
