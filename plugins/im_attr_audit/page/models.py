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


class AppAddress(BaseModel):
    region: str
    sdk_app_id: int


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


class NameUses(BaseModel):
    """Who has a name, where, since when, until when."""

    at: datetime
    uses: list[NameUse]
    more_uses: bool
    spans: list[NameSpan]
    more_spans: bool


class Seal(BaseModel):
    """A seal of the record, by its number from 0."""

    n: int
    sealed_at: datetime


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
    lookalike: str | None
    moved_from_slot: int | None
    declared: bool | None
    verdict: str | None
    reviewer: str | None
    ticket: str | None
    reviewed_at: datetime | None


class ChangeCount(BaseModel):
    """How many changes match; ``more``: it was counted only so far."""

    changes: int
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


class Attested(BaseModel):
    """An app in a period, as the function ``attest`` has it."""

    app_group: str
    region: str
    sdk_app_id: int
    polls_good: int
    polls_failed: int
    changes: int
    source_changes: int
    longest_gap_seconds: float
    first_good_at: datetime | None
    last_good_at: datetime | None
    head_seq: int | None
    head_hash: str | None
    verdict: str


class Attest(BaseModel):
    """``seal``: the first one closed at or after the period's end."""

    at: datetime
    since: datetime
    until: datetime
    seal: Seal | None
    apps: list[Attested]


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


class DeclaredThen(BaseModel):
    """What was declared at an instant: of which groups, and which certain names were not so."""

    groups: list[str]
    violations: list[ViolatingCell]


class AsOf(BaseModel):
    """The names at an instant, and where asked for at a second one beside it; ``declared``: for
    each of the two."""

    now: datetime
    at: datetime
    compared_with: datetime | None
    declared: list[DeclaredThen]
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
    seal: SealDetail | None


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
