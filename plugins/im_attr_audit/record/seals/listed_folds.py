"""What folding put into coverage: one line of a checkpoint for each fold of a month.

A fold is one transaction, so its rows have one folded_at. The line has that time, the number of
rows and their RFC 9162 root. The rows of a month of 10,000 apps are some hundred megabytes, so a
checkpoint reads those of new folds and of a share of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from sqlalchemy import Connection, text

from im_attr_audit.evidence.canonical import COVERAGE
from im_attr_audit.record.checks.tables import copy_rows
from im_attr_audit.record.seals.rows_root import Root

#: The columns in the order of the hashed text, with how they are read and as which type.
_COLUMNS: Mapping[str, tuple[str, str]] = {
    "region": ("c.region", "text"),
    "sdk_app_id": ("c.sdk_app_id", "int8"),
    "from_at": ("c.from_at", "timestamptz"),
    "to_at": ("c.to_at", "timestamptz"),
    "polls": ("c.polls", "int8"),
    "polls_failed": ("c.polls_failed", "int8"),
    "longest_gap": ("(date_part('epoch', c.longest_gap) * 1e6::float8)::int8", "int8"),
    "api": ("c.api", "text"),
    "first_poll_id": ("c.first_poll_id", "int8"),
    "asked_us": ("c.asked_us::text", "text"),
    "confirmed_us": ("c.confirmed_us::text", "text"),
    "folded_at": ("c.folded_at", "timestamptz"),
}
COVERAGE_TYPES = {
    **{name: type_ for name, (_, type_) in _COLUMNS.items()},
    "longest_gap": "interval",
    "asked_us": "_int8",
    "confirmed_us": "_int8",
}
_MICROSECONDS = "(date_part('epoch', c.folded_at) * 1e6::float8)::int8"
_FOLDS = (
    f"select {_MICROSECONDS} as folded_us, count(*) "  # noqa: S608
    "from only attr_audit.coverage as c group by 1"
)
_ROWS = (
    f"select {', '.join(written for written, _ in _COLUMNS.values())} "  # noqa: S608
    f"from only attr_audit.coverage as c where {_MICROSECONDS} = {{folded_us}} "
    'order by c.region collate "C", c.sdk_app_id, c.from_at'
)

#: How many rows, and their root as hex.
Rows: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Folds:
    """The stored folds: how many rows each has, by its folded_at in microseconds."""

    counts: Mapping[int, int]
    _connection: Connection

    def read(self, folded_us: int) -> Rows:
        """Hash the rows of a fold."""
        root = Root()
        begin = b'\0["%b",' % COVERAGE.encode()

        def take(columns: list[list[bytes]]) -> None:
            rows = map(b",".join, zip(*columns, strict=True))
            root.extend([sha256(begin + row + b"]").digest() for row in rows])

        types = [type_ for _, type_ in _COLUMNS.values()]
        copy_rows(self._connection, _ROWS.format(folded_us=int(folded_us)), types, take)
        return root.size, root.hex()


def read_folds(connection: Connection) -> Folds:
    """Which folds there are, in the transaction of `prepare_sealed`."""
    return Folds(dict(connection.execute(text(_FOLDS)).tuples().all()), connection)


class FoldCheck:
    """Compares the folds with what checkpoints list, and lists new ones.

    ``is_due``: whether the rows of the listed fold of this number are read again.
    """

    def __init__(
        self, folds: Folds, is_due: Callable[[int], bool], find: Callable[[object, str], None]
    ) -> None:
        self.rows = 0
        self.listed: set[int] = set()
        self._folds, self._is_due, self._find = folds, is_due, find

    def add(self, number: int, folded_us: int, rows: Rows, when: str) -> None:
        """A line of the checkpoint of seal ``number``; ``when``: the fold's time to be read."""
        is_due = self._is_due(len(self.listed))
        self.listed.add(folded_us)
        there = self._folds.counts.get(folded_us, 0)
        what = f"coverage folded at {when}"
        if there != rows[0]:
            self._find(what, f"seal {number}: {what} has {there} rows of {rows[0]}")
        elif is_due:
            self.rows += there
            if self._folds.read(folded_us) != rows:
                self._find(what, f"seal {number}: {what} is not as it was sealed")

    def new(self) -> list[int]:
        """The folds that no checkpoint lists yet, in order."""
        return sorted(set(self._folds.counts) - self.listed)

    def line(self, folded_us: int) -> list[str | int]:
        """The line that lists a fold."""
        return [COVERAGE, folded_us, *self._folds.read(folded_us)]
