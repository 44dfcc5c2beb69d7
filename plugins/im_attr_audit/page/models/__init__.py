"""What several answers of the JSON API share, typed; each view's own have a module here.

Times are UTC; names are exactly as the vendor sent them.
"""

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


class AppAddress(BaseModel):
    region: str
    sdk_app_id: int


class Seal(BaseModel):
    """A seal of the record, by its number from 0."""

    n: int
    sealed_at: datetime


class UnreadableSeal(Seal):
    """A row of attr_audit.seal that is not the row of a seal, and is not counted as one."""

    origin: str


class Misconfigured(BaseModel):
    """A misconfigured connection that does not name its app; nothing was sent."""

    conn_id: str
    at: datetime
    what: str | None


class Setup(BaseModel):
    """What can be chosen in the filters; and where there is nothing yet, how far it is set up.

    ``targets_listed``: null where it is unknown, or where there are apps.
    """

    at: datetime
    targets_listed: bool | None
    apps: list[AppRef]
    misconfigured: list[Misconfigured]
