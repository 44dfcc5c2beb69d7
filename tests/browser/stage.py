"""All that a view needs to be looked at: databases with a history each, Airflow, the roles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.record.upkeep.roles import READER, WRITER
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.browser.airflow import Airflow, ShownDatabase
from tests.browser.story import record_hostile, record_story


@dataclass
class Stage:
    """What is there. ``runs``: the story's run ids by event."""

    postgres: EmbeddedPostgres
    airflow: Airflow
    shown: ShownDatabase
    runs: dict[str, str]


def make_databases(postgres: EmbeddedPostgres, template: str | None = None) -> dict[str, str]:
    """The databases story, hostile, empty and bare (without the schema); gives the story's runs."""
    runs: dict[str, str] = {}
    for name in ("bare", "empty", "story", "hostile"):
        with postgres.connect() as connection, connection.cursor() as cursor:
            if name != "bare" and template:
                cursor.execute(f"create database {name} template {template} strategy file_copy")
            else:
                cursor.execute(f"create database {name}")
        if name != "bare" and not template:
            migrate(postgres.url(name))
        for role in (WRITER, READER):
            postgres.ensure_role(role)
        if name in ("story", "hostile"):
            engine = create_audit_engine(make_url(postgres.url(name, WRITER)))
            owner = create_audit_engine(make_url(postgres.url(name)))
            try:
                if name == "story":
                    runs = record_story(engine, owner)
                else:
                    record_hostile(engine, owner)
            finally:
                engine.dispose()
                owner.dispose()
    return runs


@contextmanager
def stage(postgres: EmbeddedPostgres, folder: Path, template: str | None = None) -> Iterator[Stage]:
    """Airflow with FAB before the databases. Airflow starts while the histories are written."""
    airflow = Airflow(folder, postgres)
    postgres.ensure_role(READER)
    airflow.start()
    try:
        runs = make_databases(postgres, template)
        shown = ShownDatabase(postgres)
        shown.show("story")
        airflow.wait()
        yield Stage(postgres, airflow, shown, runs)
    finally:
        airflow.stop()
