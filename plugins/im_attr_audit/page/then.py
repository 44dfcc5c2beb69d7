"""The record at an instant: the names, the apps' groups, what was declared and what drifted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Connection

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.judge import AppNow, judge
from im_attr_audit.declared.model import NOTHING, Declaration
from im_attr_audit.declared.parse import InvalidDeclaration, parse
from im_attr_audit.page import queries
from im_attr_audit.page.services import key_of

#: A slot's name, as model CellThen has it.
Cell: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Then:
    """One instant. ``groups``: of the apps that were not retired by then. ``nameless``: what holds
    of a slot of an app that has no row in ``cells``."""

    at: datetime
    groups: Mapping[AppKey, str]
    cells: Mapping[tuple[str, int], Mapping[int, Cell]]
    nameless: Mapping[AppKey, Cell]
    declaration: Declaration
    is_declaration_unreadable: bool

    def cell(self, app: AppKey, slot: int) -> Cell:
        return self.cells.get(app, {}).get(slot, self.nameless[app])

    def columns(self, apps: Iterable[AppKey], slots: Iterable[int]) -> Iterator[list[Cell]]:
        """For each slot the cells of the apps: the same as ``cell``, for thousands of them."""
        rows = [(self.cells.get(app, {}), self.nameless[app]) for app in apps]
        for slot in slots:
            yield [cells.get(slot, nameless) for cells, nameless in rows]

    def marks(self, apps: Iterable[Mapping[str, Any]], slots: Collection[int]) -> dict[str, Any]:
        """As model MarksThen has it."""
        listed = [app for app in apps if key_of(app) in self.groups]
        return {
            "declared_groups": sorted(self.declaration.groups),
            "is_declaration_unreadable": self.is_declaration_unreadable,
            "violations": self._violations(listed),
            "drift": self._drift(map(key_of, listed), slots),
        }

    def _violations(self, apps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What was not as declared. What is not certain is not called a violation."""
        judged = (
            AppNow(
                key_of(app),
                self.groups[key_of(app)],
                {
                    slot: cell["name"]
                    for slot, cell in self.cells.get(key_of(app), {}).items()
                    if cell["name"] is not None
                },
                app["first_ok_at"],
                is_stale=False,
            )
            for app in apps
            if self.groups[key_of(app)] in self.declaration.groups
        )
        return [
            {
                "region": each.app.region,
                "sdk_app_id": each.app.sdk_app_id,
                "slot": each.slot,
                "violation": each.violation,
                "declared_name": each.declared_name,
            }
            for each in judge(self.declaration, judged, self.at)
            if self.cell(each.app, each.slot)["certain"]
        ]

    def _drift(self, apps: Iterable[AppKey], slots: Collection[int]) -> list[dict[str, Any]]:
        """Slots of apps that had another name than most of their group, where none is declared."""
        members: dict[str, list[AppKey]] = defaultdict(list)
        for app in apps:
            if self.groups[app] not in self.declaration.groups:
                members[self.groups[app]].append(app)
        return [
            {"region": app.region, "sdk_app_id": app.sdk_app_id, "slot": slot}
            for each in members.values()
            for slot, cells in zip(slots, self.columns(each, slots), strict=True)
            for app in _apart(each, cells)
        ]


def _apart(apps: Sequence[AppKey], cells: Sequence[Cell]) -> list[AppKey]:
    """The apps whose name is not the usual one."""
    counts = Counter([cell["name"] for cell in cells if cell["known"]])
    if len(counts) < 2:
        return []
    # Of two with as many apps a name is usual, and of two names the first: as in Names.
    usual = min(counts, key=lambda name: (-counts[name], name is None, name or ""))
    return [
        app
        for app, cell in zip(apps, cells, strict=True)
        if cell["known"] and cell["name"] != usual
    ]


def read_then(
    connection: Connection,
    at: datetime,
    apps: Iterable[Mapping[str, Any]],
    future: Collection[AppKey],
) -> Then:
    """The record at an instant; ``future``: apps of which nothing is certain."""
    queries.join_by_hash(connection)
    cells: dict[tuple[str, int], dict[int, Cell]] = defaultdict(dict)
    for region, number, slot, name, attr_type, certain in queries.read_plain(
        connection, "names_as_of", at=at
    ):
        cells[region, number][slot] = {
            "name": name,
            "attr_type": attr_type,
            "certain": certain and (region, number) not in future,
            "known": True,
        }
    groups = {
        key_of(each): each["app_group"] for each in queries.read(connection, "listed_as_of", at=at)
    }
    nameless = {key_of(app): _nameless(app, at, key_of(app) in future) for app in apps}
    return Then(at, groups, cells, nameless, *_read_declaration(connection, at))


def _read_declaration(connection: Connection, at: datetime) -> tuple[Declaration, bool]:
    row = queries.read_one(connection, "declaration_as_of", at=at)
    return _parse(row["document"]) if row else (NOTHING, False)


@lru_cache(maxsize=4)
def _parse(document: str) -> tuple[Declaration, bool]:
    """What it declares, and whether it is unreadable: the writer's login can store any document.

    Two instants have the same one as a rule, and so has the next request.
    """
    try:
        return parse(document, "the declaration on record").declaration, False
    except InvalidDeclaration:
        return NOTHING, True


def _nameless(app: Mapping[str, Any], at: datetime, is_future: bool) -> Cell:
    known = app["first_ok_at"] is not None and app["first_ok_at"] <= at
    certain = known and at <= app["last_ok_at"] and not is_future
    return {"name": None, "attr_type": None, "certain": certain, "known": known}
