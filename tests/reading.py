"""Reading the scripted quarter as the reader, in a form that compares with its answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from launch.postgres import EmbeddedPostgres
from tests.conftest import READER


def comparable(value: Any) -> Any:
    """Numbers of every type as floats with the digits that the script decides."""
    if isinstance(value, (float, Decimal)):
        return round(float(value), 3)
    return value


def rows(postgres: EmbeddedPostgres, database: str, statement: str, zone: str) -> list[Any]:
    with postgres.connect(database, READER) as connection, connection.cursor() as cursor:
        cursor.execute("select set_config('TimeZone', %s, false)", (zone,))
        cursor.execute(statement)
        return [tuple(comparable(value) for value in row) for row in cursor.fetchall()]
