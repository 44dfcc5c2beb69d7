"""What Names and its search answer, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import AppAddress, AppRef


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


class ViolatingCell(AppAddress):
    """A slot of an app that is not as declared; ``declared_name`` null: it must be unused."""

    slot: int
    violation: str
    declared_name: str | None


class Now(BaseModel):
    """The names as last known, without retired apps. ``violations``: of apps seen lately."""

    at: datetime
    stale_after_seconds: int
    groups: list[Group]
    violations: list[ViolatingCell]


class Variant(BaseModel):
    """A name of a slot (null: no name) with the number of its apps and the first few of them;
    ``violations``: how many of them should have another name by the declaration."""

    name: str | None
    apps: int
    some: list[AppAddress]
    violations: int


class DeclaredName(BaseModel):
    """A name that is declared for so many apps; null: the slot must be unused."""

    name: str | None
    apps: int


class SlotNames(BaseModel):
    """A slot over its group's apps that had a good poll: the name of most apps, and the others.

    ``declared``: that of most apps first; empty where the declaration does not name the slot.
    """

    declared: list[DeclaredName]

    slot: int
    usual: Variant
    others: list[Variant]
    apps: int
    newest_change_at: datetime | None


class GroupNames(BaseModel):
    """``known``: how many of its apps had a good poll; ``is_declared``: so is the group."""

    app_group: str
    apps: int
    known: int
    stale: int
    is_declared: bool
    slots: list[SlotNames]


class Names(BaseModel):
    """The names as last known by group and slot, without retired apps."""

    at: datetime
    stale_after_seconds: int
    groups: list[GroupNames]


class NameUse(BaseModel):
    """A slot of a group in which a name is used by ``apps`` or was used: until ``gone_by``."""

    app_group: str
    slot: int
    name: str
    apps: int
    apps_ever: int
    seen_from: datetime
    gone_by: datetime | None


class NameSpan(BaseModel):
    """It began from ``possible_from`` to ``valid_from``, and ended from ``certain_to`` to
    ``valid_to``; ``valid_to`` null: it is still so as far as known."""

    region: str
    sdk_app_id: int
    app_group: str
    slot: int
    name: str
    attr_type: int | None
    possible_from: datetime | None
    valid_from: datetime
    certain_to: datetime | None
    valid_to: datetime | None
    retired: bool


class InPeriod(AppAddress):
    """Whether an app had a name in a period, as the function ``name_in_window`` has it."""

    app_group: str
    slots: list[int]
    certain_pct: float
    possible_pct: float
    blind_seconds: float
    verdict: str


class NameInPeriod(BaseModel):
    """A row for each app that was listed in the period."""

    name: str
    since: datetime
    until: datetime
    apps: list[InPeriod]


class NameUses(BaseModel):
    """Who has a name, where, since when, until when."""

    at: datetime
    uses: list[NameUse]
    more_uses: bool
    spans: list[NameSpan]
    more_spans: bool
