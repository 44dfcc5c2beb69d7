"""What As of answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import AppAddress, AppRef
from im_attr_audit.page.models.names import ViolatingCell


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


class AppThen(AppRef):
    """``app_group``: its group at the instant. ``compared_group``: its group at the second one,
    where that is another."""

    compared_group: str | None


class GroupThen(BaseModel):
    app_group: str
    apps: list[AppThen]
    slots: list[SlotThen]


class DriftingCell(AppAddress):
    """A slot of an app that had another name than most apps of its group."""

    slot: int


class MarksThen(BaseModel):
    """What was declared at an instant, which certain names were not so, and where groups without
    declared names drifted. ``is_declaration_unreadable``: the document on record is not one of
    declared names, so nothing is taken for declared."""

    declared_groups: list[str]
    is_declaration_unreadable: bool
    violations: list[ViolatingCell]
    drift: list[DriftingCell]


class AsOf(BaseModel):
    """The names at an instant, and where asked for at a second one beside it, by the groups that
    the apps were in; ``marks``: for each of the two."""

    now: datetime
    at: datetime
    compared_with: datetime | None
    marks: list[MarksThen]
    groups: list[GroupThen]
