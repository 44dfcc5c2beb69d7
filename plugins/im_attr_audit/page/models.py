"""What the JSON API answers, typed. Times are UTC; names are exactly as the vendor sent them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

Kind = Literal["baseline", "added", "renamed", "removed", "retyped"]
Outcome = Literal["ok", "unstable", "rejected", "unavailable", "invalid", "misconfigured", "late"]


class Problem(BaseModel):
    """Why there is no answer, and what to do about it."""

    error: str
    what: str
    next: str


class AppRef(BaseModel):
    """An app, and how far our knowledge of it goes."""

    region: str
    sdk_app_id: int
    app_group: str
    first_polled_at: datetime
    first_ok_at: datetime | None
    last_ok_at: datetime | None
    last_outcome: str
    stale: bool
    retired: bool


class Cell(BaseModel):
    """A slot's name in one app, as last known; null in its place: no name."""

    name: str
    attr_type: int | None
    not_before: datetime | None
    seen_at: datetime


class Slot(BaseModel):
    """One slot over a group's apps; ``cells`` are in the order of the group's apps."""

    slot: int
    agrees: bool
    distinct_names: int
    cells: list[Cell | None]


class Group(BaseModel):
    app_group: str
    apps: list[AppRef]
    slots: list[Slot]


class Now(BaseModel):
    """The names as last known, without retired apps."""

    at: datetime
    stale_after_seconds: int
    groups: list[Group]


class Unreadable(BaseModel):
    """A misconfigured connection that does not name its app; nothing was sent."""

    conn_id: str
    at: datetime
    what: str | None


class Setup(BaseModel):
    """What can be chosen in the filters; and where there is nothing yet, how far it is set up."""

    at: datetime
    targets_listed: bool | None
    apps: list[AppRef]
    unreadable: list[Unreadable]


class Change(BaseModel):
    change_id: int
    region: str
    sdk_app_id: int
    app_group: str
    seq: int
    slot: int
    kind: Kind
    old_name: str | None
    new_name: str | None
    old_type: int | None
    new_type: int | None
    not_before: datetime | None
    seen_at: datetime
    recorded_at: datetime
    dag_run_id: str | None
    row_hash: str


class Changes(BaseModel):
    """Newest first; ``before`` is the key of the next page, null where this is the last."""

    at: datetime
    changes: list[Change]
    before: str | None


class ChangeDetail(Change):
    """One change with everything known about how it was seen."""

    poll_id: int
    prev_hash: str | None
    answer: str | None
    requested_at: datetime | None
    reads: int | None
    vendor_date: datetime | None
    conn_id: str | None


class RunPoll(BaseModel):
    """The newest poll of one connection in a run."""

    conn_id: str
    region: str | None
    sdk_app_id: int | None
    outcome: Outcome
    error_code: int | None
    error_info: str | None
    advice: str | None
    is_good: bool
    is_failed: bool
    requested_at: datetime
    try_number: int | None


class Run(BaseModel):
    dag_run_id: str
    at: datetime
    polls: list[RunPoll]


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


class CellThen(BaseModel):
    """A slot's name at an instant. ``known`` false: the app had no good poll by then. Name null:
    no name; where not certain, perhaps one."""

    name: str | None
    attr_type: int | None
    certain: bool
    known: bool


class SlotThen(BaseModel):
    slot: int
    cells: list[CellThen]
    compared: list[CellThen] | None


class GroupThen(BaseModel):
    app_group: str
    apps: list[AppRef]
    slots: list[SlotThen]


class AsOf(BaseModel):
    """The names at an instant, and where asked for at a second one beside it."""

    now: datetime
    at: datetime
    compared_with: datetime | None
    groups: list[GroupThen]


class AppHealth(AppRef):
    """``good`` and ``failed`` count the polls of one strip bucket after the other."""

    conn_id: str
    api: str
    last_polled_at: datetime
    age_seconds: float
    consecutive_failures: int
    error_code: int | None
    error_info: str | None
    advice: str | None
    last_poll_failed: bool
    is_good: bool
    good: list[int]
    failed: list[int]


class Health(BaseModel):
    at: datetime
    stale_after_seconds: int
    strip_from: datetime
    strip_bucket_seconds: int
    apps: list[AppHealth]
    unreadable: list[Unreadable]


class BrokenChain(BaseModel):
    region: str
    sdk_app_id: int
    first_bad_seq: int


class Verification(BaseModel):
    """The chains, recomputed in the database at ``at``."""

    at: datetime
    took_seconds: float
    chains: int
    rows_checked: int
    ok: bool
    broken: list[BrokenChain]
