"""What Health answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import AppRef, Misconfigured, Seal, UnreadableSeal


class SealWitness(BaseModel):
    """``size``: how many seals this witness has, as `checkpoint` reported at ``witnessed_at``."""

    target: str
    size: int
    witnessed_at: datetime


class SealDetail(Seal):
    """``origin``: the log, by the name of its key; ``note``: the signed checkpoint."""

    origin: str
    note: str
    is_stamped: bool
    witnesses: list[SealWitness]


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
    misconfigured: list[Misconfigured]
    seal: SealDetail | None
    unreadable_seals: list[UnreadableSeal]
    runbooks_url: str | None


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
