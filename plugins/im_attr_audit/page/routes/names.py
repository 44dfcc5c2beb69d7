"""Names: what is usual in each slot and who differs; and who has a name, since when, until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit.page import queries, summary
from im_attr_audit.page.filters import GroupFilter, NameInPeriod, NameSearch
from im_attr_audit.page.models import names as models
from im_attr_audit.page.order import app_order, group_order
from im_attr_audit.page.queries import Row, Rows
from im_attr_audit.page.services import ReaderOf, StaleAfter, as_json, last_certain
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: More spans, or more different uses, are for a narrower search.
MAX_SPANS, MAX_USES = 500, 100
_NOT_ENDED = datetime.max.replace(tzinfo=UTC)


@router.get("/names", response_model=models.Names)
def names(reader: ReaderOf, limit: StaleAfter, asked: Annotated[GroupFilter, Query()]) -> Response:
    """A row for each slot of each group, without retired apps."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = queries.read_apps(connection, limit, retired=False)
        groups = summary.read_groups(connection, apps, asked.group or None)
        summary.mark_declared(connection, groups, asked.group or None)
    return as_json({"at": at, "stale_after_seconds": int(limit.total_seconds()), "groups": groups})


@router.get("/name-in-period", response_model=models.NameInPeriod)
def name_in_period(
    reader: ReaderOf, limit: StaleAfter, asked: Annotated[NameInPeriod, Query()]
) -> Response:
    """Whether every app had the name in all of a period; without one, in the last 30 days."""
    with reader.transaction() as connection:
        apps = queries.read_apps(connection, limit, retired=False)
        until = asked.until or last_certain(apps) or queries.read_now(connection)
        since = asked.since or until - timedelta(days=30)
        if since >= until:
            raise HTTPException(422, "The period must begin before it ends.")
        found = queries.read(
            connection, "name_in_window", name=asked.name, since=since, until=until,
            app_group=asked.group or None,
        )  # fmt: skip
    return as_json(
        {"name": asked.name, "since": since, "until": until, "apps": sorted(found, key=app_order)}
    )


@router.get("/search", response_model=models.NameUses)
def search(reader: ReaderOf, asked: Annotated[NameSearch, Query()]) -> Response:
    """Every use of names that contain a text, present and past, of retired apps too."""
    given = {"name": asked.pattern, "app_group": asked.group or None}
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        uses = queries.read(connection, "name_uses", **given, at_most=MAX_USES + 1)
        spans = queries.read(connection, "name_spans", **given, at_most=MAX_SPANS + 1)
    return as_json(
        {
            "at": at,
            "uses": sorted(uses[:MAX_USES], key=_use_order),
            "more_uses": len(uses) > MAX_USES,
            "spans": _in_order(spans[:MAX_SPANS]),
            "more_spans": len(spans) > MAX_SPANS,
        }
    )


def _use_order(use: Row) -> tuple[Any, ...]:
    """The most used first."""
    return -use["apps"], -use["apps_ever"], group_order(use["app_group"]), use["slot"], use["name"]


def _place_of(span: Row) -> tuple[Any, ...]:
    return group_order(span["app_group"]), span["slot"], span["name"], app_order(span)


def _in_order(spans: Rows) -> Rows:
    """Those that have not ended first, then the last to end."""
    by_place = sorted(spans, key=_place_of)
    return sorted(by_place, key=lambda span: span["valid_to"] or _NOT_ENDED, reverse=True)
