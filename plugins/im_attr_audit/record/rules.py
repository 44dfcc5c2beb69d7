"""What a poll means for the record: the outcome and the changes that follow from it.

Pure: values in, a verdict out; no I/O, no clock. The caller holds the app's row lock while it asks,
so what is `Known` here cannot change before the verdict is recorded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from json.encoder import encode_basestring

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Misconfigured, PollFailed
from im_attr_audit.names import Difference, Names, compare, settle
from im_attr_audit.outcomes import FAILED
from im_attr_audit.tencent.answer import Answer


@dataclass(frozen=True)
class Read:
    """One answer that gave names: when its request was sent and when it had arrived (aware)."""

    requested_at: datetime
    responded_at: datetime
    answer: Answer

    @cached_property
    def digest(self) -> bytes:
        """The snapshot's digest, if its names are these."""
        return snapshot_digest(self.answer.names)


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll as it was made: its good reads in order, and the failure that ended it, if any.

    ``responded_at`` is when the last answer had arrived or waiting for it ended; it and
    ``last_requested_at`` are None where nothing was sent. What a misconfigured connection does not
    show of its app is None.
    """

    conn_id: str
    region: str | None
    sdk_app_id: int | None
    app_group: str | None
    api: str | None
    requested_at: datetime
    last_requested_at: datetime | None = None
    responded_at: datetime | None = None
    sent: int = 0
    reads: tuple[Read, ...] = ()
    failure: Misconfigured | PollFailed | None = None

    @property
    def app(self) -> AppKey | None:
        """The app that was polled; None where the connection does not show it."""
        if self.region is None or self.sdk_app_id is None:
            return None
        return AppKey(self.region, self.sdk_app_id)

    @property
    def calls(self) -> tuple[timedelta, ...]:
        """How long each call took, the wait between two left out; nothing where it is unknown."""
        spans = [(read.requested_at, read.responded_at) for read in self.reads]
        if self.sent > len(self.reads) and self.last_requested_at and self.responded_at:
            spans.append((self.last_requested_at, self.responded_at))
        # Where a clock was changed during the poll, it has the same time throughout.
        return tuple(ended - began for began, ended in spans if ended > began)


@dataclass(frozen=True, slots=True)
class Known:
    """What is recorded of an app.

    ``last_ok_at`` and ``ok_api`` are None before its first good poll. ``emptied_*``: an answer
    without any name that awaits the next run's confirmation; the database sets it by the polls.
    ``digest`` is that of the snapshot as it was read.
    """

    api: str
    ok_api: str | None = None
    first_ok_at: datetime | None = None
    last_ok_at: datetime | None = None
    last_polled_at: datetime | None = None
    last_outcome: str | None = None
    last_poll_ended_at: datetime | None = None
    consecutive_failures: int = 0
    emptied_seen_at: datetime | None = None
    emptied_dag_run_id: str | None = None
    digest: bytes | None = None
    names: Names = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewChange:
    """One row for ``change``, less what the database gives it."""

    difference: Difference
    is_baseline: bool
    not_before: datetime | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to record for a poll; ``reason`` is a sentence, None where nothing is wrong."""

    outcome: str
    reason: str | None = None
    changes: tuple[NewChange, ...] = ()
    emptied_seen_at: datetime | None = None
    emptied_dag_run_id: str | None = None


def needs_confirmation(known: Known | None, names: Names) -> bool:
    """Whether a first read differs from the record, so that a second one must agree with it."""
    if known is None or known.last_ok_at is None:
        return True
    return bool(compare(known.names, settle(known.names, names)))


def judge(known: Known, poll: Poll, dag_run_id: str) -> Verdict:
    """The outcome of a poll against what is recorded."""
    pending_at, pending_run = known.emptied_seen_at, known.emptied_dag_run_id
    if poll.failure is None and _is_late(known, poll):
        return Verdict(
            "late",
            "it was sent before the end of a poll that is already recorded",
            emptied_seen_at=pending_at,
            emptied_dag_run_id=pending_run,
        )
    another_api = poll.api not in (known.api, None)  # a misconfigured connection shows no api
    if another_api or any(read.answer.names for read in poll.reads):
        # Another source, or names after all: the pending removal was not confirmed.
        pending_at = pending_run = None

    def verdict(outcome: str, reason: str | None) -> Verdict:
        return Verdict(outcome, reason, emptied_seen_at=pending_at, emptied_dag_run_id=pending_run)

    if poll.failure is not None:
        return verdict(poll.failure.outcome, str(poll.failure))
    first, last = poll.reads[0], poll.reads[-1]
    if first.answer.names != last.answer.names:
        return verdict(
            "unstable",
            f"the two reads differ: the first gave {len(first.answer.names)} names, "
            f"the second {len(last.answer.names)}",
        )
    current = settle(known.names, last.answer.names)
    differences = compare(known.names, current)
    if (differences or known.last_ok_at is None) and len(poll.reads) < 2:
        return verdict("unstable", "the names on record changed during this poll")

    seen_at = first.responded_at
    if known.names and not current:
        if pending_at is None or pending_run == dag_run_id:
            return Verdict(
                "unstable",
                "every name is gone; this is recorded only when the next run sees the same",
                emptied_seen_at=pending_at or seen_at,
                emptied_dag_run_id=pending_run or dag_run_id,
            )
        seen_at = pending_at
    return Verdict("ok", changes=_changes(known, poll, differences, seen_at))


def _is_late(known: Known, poll: Poll) -> bool:
    return known.last_poll_ended_at is not None and poll.requested_at < known.last_poll_ended_at


def _changes(
    known: Known, poll: Poll, differences: list[Difference], seen_at: datetime
) -> tuple[NewChange, ...]:
    is_new_source = known.last_ok_at is None or known.ok_api != poll.api
    changes = []
    for difference in differences:
        baseline = is_new_source or difference.only_a_type_was_learned
        not_before = None if baseline else known.last_ok_at
        changes.append(NewChange(difference, baseline, not_before, seen_at))
    return tuple(changes)


def advance(known: Known, poll: Poll, verdict: Verdict) -> Known:
    """What is recorded of the app once the verdict is; names as the changes leave them."""
    newest = known.last_polled_at is None or poll.requested_at >= known.last_polled_at
    ended = [t for t in (known.last_poll_ended_at, poll.responded_at) if t is not None]
    after = replace(
        known,
        api=(poll.api or known.api) if newest else known.api,
        last_polled_at=poll.requested_at if newest else known.last_polled_at,
        last_outcome=verdict.outcome if newest else known.last_outcome,
        last_poll_ended_at=max(ended, default=None),
        emptied_seen_at=verdict.emptied_seen_at,
        emptied_dag_run_id=verdict.emptied_dag_run_id,
    )
    if verdict.outcome != "ok":
        failed = newest and verdict.outcome in FAILED
        return replace(after, consecutive_failures=known.consecutive_failures + failed)
    names = dict(known.names)
    for change in verdict.changes:
        if change.difference.new is None:
            del names[change.difference.slot]
        else:
            names[change.difference.slot] = change.difference.new
    return replace(
        after,
        ok_api=poll.api,
        first_ok_at=known.first_ok_at or poll.reads[0].responded_at,
        last_ok_at=poll.reads[-1].requested_at,
        consecutive_failures=0,
        emptied_seen_at=None,
        emptied_dag_run_id=None,
        names=names,
    )


def snapshot_digest(names: Names) -> bytes:
    """SHA-256 of the names, as the database's ``snapshot_digest_of`` forms it.

    The JSON is put together by hand: this is done for every app at every poll.
    """
    triples = [
        f"[{slot}, {encode_basestring(name)}, {'null' if kind is None else kind}]"
        for slot, (name, kind) in sorted(names.items())
    ]
    return hashlib.sha256(f"[{', '.join(triples)}]".encode()).digest()
