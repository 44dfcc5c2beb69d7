"""As of: the names at an instant, and at a second one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from im_attr_audit.apps import AppKey
from im_attr_audit.page import queries
from im_attr_audit.page.downloads import csv_file
from im_attr_audit.page.filters import Instants, InstantsOfGroup
from im_attr_audit.page.models import as_of as models
from im_attr_audit.page.order import app_order, by_group
from im_attr_audit.page.queries import Row, Rows
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.services import (
    ReaderOf,
    StaleAfter,
    as_json,
    key_of,
    last_certain,
)
from im_attr_audit.page.then import Then, read_then
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: A time so far ahead is not in the future; the database has the same rule.
_CLOCKS_APART = timedelta(minutes=1)

#: ``known`` false: the app had no good poll by then. ``has_name`` distinguishes an empty name from
#: none. ``app_group``: that of the row's instant; ``is_declared``: whether it was declared then.
_COLUMNS = (
    "at", "app_group", "region", "sdk_app_id", "slot", "has_name", "name", "attr_type", "certain",
    "known", "drift", "is_declared", "violation", "declared_name",
)  # fmt: skip


@router.get("/as-of", response_model=models.AsOf)
def as_of(reader: ReaderOf, limit: StaleAfter, asked: Annotated[Instants, Query()]) -> Response:
    """The names at an instant; without one, at the last that is certain everywhere."""
    return as_json(_names_then(reader, limit, asked))


@router.get("/as-of/download", response_class=Response)
def download(
    reader: ReaderOf, limit: StaleAfter, asked: Annotated[InstantsOfGroup, Query()]
) -> Response:
    """The same as CSV: a row for each app, slot and instant."""
    said = _names_then(reader, limit, asked)
    rows = _rows(said, asked.group or None)
    return csv_file(rows, _COLUMNS, "attribute-names-as-of")


def _rows(said: Mapping[str, Any], group: str | None) -> Iterator[Row]:
    sides = [("cells", said["at"], _found(said["marks"][0]))]
    if said["compared_with"]:
        sides.append(("compared", said["compared_with"], _found(said["marks"][1])))
    for each in said["groups"]:
        if group is not None and each["app_group"] != group:
            continue
        for slot in each["slots"]:
            for side, at, (declared, violations, drift) in sides:
                for app, cell in zip(each["apps"], slot[side], strict=True):
                    of_then = app["app_group"]
                    if side == "compared":
                        of_then = app["compared_group"] or of_then
                    place = (*key_of(app), slot["slot"])
                    violation = violations.get(place, {})
                    yield {
                        "at": at,
                        "app_group": of_then,
                        "region": app["region"],
                        "sdk_app_id": app["sdk_app_id"],
                        "slot": slot["slot"],
                        "has_name": cell["name"] is not None if cell["known"] else None,
                        **cell,
                        "drift": place in drift,
                        "is_declared": of_then in declared,
                        "violation": violation.get("violation"),
                        "declared_name": violation.get("declared_name"),
                    }


def _found(marks: Mapping[str, Any]) -> tuple[set[str], dict[Any, Row], set[Any]]:
    def place(each: Row) -> tuple[str, int, int]:
        return each["region"], each["sdk_app_id"], each["slot"]

    return (
        set(marks["declared_groups"]),
        {place(each): each for each in marks["violations"]},
        {place(each) for each in marks["drift"]},
    )


def _names_then(reader: Reader, limit: timedelta, asked: Instants) -> dict[str, Any]:
    """As model AsOf has it."""
    with reader.transaction() as connection:
        now = queries.read_now(connection)
        apps = queries.read_apps(connection, limit, retired=True)
        times = [asked.at or last_certain(apps) or now]
        if asked.compare is not None:
            times.append(asked.compare)
        # Recorded while a clock was ahead: until the next task corrects it, nothing is certain.
        future = {key_of(app) for app in apps if (app["last_ok_at"] or now) > now + _CLOCKS_APART}
        instants = [read_then(connection, at, apps, future) for at in times]
    members = by_group(sorted(_members(apps, instants), key=app_order))
    slots = {slot for then in instants for cells in then.cells.values() for slot in cells}
    marks = [then.marks(apps, slots) for then in instants]
    declared: dict[AppKey, set[int]] = {}
    for each in (cell for side in marks for cell in side["violations"]):
        declared.setdefault(key_of(each), set()).add(each["slot"])
    return {
        "now": now,
        "at": times[0],
        "compared_with": asked.compare,
        "marks": marks,
        "groups": [
            {"app_group": name, "apps": of, "slots": _slots(of, instants, declared)}
            for name, of in members.items()
        ],
    }


def _members(apps: Rows, instants: Sequence[Then]) -> Iterator[Row]:
    """The apps that were listed at any of the instants, in their groups of then; of those that are
    retired today, the ones that had names."""
    for app in apps:
        key = key_of(app)
        groups = [then.groups.get(key) for then in instants]
        if not any(groups):
            continue
        if app["retired"] and not any(key in then.cells for then in instants):
            continue
        first, second = groups[0], groups[-1]
        of_then = first if first is not None else second
        yield {
            **app,
            "app_group": of_then,
            "compared_group": second if second is not None and second != of_then else None,
        }


def _slots(
    apps: Sequence[Mapping[str, Any]],
    instants: Sequence[Then],
    declared: Mapping[AppKey, set[int]],
) -> list[dict[str, Any]]:
    """The slots in which an app had a name, and those where one was declared and missing.

    Plain values, as model SlotThen has them: thousands of models would cost more than SQL.
    """
    keys = [key_of(app) for app in apps]
    numbers = {slot for key in keys for slot in declared.get(key, ())}
    numbers |= {slot for then in instants for key in keys for slot in then.cells.get(key, ())}
    slots = sorted(numbers)
    sides = [then.columns(keys, slots) for then in instants]
    return [
        {"slot": slot, "cells": cells[0], "compared": cells[1] if cells[1:] else None}
        for slot, *cells in zip(slots, *sides, strict=True)
    ]
