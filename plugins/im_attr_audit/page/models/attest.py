"""What Attest answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import Seal, UnreadableSeal


class Attested(BaseModel):
    """An app in a period, as the function ``attest`` has it."""

    app_group: str
    region: str
    sdk_app_id: int
    polls_good: int | None
    polls_failed: int | None
    changes: int
    source_changes: int
    longest_gap_seconds: float | None
    first_good_at: datetime | None
    last_good_at: datetime | None
    head_seq: int | None
    head_hash: str | None
    verdict: str


class Attest(BaseModel):
    """``seal``: the first one closed at or after the period's end. ``unreadable_seals``:
    what was passed over on the way to it. ``group``: the only one that the answer is about."""

    at: datetime
    since: datetime
    until: datetime
    group: str | None
    seal: Seal | None
    unreadable_seals: list[UnreadableSeal]
    apps: list[Attested]
