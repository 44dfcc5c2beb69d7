"""What Changes answers, typed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from im_attr_audit.page.models import Kind, Outcome, Seal


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
    lookalike: str | None
    moved_from_slot: int | None
    declared: bool | None
    verdict: str | None
    reviewer: str | None
    ticket: str | None
    reviewed_at: datetime | None


class ChangeCount(BaseModel):
    """How many changes match. ``more``: counting stopped here, and ``baselines`` is null."""

    changes: int
    baselines: int | None
    more: bool


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
    head_seq: int
    seal: Seal | None


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
    is_sealed: bool


class Run(BaseModel):
    """``is_folded``: good polls of its month are folded, and only those that a change cites are
    among ``polls``."""

    dag_run_id: str
    at: datetime
    polls: list[RunPoll]
    is_folded: bool
