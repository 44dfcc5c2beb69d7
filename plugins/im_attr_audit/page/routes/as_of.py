"""As of: the names at an instant, and at a second one beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from im_attr_audit.apps import AppKey
from im_attr_audit.page import models, queries
from im_attr_audit.page.declared_then import Members, Names, nameless, read_declared_then
from im_attr_audit.page.downloads import csv_file
from im_attr_audit.page.filters import Instants, InstantsOfGroup
from im_attr_audit.page.queries import Rows
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.services import (
    ReaderOf,
    StaleAfter,
    as_json,
    by_group,
    key_of,
    region_order,
)
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: A time so far ahead is not in the future; the database has the same rule.
_CLOCKS_APART = timedelta(minutes=1)

#: ``known`` false: the app had no good poll by then. ``has_name`` tells an empty name from none.
_COLUMNS = (
    "at", "app_group", "region", "sdk_app_id", "slot", "has_name", "name", "attr_type", "certain",
    "known",
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
    sides = [("cells", said["at"])]
    if said["compared_with"]:
        sides.append(("compared", said["compared_with"]))
    rows = (
        {
            "at": at,
            "app_group": group["app_group"],
            "region": app["region"],
            "sdk_app_id": app["sdk_app_id"],
            "slot": slot["slot"],
            "has_name": cell["name"] is not None if cell["known"] else None,
            **cell,
        }
        for group in said["groups"]
        if not asked.group or group["app_group"] == asked.group
        for slot in group["slots"]
        for side, at in sides
        for app, cell in zip(group["apps"], slot[side], strict=True)
    )
    return csv_file(rows, _COLUMNS, "attribute-names-as-of")


def _names_then(reader: Reader, limit: timedelta, asked: Instants) -> dict[str, Any]:
    """As model AsOf has it."""
    with reader.transaction() as connection:
        now = queries.read_now(connection)
        apps = queries.read_apps(connection, limit, retired=True)
        times = [asked.at or _last_certain(apps) or now]
        if asked.compare is not None:
            times.append(asked.compare)
        answers = [queries.read_plain(connection, "names_as_of", at=at) for at in times]
        declared = [read_declared_then(connection, at) for at in times]
    # Recorded while a clock was ahead: until the next task corrects it, nothing of it is certain.
    future = {key_of(app) for app in apps if (app["last_ok_at"] or now) > now + _CLOCKS_APART}
    found = [_cells(rows, future) for rows in answers]
    members = _members_then(apps, found)
    judged = [
        then.judge((app for each in members.values() for app in each), cells, future)
        for then, cells in zip(declared, found, strict=True)
    ]
    return {
        "now": now,
        "at": times[0],
        "compared_with": asked.compare,
        "declared": judged,
        "groups": _groups_then(members, times, found, future, judged),
    }


def _last_certain(apps: Rows) -> datetime | None:
    """The last instant at which every app that is not stale was still seen."""
    fresh = [app["last_ok_at"] for app in apps if not app["stale"] and not app["retired"]]
    return min((at for at in fresh if at is not None), default=None)


def _members_then(apps: Rows, found: Sequence[Names]) -> Members:
    """The apps of each group; a retired one where it had names then."""
    shown = [
        app for app in apps if not app["retired"] or any(key_of(app) in each for each in found)
    ]
    return by_group(sorted(shown, key=region_order))


def _groups_then(
    members: Members,
    times: list[datetime],
    found: list[Names],
    future: Collection[AppKey],
    judged: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Plain values, as model GroupThen has them: thousands of models would cost more than SQL."""
    declared: dict[AppKey, set[int]] = defaultdict(set)
    for each in (cell for side in judged for cell in side["violations"]):
        declared[key_of(each)].add(each["slot"])
    return [
        {
            "app_group": name,
            "apps": apps,
            "slots": _slots_then(
                apps, times, found, future, set().union(*(declared[key_of(app)] for app in apps))
            ),
        }
        for name, apps in members.items()
    ]


def _cells(rows: Sequence[Any], future: Collection[AppKey]) -> Names:
    cells: Names = defaultdict(dict)
    for region, number, slot, name, attr_type, certain in rows:
        app = AppKey(region, number)
        cells[app][slot] = {
            "name": name,
            "attr_type": attr_type,
            "certain": certain and app not in future,
            "known": True,
        }
    return dict(cells)


def _slots_then(
    apps: Sequence[Mapping[str, Any]],
    times: list[datetime],
    found: list[Names],
    future: Collection[AppKey],
    also: Collection[int],
) -> list[dict[str, Any]]:
    """The slots that an app had a name in; ``also``: those where one was declared and missing."""
    columns = [
        [(cells.get(key_of(app), {}), nameless(app, at, key_of(app) in future)) for app in apps]
        for at, cells in zip(times, found, strict=True)
    ]
    numbers = sorted(
        {*also, *(slot for column in columns for cells, _ in column for slot in cells)}
    )
    slots = []
    for slot in numbers:
        sides = [[cells.get(slot, none) for cells, none in column] for column in columns]
        slots.append({"slot": slot, "cells": sides[0], "compared": sides[1] if sides[1:] else None})
    return slots
