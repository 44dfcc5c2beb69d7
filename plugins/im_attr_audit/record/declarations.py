"""The declarations on record: the last one, and adding one that differs from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.judge import AppNow
from im_attr_audit.declared.model import Declaration
from im_attr_audit.declared.parse import parse

_LAST = """
select declaration_id, digest, text_digest
  from attr_audit.declaration
 order by declaration_id desc limit 1
"""

_APPS = """
select f.region, f.sdk_app_id, f.app_group, f.last_ok_at,
       (f.last_ok_at is not null and f.age <= :stale_after) is not true as is_stale,
       coalesce(n.names, '{}') as names
  from attr_audit.freshness f
  left join (select region, sdk_app_id, jsonb_object_agg(slot, name) as names
               from attr_audit.current_names group by region, sdk_app_id) n
 using (region, sdk_app_id)
"""

# The database leaves out what does not differ from the last one: of two tasks one records it.
_INSERT = """
insert into attr_audit.declaration (dag_run_id, source, revision, document, text_digest)
values (:dag_run_id, :source, :revision, cast(:document as jsonb), :text_digest)
returning declaration_id
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The last declaration on record; ``text_digest``: of the text as read, None without one."""

    declaration_id: int
    digest: bytes
    text_digest: bytes | None


def read_last(engine: Engine) -> Recorded | None:
    """The last declaration on record; None: nothing was ever declared."""
    with engine.connect() as connection:
        row = connection.execute(text(_LAST)).one_or_none()
    if row is None:
        return None
    text_digest = None if row.text_digest is None else bytes(row.text_digest)
    return Recorded(row.declaration_id, bytes(row.digest), text_digest)


def _in_force(connection: Connection) -> Declaration:
    """The declaration in force, an empty one where there is none."""
    document = connection.execute(
        text(
            "select document::text from attr_audit.declaration order by declaration_id desc limit 1"
        )
    ).scalar_one_or_none()
    return parse(document or "", "the declaration on record").declaration


@dataclass(frozen=True, slots=True)
class Present:
    """The record at one instant: what is declared, and every app that is not retired."""

    at: datetime
    declaration: Declaration
    apps: tuple[AppNow, ...]


def read_present(engine: Engine, stale_after: timedelta) -> Present:
    """What a new declaration is compared with, read in one snapshot of the database."""
    with engine.connect() as connection:
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        at = connection.execute(text("select now()")).scalar_one()
        rows = connection.execute(text(_APPS), {"stale_after": stale_after}).all()
        declaration = _in_force(connection)
    apps = [
        AppNow(
            AppKey(row.region, row.sdk_app_id),
            row.app_group,
            {int(slot): name for slot, name in row.names.items()},
            row.last_ok_at,
            row.is_stale,
        )
        for row in rows
    ]
    return Present(at, declaration, tuple(apps))


def record_declaration(
    engine: Engine,
    declaration: Declaration,
    *,
    source: str,
    revision: str | None,
    text_digest: bytes | None,
    dag_run_id: str | None,
) -> bool:
    """Record the declaration; False where it does not differ from the last one."""
    values = {
        "dag_run_id": dag_run_id,
        "source": source,
        "revision": revision,
        "document": json.dumps(declaration.document),
        "text_digest": text_digest,
    }
    with engine.begin() as connection:
        return connection.execute(text(_INSERT), values).one_or_none() is not None


def note_stale_after(engine: Engine, stale_after: timedelta) -> None:
    """Note how long without a good poll makes an app stale, for the view ``violations``."""
    with engine.begin() as connection:
        connection.execute(
            text("select attr_audit_internal.note_stale_after(:stale_after)"),
            {"stale_after": stale_after},
        )
