"""The one Postgres that every side writes to: embedded, in a temporary folder, with real fsync."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.record.upkeep.roles import WRITER

from launch.postgres import EmbeddedPostgres


@contextlib.contextmanager
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server with the settings of `make run`; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.start()
        try:
            yield server
        finally:
            server.destroy()


def plain_url(server: EmbeddedPostgres, name: str, role: str = "postgres") -> str:
    """As libpq reads it."""
    return server.url(name, role, driver="postgresql")


def fresh(server: EmbeddedPostgres, name: str, *, ours: bool = True) -> None:
    """An empty database of that name, with our schema in it unless said."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database if exists {name} with (force)")
        cursor.execute(f"create database {name}")
    if ours:
        migrate(server.url(name))
        server.ensure_role(WRITER)
        with server.connect(name) as connection, connection.cursor() as cursor:
            # The polls of a comparison lie some hours back.
            cursor.execute(
                "select attr_audit_internal.create_poll_partition((now() - interval '1 day')::date)"
            )


def settle(server: EmbeddedPostgres, name: str) -> None:
    """What autovacuum would do soon, done now, so that it happens to no side while it is timed."""
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute("vacuum analyze")
        cursor.execute("checkpoint")
