"""Airflow's own tables, migrated when Airflow's version is not the one that made them.

Importing Airflow takes seconds, so that is asked of the database and a note first.
"""

from __future__ import annotations

import importlib.metadata

import psycopg2

from launch.databases import AIRFLOW
from launch.postgres import EmbeddedPostgres
from launch.state import State

_NOTE = "metadata"


def is_current(state: State, server: EmbeddedPostgres) -> bool:
    note = state.recall(_NOTE)
    return note is not None and note == {"airflow": _version(), "head": _head(server)}


def note_current(state: State, server: EmbeddedPostgres) -> None:
    state.remember(_NOTE, {"airflow": _version(), "head": _head(server)})


def migrate_here() -> None:
    """In a process that has Airflow's environment already."""
    from airflow.utils import db

    db.upgradedb()


def _version() -> str:
    return importlib.metadata.version("apache-airflow-core")


def _head(server: EmbeddedPostgres) -> str | None:
    with server.connect(AIRFLOW, AIRFLOW) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("select version_num from alembic_version")
        except psycopg2.errors.UndefinedTable:
            return None
        row = cursor.fetchone()
        return None if row is None else str(row[0])


if __name__ == "__main__":
    migrate_here()
