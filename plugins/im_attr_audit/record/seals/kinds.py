"""The kinds of rows that seals cover: where they are stored, their columns, how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from im_attr_audit.evidence.canonical import CHANGE, POLL, TARGET
from im_attr_audit.record.checks.tables import TABLES
from im_attr_audit.record.seals.listed import DECLARATION_TYPES
from im_attr_audit.record.seals.listed_folds import COVERAGE_TYPES

_POLL_TYPES = {
    "poll_id": "int8",
    "conn_id": "text",
    "region": "text",
    "sdk_app_id": "int8",
    "api": "text",
    "dag_run_id": "text",
    "try_number": "int4",
    "requested_at": "timestamptz",
    "responded_at": "timestamptz",
    "outcome": "text",
    "reads": "int2",
    "http_status": "int4",
    "error_code": "int4",
    "error_info": "text",
    "answer": "text",
    "vendor_date": "timestamptz",
    "recorded_at": "timestamptz",
    "last_requested_at": "timestamptz",
    "names_read": "int2",
    "first_responded_at": "timestamptz",
    "head_seq": "int8",
}
CHANGE_TYPES = {name: type_ for name, type_ in TABLES["change"].items() if name != "kind"}
_PLANNED_TYPES = {
    "planned_id": "int8",
    "dag_run_id": "text",
    "recorded_at": "timestamptz",
    "conn_ids": "_text",
    "regions": "_text",
    "sdk_app_ids": "_int8",
}
SEALED_TABLES: Mapping[str, Mapping[str, str]] = {
    "poll": _POLL_TYPES,
    "change": CHANGE_TYPES,
    "planned": _PLANNED_TYPES,
    "review": TABLES["review"],
    "declaration": DECLARATION_TYPES,
    "coverage": COVERAGE_TYPES,
}
#: Until then a time's microseconds are exact in double precision, and none is mistaken for another.
_EXACT_UNTIL = "timestamptz '2200-01-01 00:00:00+00'"
_WRITTEN = {
    "timestamptz": "(date_part('epoch', {0}) * 1e6::float8)::int8",
    "bool": "{0}::text",
    "bytea": "encode({0}, 'hex')",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of rows. ``columns``: their expressions with their types. ``source``: where they are
    from, between two ids. ``head``: where a row names its app's head, which follows
    its other values.
    """

    number: int
    name: str
    plural: str
    table: str
    id: str
    type: str
    columns: Mapping[str, str]
    source: str
    order: str
    recorded_at: int
    run: int
    requested_at: int | None = None
    outcome: int | None = None
    head: tuple[int, int, int] | None = None

    def label(self, row: Sequence[bytes]) -> str:
        """What a person calls the row."""
        values = [_plain(value) for value in row]
        if self.number == 0:
            return f"poll {values[0]} of {values[2]}/{values[3]}"
        if self.number == 1:
            return f"change {values[1]}/{values[2]} seq {values[3]}"
        return f"planned target {values[2]} of run {values[1]} (planned_id {values[0]})"

    def statement(self, after: int, until: int) -> str:
        """The rows with an id after one and up to another one."""
        source = self.source.format(after=after, until=until)
        return f"select {', '.join(self.columns)} {source} order by {self.order}"

    def quick_statement(self, after: int, until: int, ordered: bool = True) -> str:
        """COPY of the same rows, as lines of tokens; last, whether the line's times are exact."""
        order = f" order by {self.order}" if ordered else ""
        written = [
            f"{_WRITTEN.get(type_, '{0}').format(column)} as c{at}"
            for at, (column, type_) in enumerate(self.columns.items())
        ]
        times = [column for column, type_ in self.columns.items() if type_ == "timestamptz"]
        quoted = [
            f"c{at}" for at, type_ in enumerate(self.columns.values()) if type_ in ("text", "bytea")
        ]
        written.append(f"greatest({', '.join(times)}) < {_EXACT_UNTIL} as exact")
        return (
            f"copy (select {', '.join(written)} "
            f"{self.source.format(after=after, until=until)}{order}) to stdout (format csv, "
            f"delimiter E'\\t', null 'null', quote '\"', escape '\\', "
            f"force_quote ({', '.join(quoted)}))"
        )


KINDS = (
    Kind(
        *(0, "poll", "polls", "poll", "poll_id", POLL),
        {f"p.{name}": type_ for name, type_ in _POLL_TYPES.items()},
        "from attr_audit.poll as p where p.poll_id > {after} and p.poll_id <= {until}",
        "p.poll_id",
        recorded_at=16,
        run=5,
        requested_at=7,
        outcome=9,
        head=(2, 3, 20),
    ),
    Kind(
        *(1, "change", "changes", "change", "change_id", CHANGE),
        {f"c.{name}": type_ for name, type_ in CHANGE_TYPES.items()},
        "from only attr_audit.change as c where c.change_id > {after} and c.change_id <= {until}",
        "c.change_id",
        recorded_at=15,
        run=14,
    ),
    Kind(
        *(2, "planned target", "planned targets", "planned", "planned_id", TARGET),
        {
            "p.planned_id": "int8",
            "p.dag_run_id": "text",
            "t.conn_id": "text",
            "t.region": "text",
            "t.sdk_app_id": "int8",
            "p.recorded_at": "timestamptz",
        },
        "from only attr_audit.planned as p cross join lateral "
        "unnest(p.conn_ids, p.regions, p.sdk_app_ids) with ordinality "
        "as t (conn_id, region, sdk_app_id, place) "
        "where p.planned_id > {after} and p.planned_id <= {until}",
        "p.planned_id, t.place",
        recorded_at=5,
        run=1,
    ),
)
#: Larger than every id.
END = 2**63 - 1


def microseconds_of(token: bytes) -> int | None:
    """A time's token as a number; None: it is not a time that can be."""
    try:
        return int(token)
    except ValueError:
        return None


def _plain(token: bytes) -> str:
    return token.strip(b'"').decode(errors="replace")
