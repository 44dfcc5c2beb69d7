"""Rows as parameters of one statement: one Postgres array a column. Pure.

JSON, and lists that the driver writes out, cost several times as much on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any


class Rows:
    """Rows of the given columns, for a statement that selects from `sql`.

    ``columns``: their names and types, as "region text, sdk_app_id bigint". Times are sent as
    microseconds since 1970, which a float8 holds exactly up to the year 2255.
    """

    def __init__(self, name: str, columns: str) -> None:
        self._columns = [
            (f"{name}_{column}", column, type_)
            for column, type_ in (declared.split() for declared in columns.split(","))
        ]
        shown = ", ".join(
            f"to_timestamp({column} / 1e6) as {column}" if type_ == "timestamptz" else column
            for _, column, type_ in self._columns
        )
        arrays = ", ".join(
            f"cast(:{parameter} as {'float8' if type_ == 'timestamptz' else type_}[])"
            for parameter, _, type_ in self._columns
        )
        names = ", ".join(column for _, column, _ in self._columns)
        self.sql = f"select {shown} from unnest({arrays}) as {name} ({names})"

    def parameters(self, rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
        """The rows, each a tuple of the columns in their order, as the statement's parameters."""
        found = list(zip(*rows, strict=True)) or [()] * len(self._columns)
        return {
            parameter: "{" + ",".join(_ELEMENTS.get(type_, _plain)(values)) + "}"
            for (parameter, _, type_), values in zip(self._columns, found, strict=True)
        }


def _plain(values: Iterable[object]) -> list[str]:
    return ["NULL" if value is None else str(value) for value in values]


def _texts(values: Iterable[str | None]) -> list[str]:
    return [
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for value in values
    ]


def _bytes(values: Iterable[bytes | None]) -> list[str]:
    return ["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """The time (aware) as microseconds since 1970 UTC."""
    return (at - _EPOCH) // _MICROSECOND


def _times(values: Iterable[datetime | None]) -> list[str]:
    return ["NULL" if at is None else str(microseconds(at)) for at in values]


_ELEMENTS: Mapping[str, Callable[[Iterable[Any]], list[str]]] = {
    "text": _texts,
    "bytea": _bytes,
    "timestamptz": _times,
}
