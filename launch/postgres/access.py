"""Getting into a server: passwords, connections, roles and databases."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.files import generated_secret

# `make clean` works where nothing is installed: the driver is imported where it is needed.
if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812

SUPERUSER = "postgres"


class Access:
    """What can be done with a server on loopback that one has the superuser's password of."""

    directory: Path

    @property
    def port(self) -> int:
        """The port it listens on; PostgresError where it does not run."""
        raise NotImplementedError

    def password(self, role: str) -> str:
        """The role's password: made at the first call, kept in a file only we can read."""
        return generated_secret(
            self.directory / "passwords" / role, lambda: secrets.token_urlsafe(24)
        )

    def url(
        self, dbname: str, role: str = SUPERUSER, *, driver: str = "postgresql+psycopg2"
    ) -> str:
        return f"{driver}://{role}:{self.password(role)}@127.0.0.1:{self.port}/{dbname}"

    @contextlib.contextmanager
    def connect(
        self, dbname: str = "postgres", role: str = SUPERUSER, **more: Any
    ) -> Iterator[Connection]:
        """A connection in autocommit mode, closed at the end."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=dbname,
            user=role,
            password=self.password(role),
            connect_timeout=10,
            **more,
        )
        try:
            connection.autocommit = True
            yield connection
        finally:
            connection.close()

    def ensure_role(self, role: str) -> None:
        """A role that may log in with the password kept for it; made where it is missing."""
        from psycopg2 import sql

        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1 from pg_roles where rolname = %s", (role,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            set_password(connection, role, self.password(role))

    def ensure_database(self, dbname: str, owner: str = SUPERUSER) -> None:
        """A database that nobody but its owner may connect to until somebody is let in."""
        from psycopg2 import sql

        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", (dbname,))
            if cursor.fetchone() is None:
                cursor.execute(
                    sql.SQL("create database {} owner {}").format(
                        sql.Identifier(dbname), sql.Identifier(owner)
                    )
                )
            cursor.execute(
                sql.SQL("revoke all on database {} from public").format(sql.Identifier(dbname))
            )


def set_password(connection: Connection, role: str, password: str) -> None:
    """Let a role log in with a password. Only its verifier is sent: the server may log texts."""
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password

    verifier = encrypt_password(password, role, connection, "scram-sha-256")
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("alter role {} login password {}").format(
                sql.Identifier(role), sql.Literal(verifier)
            )
        )
