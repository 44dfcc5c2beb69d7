"""Overview: what needs somebody, the most urgent first, each with the one thing to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import Connection

from im_attr_audit.apps import AppKey
from im_attr_audit.outcomes import GOOD
from im_attr_audit.page import models, queries, summary
from im_attr_audit.page.advice import advice
from im_attr_audit.page.filters import NOTHING_ASKED
from im_attr_audit.page.models import overview as answers
from im_attr_audit.page.order import group_order
from im_attr_audit.page.queries import Row, Rows
from im_attr_audit.page.seals import read_seal
from im_attr_audit.page.services import ReaderOf, StaleAfter, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

_PERIOD = timedelta(days=7)
_CHANGES_SHOWN = 5
#: Older changes are not waited for; the review DAG asks about no older ones either.
_REVIEWED_WITHIN = timedelta(days=30)
#: More unreviewed changes are not counted; where nobody reviews, fewer: each costs a look.
_UNREVIEWED_COUNTED, _COUNTED_WITHOUT_REVIEWS = 100, 10
#: More causes of violations are not listed.
_VIOLATIONS_LISTED = 7
#: Of the apps with one cause, how many are named.
_APPS_NAMED = 4


@router.get("/overview", response_model=answers.Overview, dependencies=NOTHING_ASKED)
def overview(reader: ReaderOf, limit: StaleAfter) -> Response:
    """Violations, unreviewed changes, stale apps and failures by cause, drift, newest changes."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        apps = queries.read(connection, "health", stale_after=limit)
        groups = summary.read_groups(connection, apps)
        misconfigured = queries.read(connection, "misconfigured")
        seal, _ = read_seal(connection, "newest_seal")
        changes = queries.read(
            connection, "recent_changes", period=_PERIOD, at_most=_CHANGES_SHOWN + 1
        )
        [declared] = queries.read(connection, "declared_groups")
        violations = _read_violations(connection)
        unreviewed = _read_unreviewed(connection, declared["is_reviewed"])
    stale = [app for app in apps if app["stale"]]
    current = [app for app in apps if not app["stale"]]
    return as_json(
        {
            "at": at,
            "stale_after_seconds": int(limit.total_seconds()),
            "apps": len(apps),
            "groups": len(groups),
            "seen_at": min((a["last_ok_at"] for a in current if a["last_ok_at"]), default=None),
            "newest_seal": models.Seal(**seal) if seal else None,
            "stale": _causes(stale),
            "failing": _causes(app for app in current if app["last_outcome"] not in GOOD),
            "misconfigured": [models.Misconfigured(**row) for row in misconfigured],
            **violations,
            "is_reviewed": declared["is_reviewed"],
            **unreviewed,
            **_declared_and_drift(groups, declared["groups"]),
            "changes": changes[:_CHANGES_SHOWN],
            "more_changes": len(changes) > _CHANGES_SHOWN,
        }
    )


def _read_unreviewed(connection: Connection, is_reviewed: bool) -> dict[str, Any]:
    """The newest unreviewed changes, and how many there are, counted so far."""
    counted = _UNREVIEWED_COUNTED if is_reviewed else _COUNTED_WITHOUT_REVIEWS
    rows = queries.read(
        connection, "unreviewed", period=_REVIEWED_WITHIN, at_most=_CHANGES_SHOWN,
        counted=counted + 1,
    )  # fmt: skip
    waiting = rows[0]["in_all"] if rows else 0
    return {
        "unreviewed": [answers.RecentChange(**row) for row in rows],
        "unreviewed_changes": min(waiting, counted),
        "more_unreviewed": waiting > counted,
    }


def _declared_and_drift(groups: Rows, declared: Collection[str]) -> dict[str, Any]:
    """The groups that are declared, and the drift of the others: names that are declared may
    differ on purpose."""
    return {
        "declared_groups": [g["app_group"] for g in groups if g["app_group"] in declared],
        "drift": [
            {"app_group": group["app_group"], **slot}
            for group in groups
            if group["app_group"] not in declared
            for slot in group["slots"]
            if slot["others"]
        ],
    }


def _read_violations(connection: Connection) -> dict[str, Any]:
    """Violations by cause, those of most apps first, and how many there are in all."""
    rows = queries.read(connection, "violations", at_most=_VIOLATIONS_LISTED)
    unknown = rows[0]["unknown_apps"]
    causes = sorted(
        (row for row in rows if row["apps"] is not None),
        key=lambda row: (-row["apps"], group_order(row["app_group"]), row["slot"]),
    )
    named = [
        (AppKey(region, int(number)), row["slot"])
        for row in causes
        for region, number in row["some"]
    ]
    details = queries.read(
        connection,
        "violation_details",
        **queries.arrays([app for app, _ in named]),
        slots=[slot for _, slot in named],
    )
    found = {(row["region"], row["sdk_app_id"], row["slot"]): row for row in details}
    listed = []
    for row in causes:
        some = [found[region, int(number), row["slot"]] for region, number in row["some"]]
        listed.append(
            answers.Violation(
                **{**row, "some": some, "lookalike": some[0]["lookalike"]},
            )
        )
    return {
        "violations": listed,
        "violation_causes": causes[0]["causes"] if causes else 0,
        "violating_slots": causes[0]["in_all"] if causes else 0,
        "unknown_apps": unknown,
    }


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
                "app_groups": sorted({app["app_group"] for app in members}, key=group_order),
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
