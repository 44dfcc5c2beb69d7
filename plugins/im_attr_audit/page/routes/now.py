"""Now: the names as last known; and how far everything is set up."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from im_attr_audit.apps import AppKey
from im_attr_audit.page import models, queries
from im_attr_audit.page.filters import NOTHING_ASKED, NowFilter
from im_attr_audit.page.models import names
from im_attr_audit.page.order import app_order, by_group
from im_attr_audit.page.services import (
    ReaderOf,
    ServicesOf,
    StaleAfter,
    app_refs,
    as_json,
    key_of,
)
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)


@router.get("/now", response_model=names.Now)
def now(reader: ReaderOf, limit: StaleAfter, asked: Annotated[NowFilter, Query()]) -> Response:
    """The names as last known, without retired apps."""
    group = asked.group or None
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = sorted(queries.read_apps(connection, limit, retired=False), key=app_order)
        if group is not None:
            apps = [app for app in apps if app["app_group"] == group]
        cells: dict[AppKey, dict[int, dict[str, Any]]] = defaultdict(dict)
        # Plain values, as model Cell has them: a model for each would cost as much as the SQL.
        for region, number, slot, name, attr_type, not_before, seen_at in queries.read_plain(
            connection, "current", app_group=group, slot=asked.slot
        ):
            cells[AppKey(region, number)][slot] = {
                "name": name,
                "attr_type": attr_type,
                "not_before": not_before,
                "seen_at": seen_at,
            }
        drift = {
            (row["app_group"], row["slot"]): row["distinct_names"]
            for row in queries.read(connection, "drift")
        }
        violations = queries.read(connection, "violating_cells", app_group=group, slot=asked.slot)
    groups = []
    for name, members in by_group(apps).items():
        mine = [cells[key_of(app)] for app in members]
        slots = [
            {
                "slot": slot,
                "agrees": (name, slot) not in drift,
                "distinct_names": drift.get((name, slot), 1),
                "cells": [each.get(slot) for each in mine],
            }
            for slot in sorted(set().union(*mine))
        ]
        groups.append({"app_group": name, "apps": members, "slots": slots})
    return as_json(
        {
            "at": at,
            "stale_after_seconds": int(limit.total_seconds()),
            "groups": groups,
            "violations": violations,
        }
    )


@router.get("/setup", response_model=models.Setup, dependencies=NOTHING_ASKED)
def setup(services: ServicesOf, limit: StaleAfter) -> Response:
    """What can be chosen in the filters; and where there is nothing yet, how far it is set up."""
    with services.reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = queries.read_apps(connection, limit, retired=True)
        misconfigured = queries.read(connection, "misconfigured")
    return as_json(
        models.Setup(
            at=at,
            # Where there are apps nobody waits for Airflow's own database to say it.
            targets_listed=None if apps else services.targets_listed(),
            apps=app_refs(sorted(apps, key=app_order)),
            misconfigured=[models.Misconfigured(**row) for row in misconfigured],
        )
    )
