"""Bring an audit database up to date: its roles, its schema, its grants.

The schema's steps are SQL files under ``sql/migrations``, run in order by Alembic as
``attr_audit_owner``; the roles come before them, since they belong to the whole server. Running it
again changes nothing. A step that has to wait for a long query gives way and tries again, so that
the sync never queues behind a waiting migration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from im_attr_audit.errors import AttrAuditError, UnsuitableDatabase
from im_attr_audit.record.upkeep.finish import finish_migration
from im_attr_audit.record.upkeep.owner import owner_engine, retry_while_locked
from im_attr_audit.record.upkeep.reference import load_reference_data
from im_attr_audit.record.upkeep.roles import OWNER, READER, SEALER, WRITER

ROLES = (OWNER, WRITER, READER, SEALER)

#: Two migrations at once must not both create the first table.
_LOCK = 0x696D5F61747472

#: Where Alembic keeps the revision (migrations/env.py says the same).
VERSION_SCHEMA = "attr_audit_internal"
#: The revision that moved the partitions and functions there.
_MOVED = "0006"
_FOR_PREVIOUS_PACKAGE = ", ".join(
    f"attr_audit.{function}"
    for function in (
        "ensure_poll_partitions()",
        "correct_future_times(text[], bigint[], timestamptz)",
        "snapshot_digest_of(text, bigint)",
        "epoch_us(timestamptz)",
    )
)
#: The revision that leaves work to `finish_migration`.
_QUESTIONS = "0007"

#: The steps lock tables in an order of their own. Locked first in the order in which a poll is
#: recorded, they cannot wait for a task that waits for them. Readers continue.
_AS_RECORDING = """
lock table attr_audit.app, attr_audit.poll, attr_audit.change, attr_audit.snapshot in exclusive mode
"""

_NOT_VALIDATED = """
select 'attr_audit.' || relname, conname
  from pg_constraint
  join pg_class c on c.oid = conrelid
 where contype = 'f' and not convalidated and connamespace = 'attr_audit'::regnamespace
 order by 1
"""


class MigrationRefused(AttrAuditError):
    """The database cannot be migrated as it is; the text says what to do."""


def sql_directory() -> Path:
    """Where the migrations and queries are: in the installed package, or beside ``plugins/``."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "sql"
    return inside if inside.is_dir() else package.parents[1] / "sql"


def print_roles(database: str, migrator: str = "<the migrating login>") -> str:
    """SQL for a DBA: what the migrating login needs where it may not create roles itself."""
    return f"""\
-- Once per server. Where a role exists already, its line fails and changes nothing.
create role {OWNER} nologin;
create role {WRITER} login;
create role {READER} login;
create role {SEALER} login;
alter role {WRITER} set search_path = attr_audit;
alter role {READER} set search_path = attr_audit;
alter role {SEALER} set search_path = attr_audit;
-- Passwords, in psql: \\password {WRITER} and \\password {READER}, and for
-- `im-attr-audit checkpoint` \\password {SEALER}
-- The login that runs `im-attr-audit migrate` acts as the owner:
grant {OWNER} to {_quoted(migrator)};
-- Once per database (in UTF8: encoding 'UTF8' template template0):
grant connect, create on database {_quoted(database)} to {OWNER};
grant connect on database {_quoted(database)} to {WRITER}, {READER}, {SEALER};
"""


def migrate(
    url: str,
    revision: str = "head",
    *,
    patience: float = 30,
    report: Callable[[str], None] = lambda _: None,
) -> str:
    """Migrate the database at the owner's URL; gives the revision it is at now.

    One transaction for the steps, the role and the lock included. A second one for what does not
    stop the sync: reference data, and old rows checked against new foreign keys. What takes long on
    a large record follows beside a running sync (`finish_migration`). A pooler's server
    connection is left unchanged. ``report`` gets a sentence when other sessions hold locks; after
    ``patience`` seconds LockTimeout is raised. Raises MigrationRefused where the server is older
    than PostgreSQL 15, where the database is not in UTF8, or where roles are missing and the login
    may not create them.
    """
    engine = owner_engine(url, "im-attr-audit migrate")

    def once() -> str:
        with engine.begin() as connection:
            _check_version(connection)
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _ensure_roles(connection)
            _set_search_path(connection, report)
            return _upgrade(connection, revision)

    def complete() -> None:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(text(f"set local role {OWNER}"))
            load_reference_data(connection)
            _validate_foreign_keys(connection, report)

    def finish() -> None:
        finish_migration(engine, report)

    try:
        at = retry_while_locked(engine, once, lock=_LOCK, patience=patience, report=report)
        if at >= _MOVED:
            retry_while_locked(engine, complete, lock=_LOCK, patience=patience, report=report)
        if at >= _QUESTIONS:
            retry_while_locked(engine, finish, lock=_LOCK, patience=patience, report=report)
        return at
    except UnsuitableDatabase:
        _check_encoding(url)
        raise


def revisions() -> list[str]:
    """Every revision, oldest first."""
    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in reversed(list(script.walk_revisions()))]


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(sql_directory() / "migrations").replace("%", "%%")
    )
    return config


def _upgrade(connection: Connection, revision: str) -> str:
    connection.execute(text(f"set local role {OWNER}"))
    connection.execute(text("create schema if not exists attr_audit"))
    connection.execute(text("create schema if not exists attr_audit_internal"))
    _move_version_table(connection)
    before = _revision(connection)
    config = _config()
    config.attributes["connection"] = connection
    if before not in (None, revisions()[-1] if revision == "head" else revision):
        connection.execute(text(_AS_RECORDING))
    command.upgrade(config, revision)
    at = _revision(connection) or ""
    if at < _MOVED:
        connection.execute(text("select attr_audit.ensure_poll_partitions()"))
        return at
    # Also on a run that changes nothing: the next months' partitions.
    connection.execute(text("select attr_audit_internal.ensure_poll_partitions()"))
    if before in (None, at):
        # The package before _MOVED calls them until it is replaced. By the second run it is.
        connection.execute(text(f"drop function if exists {_FOR_PREVIOUS_PACKAGE}"))
    return at


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table_schema": VERSION_SCHEMA}
    ).get_current_revision()


def _move_version_table(connection: Connection) -> None:
    """Alembic's table was in attr_audit before _MOVED. A table left there counts if it has a row.

    An older package that is run on a newer schema may leave an empty table there.
    """
    old, new = "attr_audit.alembic_version", f"{VERSION_SCHEMA}.alembic_version"
    exists = text("select to_regclass(:name) is not null")
    if not connection.execute(exists, {"name": old}).scalar_one():
        return
    if connection.execute(exists, {"name": new}).scalar_one():
        rows = f"select count(*) from {new}"  # noqa: S608
        keep = new if connection.execute(text(rows)).scalar_one() else old
        connection.execute(text(f"drop table {old if keep == new else new}"))
        if keep == new:
            return
    connection.execute(text(f"alter table {old} set schema {VERSION_SCHEMA}"))


def _validate_foreign_keys(connection: Connection, report: Callable[[str], None]) -> None:
    """Check the rows recorded before a foreign key was added, while the sync continues.

    Rows without an app stay as they are: `verify` reports what is missing.
    """
    for table, name in connection.execute(text(_NOT_VALIDATED)).all():
        try:
            with connection.begin_nested():
                connection.execute(text(f"alter table {table} validate constraint {name}"))
        except IntegrityError:
            report(
                f"{table} has rows whose app is not in attr_audit.app; run `im-attr-audit verify`."
            )


def _check_version(connection: Connection) -> None:
    number = connection.execute(text("show server_version_num")).scalar_one()
    if int(number) < 150000:
        version = connection.execute(text("show server_version")).scalar_one()
        raise MigrationRefused(
            f"The server is PostgreSQL {version}; im-attr-audit needs 15 or newer (tested to 18)."
        )


def _check_encoding(url: str) -> None:
    """Names are kept exactly as the vendor sends them, in whatever script; only UTF8 holds all.

    The engine refuses to connect to such a database; this says how to make another one.
    """
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        plainly = psycopg2.connect(plain)
    except psycopg2.OperationalError:
        return  # the engine has said why
    with contextlib.closing(plainly) as connection, connection.cursor() as cursor:
        cursor.execute("select current_setting('server_encoding'), current_database()")
        [(encoding, name)] = cursor.fetchall()
    if encoding != "UTF8":
        database = _quoted(name)
        raise MigrationRefused(
            f"The database {database} is in the encoding {encoding}, which cannot hold every name; "
            "im-attr-audit needs UTF8. Nothing was changed. A database keeps its encoding for "
            f"life: drop {database} if it is empty, or take another name, and run `create database "
            f"{database} encoding 'UTF8' template template0` (with `locale 'C'` after it if the "
            "server says that the encoding does not match its locale); then migrate again."
        )


def _ensure_roles(connection: Connection) -> None:
    there = set(
        connection.execute(
            text("select rolname from pg_roles where rolname = any(:roles)"), {"roles": list(ROLES)}
        ).scalars()
    )
    me, database, may_create, is_member = connection.execute(
        text(
            "select current_user, current_database(), rolcreaterole or rolsuper, "
            " rolsuper or (exists (select from pg_roles where rolname = :owner) "
            "              and pg_has_role(current_user, "
            "                  (select oid from pg_roles where rolname = :owner), 'usage')) "
            "from pg_roles where rolname = current_user"
        ),
        {"owner": OWNER},
    ).one()
    missing = [role for role in ROLES if role not in there]
    if (missing and not may_create) or (not is_member and not may_create):
        raise MigrationRefused(
            f"The login {me} may not create the roles {', '.join(missing or ROLES)}, or is not "
            f"a member of {OWNER}. Let a DBA run the output of "
            "`im-attr-audit migrate --print-roles`, then migrate again."
        )
    for role in missing:
        connection.execute(text(f"create role {role} {'nologin' if role == OWNER else 'login'}"))
    if not is_member:
        connection.execute(text(f"grant {OWNER} to {_quoted(me)}"))
    for role, privilege in (
        (OWNER, "connect"),
        (OWNER, "create"),
        (WRITER, "connect"),
        (READER, "connect"),
        (SEALER, "connect"),
    ):
        has = text("select has_database_privilege(:role, current_database(), :privilege)")
        if not connection.execute(has, {"role": role, "privilege": privilege}).scalar_one():
            connection.execute(text(f"grant {privilege} on database {_quoted(database)} to {role}"))


def _set_search_path(connection: Connection, report: Callable[[str], None]) -> None:
    """Unqualified names mean attr_audit. Where the login may not say so, a DBA does."""
    lacking = text(
        "select rolname from pg_roles where rolname = any(:roles) and not coalesce("
        "'search_path=attr_audit' = any(rolconfig), false)"
    )
    roles = [role for role in ROLES if role != OWNER]
    for role in connection.execute(lacking, {"roles": roles}).scalars().all():
        statement = f"alter role {role} set search_path = attr_audit"
        try:
            with connection.begin_nested():
                connection.execute(text(statement))
        except ProgrammingError:
            report(f"Not permitted for this login, a DBA can run it: {statement};")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
