"""Both databases, ready for use: Airflow's own (always embedded) and the audit's.

The audit's is embedded too unless IM_ATTR_AUDIT_DATABASE_URL names a Postgres of one's own. That
URL is the owner's: it goes no further than here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from im_attr_audit.record.upkeep.roles import READER, SEALER, WRITER

from launch.files import write_private
from launch.postgres import EmbeddedPostgres, set_password
from launch.state import LaunchError, State, say

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

AIRFLOW = "airflow"
AUDIT = "attr_audit"
OLDEST, NEWEST = 15, 18


@dataclass(frozen=True, slots=True)
class Databases:
    """Where they are and who may do what, in the forms their users need."""

    airflow_url: str = field(repr=False)
    writer: str = field(repr=False)  # Airflow Connections in JSON form
    reader: str = field(repr=False)


def prepare(state: State, server: EmbeddedPostgres, user: Mapping[str, str]) -> Databases:
    """Make what is missing, migrate what is old; next to nothing where all is there."""
    server.ensure_role(AIRFLOW)
    server.ensure_database(AIRFLOW, owner=AIRFLOW)
    url = user.get("IM_ATTR_AUDIT_DATABASE_URL", "").strip()
    if url:
        writer, reader = _prepare_own(state, url, user)
    else:
        writer, reader = _prepare_embedded(server)
    return Databases(
        airflow_url=server.url(AIRFLOW, AIRFLOW),
        writer=user.get("AIRFLOW_CONN_IM_ATTR_AUDIT_DB") or writer,
        reader=user.get("AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER") or reader,
    )


def reader(state: State, server: EmbeddedPostgres, user: Mapping[str, str]) -> str:
    """The reader's Connection alone. Where the embedded one is there already, at no cost."""
    if not user.get("IM_ATTR_AUDIT_DATABASE_URL"):
        with contextlib.suppress(psycopg2.OperationalError), server.connect(AUDIT, READER):
            return _embedded(server, READER)
    ready = prepare(state, server, user)
    if ready.reader == ready.writer:
        raise LaunchError(
            "AIRFLOW_CONN_IM_ATTR_AUDIT_DB is given without a reader to go with it: give "
            "AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER too, attr_audit_reader's (see .env.example)."
        )
    return ready.reader


def _prepare_embedded(server: EmbeddedPostgres) -> tuple[str, str]:
    from im_attr_audit.record.upkeep.migrate import migrate

    server.ensure_database(AUDIT)
    migrate(server.url(AUDIT))
    for role in (WRITER, READER, SEALER):
        server.ensure_role(role)
    return _embedded(server, WRITER), _embedded(server, READER)


def _embedded(server: EmbeddedPostgres, role: str) -> str:
    return _connection(
        login=role,
        password=server.password(role),
        host="127.0.0.1",
        port=server.port,
        schema=AUDIT,
    )


def _prepare_own(state: State, url: str, user: Mapping[str, str]) -> tuple[str, str]:
    from im_attr_audit.record.upkeep.migrate import migrate

    parsed = _parsed(url)
    query = {name: value for name, value in parsed.query.items() if isinstance(value, str)}
    place = {
        "host": parsed.host,
        "port": parsed.port or 5432,
        "dbname": parsed.database,
        **query,
    }
    given_writer = user.get("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", "")
    with contextlib.closing(_connect_as_owner(parsed, place)) as owner:
        migrate(url)
        if given_writer:
            # A user who gave only the writer's connection reads with that one.
            return given_writer, given_writer
        passwords = {role: state.secret(role) for role in (WRITER, READER)}
        for role, password in passwords.items():
            _let_in(owner, role, password, place)
    shared = {
        "host": parsed.host,
        "port": place["port"],
        "schema": parsed.database,
        "extra": {**query, "sqlalchemy_query": query} if query else {},
    }
    return (
        _connection(login=WRITER, password=passwords[WRITER], **shared),
        _connection(login=READER, password=passwords[READER], **shared),
    )


def _parsed(url: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except ArgumentError:  # its text would hold the URL, and that a password
        raise LaunchError(
            "IM_ATTR_AUDIT_DATABASE_URL is not a valid URL. It has the form "
            "postgresql://user:password@host:port/database"
        ) from None


def _connect_as_owner(url: URL, place: Mapping[str, Any]) -> psycopg2.extensions.connection:
    try:
        owner: psycopg2.extensions.connection = psycopg2.connect(
            user=url.username, password=url.password, connect_timeout=15, **place
        )
    except (psycopg2.OperationalError, psycopg2.ProgrammingError) as error:
        raise LaunchError(
            f"The database of IM_ATTR_AUDIT_DATABASE_URL ({url.host}) cannot be reached: "
            f"{str(error).strip()}"
        ) from None
    owner.autocommit = True
    version = owner.server_version // 10000
    if version < OLDEST:
        owner.close()
        raise LaunchError(
            f"The database of IM_ATTR_AUDIT_DATABASE_URL is PostgreSQL {version}; "
            f"{OLDEST} to {NEWEST} are supported."
        )
    if version > NEWEST:
        say(f"Note: PostgreSQL {version} is newer than what this was tested with ({NEWEST}).")
    return owner


def _let_in(
    owner: psycopg2.extensions.connection, role: str, password: str, place: Mapping[str, Any]
) -> None:
    """Let the role log in with our password; nothing where it can already."""
    try:
        psycopg2.connect(user=role, password=password, connect_timeout=15, **place).close()
    except psycopg2.OperationalError:
        pass
    else:
        return
    try:
        set_password(owner, role, password)
    except psycopg2.errors.InsufficientPrivilege:
        raise LaunchError(
            f"The login of IM_ATTR_AUDIT_DATABASE_URL may not set the password of {role}. Have it "
            "set by a user who can, and give the connection: AIRFLOW_CONN_IM_ATTR_AUDIT_DB="
            '\'{"conn_type": "postgres", "login": "attr_audit_writer", "password": "...", '
            '"host": "...", "port": 5432, "schema": "..."}\''
        ) from None
    say(f"A new password was set for {role} on {place['host']}.")


def url_of(connection: str) -> URL:
    """A Connection as Airflow writes it into the environment, as JSON or as a URI."""
    from sqlalchemy.engine import URL, make_url

    if not connection.lstrip().startswith("{"):
        return make_url(connection).set(drivername="postgresql+psycopg2")
    fields = json.loads(connection)
    extra = fields.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    return URL.create(
        "postgresql+psycopg2",
        fields.get("login"),
        fields.get("password"),
        fields.get("host"),
        fields.get("port"),
        fields.get("schema"),
        extra.get("sqlalchemy_query") or {},
    )


def pgpass(url: URL) -> str:
    """The line of a libpq password file for it."""
    fields = (url.host, url.port or 5432, url.database, url.username, url.password)
    return ":".join(str(field).replace("\\", "\\\\").replace(":", "\\:") for field in fields) + "\n"


def without_password(url: URL) -> str:
    """The address as every Postgres client takes it."""
    return url._replace(drivername="postgresql", password=None).render_as_string()


def show_reader(state: State, databases: Databases) -> tuple[str, Path] | None:
    """The reader's address for BI tools, and the file that its password is written to.

    None where there is no reader: a user gave the writer's connection alone.
    """
    if databases.reader == databases.writer:
        return None
    url = url_of(databases.reader)
    path = state.secrets / "reader.pgpass"
    write_private(path, pgpass(url))
    return without_password(url), path


def _connection(**fields: Any) -> str:
    return json.dumps({"conn_type": "postgres", **fields})
