"""Timeline: what was called how, when it changed, and when nobody could look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response
from sqlalchemy import Connection

from im_attr_audit.page import queries
from im_attr_audit.page.filters import TimelineWindow
from im_attr_audit.page.models import timeline as models
from im_attr_audit.page.order import app_order
from im_attr_audit.page.queries import Row, Rows
from im_attr_audit.page.services import (
    ReaderOf,
    StaleAfter,
    app_refs,
    as_json,
    key_of,
)
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: With a lane for each slot; and with one for each slot that changed, or for one slot. More would
#: be more elements than a browser draws at once.
APPS_IN_A_TIMELINE, APPS_OF_FEW_LANES = 12, 24


@router.get("/timeline", response_model=models.Timeline)
def timeline(
    reader: ReaderOf, limit: StaleAfter, asked: Annotated[TimelineWindow, Query()]
) -> Response:
    """One window of time of some apps."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = sorted(queries.read_apps(connection, limit, retired=True), key=app_order)
        matching = _matching(apps, asked)
        window_to = asked.until or at
        window_from = asked.since or _begin_of_window(window_to, matching)
        if window_from >= window_to:
            raise HTTPException(422, "The period must begin before it ends.")
        if asked.lanes == "changed" and not asked.app:
            window = {"window_from": window_from, "window_to": window_to, "slot": asked.slot}
            rows = queries.read(connection, "changed_apps", **window)
            changed = {key_of(row) for row in rows}
            matching = [app for app in matching if key_of(app) in changed]
        chosen, more = _page(matching, asked)
        lanes = _read_lanes(connection, chosen, asked, (window_from, window_to), limit)
        usual = _usual_names(connection, chosen)
    return as_json(
        models.Timeline.model_construct(
            at=at,
            window_from=window_from,
            window_to=window_to,
            stale_after_seconds=int(limit.total_seconds()),
            apps=app_refs(chosen),
            more=more,
            usual=usual,
            **lanes,
        )
    )


def _usual_names(connection: Connection, apps: Rows) -> Rows:
    """The name that most apps of a group have in a slot; no name where none is as frequent."""
    groups = {app["app_group"] for app in apps}
    only = next(iter(groups)) if len(groups) == 1 else None
    found: dict[tuple[str, int], Row] = {}
    for row in queries.read(connection, "slot_names", app_group=only):
        if row["app_group"] in groups:
            found.setdefault((row["app_group"], row["slot"]), row)
    return [{"app_group": group, "slot": slot, "name": row["name"]}
            for (group, slot), row in found.items()]  # fmt: skip


def _matching(apps: Rows, asked: TimelineWindow) -> Rows:
    """The apps that match the filters."""
    return [
        app
        for app in apps
        if (not asked.region or app["region"] == asked.region)
        and (not asked.group or app["app_group"] == asked.group)
        and (not asked.app or key_of(app).address == asked.app)
        and (not app["retired"] or asked.app)
    ]


def _page(chosen: Rows, asked: TimelineWindow) -> tuple[Rows, str | None]:
    """The apps of one timeline, and the address of the app after which the next ones come."""
    at_most = APPS_IN_A_TIMELINE
    if asked.lanes == "changed" or asked.slot is not None:
        at_most = APPS_OF_FEW_LANES
    addresses = [key_of(app).address for app in chosen]
    if asked.after in addresses:
        chosen = chosen[addresses.index(asked.after) + 1 :]
    if len(chosen) <= at_most:
        return chosen, None
    chosen = chosen[:at_most]
    return chosen, key_of(chosen[-1]).address


def _begin_of_window(window_to: datetime, apps: Rows) -> datetime:
    """30 days before its end, or shortly before the first poll where that is later: all that is
    known of a young record would be a sliver at the edge of a month."""
    month = window_to - min(timedelta(days=30), window_to - datetime.min.replace(tzinfo=UTC))
    first = min((app["first_polled_at"] for app in apps), default=month)
    return max(month, first - (window_to - first) / 20) if first < window_to else month


def _read_lanes(
    connection: Connection,
    apps: Rows,
    asked: TimelineWindow,
    bounds: tuple[datetime, datetime],
    limit: timedelta,
) -> dict[str, Any]:
    """Everything that is drawn in the window, as the answer names it."""
    slot = asked.slot
    window_from, window_to = bounds
    window: dict[str, Any] = {
        **queries.arrays([key_of(app) for app in apps]),
        "window_from": window_from,
        "window_to": window_to,
    }
    changed, drawn_from = _at_most(
        queries.MAX_LANE_CHANGES,
        queries.read(
            connection,
            "lane_changes",
            **window,
            slot=slot,
            baselines=asked.lanes == "all",
            at_most=queries.MAX_LANE_CHANGES + 1,
        ),
        "seen_at",
    )
    failed, failed_from = _at_most(
        queries.MAX_FAILED_POLLS,
        queries.read(connection, "failed_polls", **window, at_most=queries.MAX_FAILED_POLLS + 1),
        "at",
    )
    opened = queries.read(connection, "open_spans", **window, slot=slot)
    gaps = queries.read(connection, "gaps", **window, longer_than=limit)
    return {
        "spans": [
            *(models.LaneSpan.model_construct(**row) for row in opened),
            *(_closed_span(row) for row in changed if row["old_name"] is not None),
        ],
        "changes": [_mark(row) for row in changed if window_from <= row["seen_at"] <= window_to],
        "drawn_from": drawn_from,
        "failed": [models.FailedPoll.model_construct(**row) for row in failed],
        "failed_from": failed_from,
        "gaps": [models.Gap.model_construct(**row) for row in gaps],
    }


def _at_most(limit: int, rows: Rows, time: str) -> tuple[Rows, datetime | None]:
    """The newest rows, and since when they are whole where there are more."""
    if len(rows) <= limit:
        return rows, None
    kept = rows[:-1]
    return kept, kept[-1][time]


def _closed_span(row: Row) -> models.LaneSpan:
    """The span of the old name, which a change closes."""
    return models.LaneSpan.model_construct(
        region=row["region"],
        sdk_app_id=row["sdk_app_id"],
        slot=row["slot"],
        name=row["old_name"],
        attr_type=row["old_type"],
        seen_from=row["old_seen_at"],
        seen_to=row["certain_to"] or row["old_seen_at"],
    )


def _mark(row: Row) -> models.LaneChange:
    hidden = {"old_type", "old_seen_at", "certain_to"}
    return models.LaneChange.model_construct(
        **{name: value for name, value in row.items() if name not in hidden}
    )
