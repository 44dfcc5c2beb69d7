"""An Airflow Connection of type postgres becomes an engine over psycopg2, its TLS settings too."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from im_attr_audit.record.engine import connector_of, engine_of_connection
from im_attr_audit.record.upkeep.owner import BadDatabaseUrl, owner_engine
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from launch.network import free_port
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


def test_of_several_hosts_the_one_that_can_be_written_to_is_used(audit_db: AuditDb) -> None:
    hosts = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{audit_db.server.port}"]
    known = connection(
        audit_db, target_session_attrs="read-write", sqlalchemy_query={"host": hosts}
    )
    known.host = known.port = None
    login = f"{WRITER}:{audit_db.server.password(WRITER)}"
    query = "&".join(f"host={host}" for host in hosts) + "&target_session_attrs=read-write"
    for engine in (
        engine_of_connection(known),
        owner_engine(f"postgresql://{login}@/{audit_db.name}?{query}", "test"),
    ):
        with engine.connect() as session:
            assert session.execute(text("select current_user")).scalar_one() == WRITER
        engine.dispose()


def test_hosts_with_a_comma_share_the_port_of_the_connection(audit_db: AuditDb) -> None:
    known = connection(audit_db, target_session_attrs="read-write")
    known.host = "127.0.0.2,127.0.0.1"  # nothing listens on the first one
    engine = engine_of_connection(known)
    with engine.connect() as session:
        assert session.execute(text("select current_user")).scalar_one() == WRITER
    engine.dispose()


def test_an_owners_url_in_libpqs_own_form_of_several_hosts_is_refused_by_a_sentence() -> None:
    with pytest.raises(BadDatabaseUrl, match="for several hosts as"):
        owner_engine("postgresql://owner@one:5432,two:5432/audit", "test")


def test_a_server_that_vanishes_is_given_up_after_a_minute(audit_db: AuditDb) -> None:
    engine = engine_of_connection(connection(audit_db))
    with contextlib.closing(connector_of(engine)()) as session:
        given = session.info.dsn_parameters
    assert {name: given[name] for name in given if name.startswith(("keepalives_", "tcp_"))} == {
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
