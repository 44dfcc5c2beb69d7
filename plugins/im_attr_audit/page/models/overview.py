"""What the overview answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import AppAddress, Kind, Misconfigured, Seal
from im_attr_audit.page.models.names import SlotNames


class Cause(BaseModel):
    """Apps whose newest poll had one cause; ``since``: the oldest last good poll of them, or the
    first poll of an app that was never seen."""

    app_groups: list[str]
    outcome: str
    error_code: int | None
    advice: str | None
    apps: int
    some: list[AppAddress]
    since: datetime
    never_seen: int


class Drift(SlotNames):
    app_group: str


class RecentChange(BaseModel):
    seen_at: datetime
    not_before: datetime | None
    app_group: str
    region: str
    sdk_app_id: int
    slot: int
    kind: Kind
    old_name: str | None
    new_name: str | None
    old_type: int | None
    new_type: int | None
    lookalike: str | None
    seq: int


class ViolatingApp(AppAddress):
    """``since``: when the slot was first seen not as declared."""

    since: datetime


class Violation(BaseModel):
    """Apps whose slot is not as declared in the same way; ``some``: the first few of them."""

    app_group: str
    slot: int
    violation: str
    declared_name: str | None
    actual_name: str | None
    lookalike: str | None
    apps: int
    some: list[ViolatingApp]


class Overview(BaseModel):
    """What needs somebody. ``seen_at``: since then every app that is not stale had a good poll.

    ``violating_slots``: slots of apps that are not as declared; ``unknown_apps``: apps whose names
    are declared and that were not seen lately. ``declared_groups``: groups of listed apps that the
    declaration names; ``drift``: of the other groups. ``is_reviewed``: some change was ever
    reviewed. ``unreviewed``: the newest of them.
    """

    at: datetime
    stale_after_seconds: int
    apps: int
    groups: int
    seen_at: datetime | None
    newest_seal: Seal | None
    stale: list[Cause]
    failing: list[Cause]
    misconfigured: list[Misconfigured]
    violations: list[Violation]
    violation_causes: int
    violating_slots: int
    unknown_apps: int
    declared_groups: list[str]
    is_reviewed: bool
    unreviewed: list[RecentChange]
    unreviewed_changes: int
    more_unreviewed: bool
    drift: list[Drift]
    changes: list[RecentChange]
    more_changes: bool
