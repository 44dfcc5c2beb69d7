"""Overview: what needs somebody, the most urgent first, each with the one thing to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from im_attr_audit.outcomes import GOOD
from im_attr_audit.page import models, queries, summary
from im_attr_audit.page.advice import advice
from im_attr_audit.page.queries import Row, Rows
from im_attr_audit.page.services import ReaderOf, StaleAfter, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

_PERIOD = timedelta(days=7)
_CHANGES_SHOWN = 5
#: Of the apps with one cause, how many are named.
_APPS_NAMED = 4


@router.get("/overview", response_model=models.Overview)
def overview(reader: ReaderOf, limit: StaleAfter) -> Response:
    """Stale apps and failures by cause, slots with drift, the newest changes."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = queries.read(connection, "health", stale_after=limit)
        groups = summary.read_groups(connection, apps)
        unreadable = queries.read(connection, "unreadable")
        seal = queries.read_one(connection, "newest_seal")
        changes = queries.read(
            connection, "recent_changes", period=_PERIOD, at_most=_CHANGES_SHOWN + 1
        )
    fresh = [app["last_ok_at"] for app in apps if not app["stale"] and app["last_ok_at"]]
    return as_json(
        {
            "at": at,
            "stale_after_seconds": int(limit.total_seconds()),
            "apps": len(apps),
            "groups": len(groups),
            "seen_at": min(fresh, default=None),
            "newest_seal": seal,
            "stale": _causes(app for app in apps if app["stale"]),
            "failing": _causes(
                app for app in apps if not app["stale"] and app["last_outcome"] not in GOOD
            ),
            "unreadable": [models.Unreadable(**row) for row in unreadable],
            "drift": [
                {"app_group": group["app_group"], **slot}
                for group in groups
                for slot in group["slots"]
                if slot["others"]
            ],
            "changes": changes[:_CHANGES_SHOWN],
            "more_changes": len(changes) > _CHANGES_SHOWN,
        }
    )


def _causes(apps: Iterable[Row]) -> list[dict[str, Any]]:
    """The apps by cause, those without a good poll for longest first."""
    causes: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for app in apps:
        causes[app["last_outcome"], app["error_code"]].append(app)
    found = []
    for (outcome, code), members in causes.items():
        members.sort(key=_last_seen)
        found.append(
            {
                "app_groups": sorted({app["app_group"] for app in members}),
                "outcome": outcome,
                "error_code": code,
                "advice": advice(outcome, code),
                "apps": len(members),
                "some": [
                    {"region": app["region"], "sdk_app_id": app["sdk_app_id"]}
                    for app in members[:_APPS_NAMED]
                ],
                "since": _last_seen(members[0]),
                "never_seen": sum(app["last_ok_at"] is None for app in members),
            }
        )
    return sorted(found, key=lambda cause: cause["since"])


def _last_seen(app: Row) -> Any:
    return app["last_ok_at"] or app["first_polled_at"]
