"""What the timeline answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import AppRef, Kind, Outcome


class LaneSpan(BaseModel):
    """A time in which a slot had a name: first seen at ``seen_from``, last seen at ``seen_to``."""

    region: str
    sdk_app_id: int
    slot: int
    name: str
    attr_type: int | None
    seen_from: datetime
    seen_to: datetime


class LaneChange(BaseModel):
    """A change to draw: it happened between ``not_before`` and ``seen_at``."""

    region: str
    sdk_app_id: int
    seq: int
    slot: int
    kind: Kind
    old_name: str | None
    new_name: str | None
    not_before: datetime | None
    seen_at: datetime


class FailedPoll(BaseModel):
    region: str
    sdk_app_id: int
    at: datetime
    outcome: Outcome
    error_code: int | None
    error_info: str | None


class Gap(BaseModel):
    """No good poll in this time, and it is longer than the limit."""

    region: str
    sdk_app_id: int
    gap_from: datetime
    gap_to: datetime


class UsualName(BaseModel):
    """What most apps of a group call a slot now; null: most have no name in it."""

    app_group: str
    slot: int
    name: str | None


class Timeline(BaseModel):
    """One window of time of some apps. Where there was too much, ``drawn_from`` is the time from
    which it is complete, and ``more`` is the key of the next apps."""

    at: datetime
    window_from: datetime
    window_to: datetime
    stale_after_seconds: int
    apps: list[AppRef]
    more: str | None
    spans: list[LaneSpan]
    changes: list[LaneChange]
    drawn_from: datetime | None
    failed: list[FailedPoll]
    failed_from: datetime | None
    gaps: list[Gap]
    usual: list[UsualName]
