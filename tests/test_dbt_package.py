"""The queries of bi/dbt against the scripted quarter; `make test-bi` runs them with dbt itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from im_attr_audit.apps import AppKey
from jinja2 import Environment, FileSystemLoader

from launch.postgres import EmbeddedPostgres
from launch.state import ROOT
from tests.quarter import CHINA, STORY, Seen, changes, quarter, seen

PACKAGE = ROOT / "bi" / "dbt"
MODELS = [path.stem for path in sorted((PACKAGE / "models").glob("*.sql"))]
TESTS = [path.stem for path in sorted((PACKAGE / "tests").glob("*.sql"))]
_TEMPLATES = Environment(loader=FileSystemLoader(PACKAGE), autoescape=False)


def rendered(
    path: str, *, model: str = "", again: bool = False, stale_after: str = "1 hour"
) -> str:
    """The statement as dbt sends it; the models are temporary tables. ``again``: a later load."""
    variables = {"attr_audit_schema": "attr_audit", "stale_after": stale_after}
    return _TEMPLATES.get_template(path).render(
        config=lambda **_: "",
        source=lambda schema, relation: f"{schema}.{relation}",
        ref=lambda name: f"pg_temp.{name}",
        var=variables.__getitem__,
        is_incremental=lambda: again,
        this=f"pg_temp.{model}",
    )


class Database:
    """The quarter with both models built; whatever is done to it is undone at the end."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def rows(self, statement: str, *values: Any) -> list[Any]:
        self._cursor.execute(statement, values or None)
        return self._cursor.fetchall() if self._cursor.description else []

    def failures(self, test: str, **given: Any) -> list[Any]:
        return self.rows(rendered(f"tests/{test}.sql", **given))


@pytest.fixture
def database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    with postgres.connect(quarter(postgres, template)) as connection, connection.cursor() as cursor:
        cursor.execute("begin")
        for model in MODELS:
            query = rendered(f"models/{model}.sql", model=model)
            cursor.execute(f"create temporary table {model} on commit drop as {query}")
        yield Database(cursor)
        cursor.execute("rollback")


_COPIED = """
select region, sdk_app_id, seq, seen_at, not_before, app_group, slot, kind, old_name, new_name
  from pg_temp.changes_copy order by region, sdk_app_id, seq
"""


def test_the_copy_holds_every_change_also_after_a_later_load(database: Database) -> None:
    right = sorted(
        (*c.app, c.seq, c.seen_at, c.not_before, c.group, c.slot, c.kind, c.old, c.new)
        for c in changes()
    )
    assert database.rows(_COPIED) == right
    # As if one app's changes had been committed after newer ones of others were loaded.
    database.rows("delete from pg_temp.changes_copy where region = 'china'")
    assert database.rows(_COPIED) != right
    more = rendered("models/changes_copy.sql", model="changes_copy", again=True)
    database.rows(f"insert into pg_temp.changes_copy {more}")
    assert database.rows(_COPIED) == right


def test_the_dimension_holds_every_name_of_every_slot(database: Database) -> None:
    right = {
        (*app, slot, name, type_, polls[0].arrived, polls[-1].confirmed)
        for app in STORY.listed
        for slot in range(4)
        for (name, type_), polls in spans(app, slot)
        if name is not None
    }
    given = database.rows(
        "select region, sdk_app_id, slot, name, attr_type, valid_from, certain_to "
        "from pg_temp.names_scd2"
    )
    assert len(given) == len(right)
    assert set(given) == right
    now = database.rows(
        "select region, sdk_app_id, slot, name from pg_temp.names_scd2 where is_current"
    )
    assert sorted(now) == sorted(
        (*app, slot, name) for app in STORY.listed for slot, name in seen(app)[-1].names.items()
    )


def spans(app: AppKey, slot: int) -> Iterator[tuple[tuple[str | None, int | None], list[Seen]]]:
    """The names of a slot, each with its type and its polls."""
    for key, polls in groupby(seen(app), key=lambda p: (p.names.get(slot), p.types.get(slot))):
        yield key, list(polls)


#: What makes a test of the package fail, and what it then reports; nothing else makes it fail.
_WRONG = {
    "changes_copy_holds_each_change_once": "insert into pg_temp.changes_copy select * from "
    "pg_temp.changes_copy where region = 'china' and seq = {seq}",
    "changes_copy_misses_nothing": "delete from pg_temp.changes_copy "
    "where region = 'china' and seq = {seq}",
    "every_chain_is_intact": "set local session_replication_role = replica; "
    "update attr_audit.change set new_name = 'forged' where region = 'china' and seq = {seq}",
}


@pytest.mark.parametrize("test", _WRONG)
def test_a_test_of_the_package_fails_for_what_it_is_about(database: Database, test: str) -> None:
    first = min(change.seq for change in changes() if change.app == CHINA)
    assert database.failures(test) == []
    database.rows(_WRONG[test].format(seq=first))
    assert [row[:3] for row in database.failures(test)] == [(*CHINA, first)]


def test_names_that_overlap_are_found(database: Database) -> None:
    assert database.failures("names_scd2_does_not_overlap") == []
    database.rows(
        "update pg_temp.names_scd2 set valid_to = valid_to + interval '1 s' "
        "where region = 'frankfurt' and slot = 2 and valid_to < '2026-05-14Z' and name = 'Tier'"
    )
    [(key, *_)] = database.failures("names_scd2_does_not_overlap")
    assert key == "frankfurt/1400000001/2"


def test_each_stale_app_is_named(database: Database) -> None:
    assert database.failures("every_app_is_fresh", stale_after="100 years") == []
    given = database.failures("every_app_is_fresh")
    assert {row[:2] for row in given} == set(STORY.listed)


def test_each_query_of_the_package_is_looked_at_here() -> None:
    assert MODELS == ["changes_copy", "names_scd2"]
    assert {*_WRONG, "names_scd2_does_not_overlap", "every_app_is_fresh"} == set(TESTS)
