"""The expected record, derived from what the simulator answered.

A second, independent reading of the rules: it takes the simulator's log where the product
takes the network, and predicts each poll's outcome and changes. Polls are taken in the order in
which they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from simulator.records import LogEntry, Truth

Named = tuple[str, int | None]
"""A slot's name and type."""

_REJECTED = {60003, 60009, 60010, 60026, 70001, 70003, 70005, 70009, 70013, 70014, 70020, 90045}
_UNAVAILABLE = {60007, 60008, 60011, 60028, 70169, 91000}


@dataclass(frozen=True, slots=True)
class Seen:
    """One read: what was truly answered, and which outcome that alone leads to."""

    outcome: str
    names: dict[int, Named]
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Expected:
    """One change: (slot, old, new), whether it is a baseline, and the reads that bound it."""

    slot: int
    old: Named | None
    new: Named | None
    is_baseline: bool
    not_before: datetime | None
    old_read: Seen | None
    new_read: Seen
    next_read: Seen


def reads_of(entries: Iterable[LogEntry]) -> list[Seen]:
    """The reads that these requests of one poll of one app make up.

    After an answer with names the next request is another read; after anything else it is the same
    read's second request (a new signature, or a new connection).
    """
    reads: list[Seen] = []
    for entry in entries:
        seen = _seen(entry)
        if reads and reads[-1].outcome != "ok":
            reads[-1] = seen
        else:
            reads.append(seen)
    return reads


def _seen(entry: LogEntry) -> Seen:
    if entry.result == "names" and entry.complete:
        types = entry.types or {}
        names = {slot: (name, types.get(slot)) for slot, name in (entry.names or {}).items()}
        return Seen("ok", names, entry)
    if entry.result == "code" and entry.complete:
        assert entry.code in _REJECTED | _UNAVAILABLE, entry
        return Seen("rejected" if entry.code in _REJECTED else "unavailable", {}, entry)
    if not entry.complete or entry.fault == "bad_gateway" or (entry.status or 0) >= 500:
        return Seen("unavailable", {}, entry)
    assert entry.fault in ("raw", "redirect", "oversize", "gzip_bomb"), entry
    return Seen("invalid", {}, entry)


_MINUTE = timedelta(minutes=1)
#: The lower bound of a change where no earlier good poll has a time that can be trusted.
UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class AppOracle:
    """The expected state of one app.

    ``goods``: when its good polls were sent, without those whose times turned out to be wrong.
    """

    names: dict[int, Named] = field(default_factory=dict)
    first_seen: bool = False
    ended: datetime | None = None
    newest: datetime | None = None
    api: str | None = None
    ok_api: str | None = None
    ok_asked_at: datetime | None = None
    ok_read: Seen | None = None
    emptied: tuple[str, Seen, Seen] | None = None
    emptied_at: datetime | None = None
    goods: list[datetime] = field(default_factory=list)

    def jump(self, by: timedelta) -> None:
        """The database's clock jumps by so much: what is recorded becomes older by that."""
        for name in ("ended", "newest", "ok_asked_at", "emptied_at"):
            at = getattr(self, name)
            if at is not None and at != UNKNOWN:
                setattr(self, name, at - by)
        self.goods = [at - by for at in self.goods]

    def _correct(self, now: datetime) -> None:
        """Times in the future are not trusted."""
        times = (self.ended, self.newest, self.ok_asked_at, self.emptied_at)
        if not any(at is not None and at > now + _MINUTE for at in times):
            return
        self.ended = self.newest = None
        self.goods = [at for at in self.goods if at <= now]
        if self.ok_asked_at is not None and self.ok_asked_at > now:
            self.ok_asked_at = max(self.goods, default=UNKNOWN)
        if self.emptied_at is not None and self.emptied_at > now:
            self.emptied = self.emptied_at = None

    def differs(self, names: Mapping[int, Named]) -> bool:
        """Whether an answer has to be confirmed."""
        return not self.first_seen or self._settled(names) != self.names

    def take(
        self, poll: Any, reads: Sequence[Seen], *, run: str, hung_up: bool = False
    ) -> tuple[str, list[Expected]]:
        """The expected result of a poll, which becomes part of the expected state.

        ``hung_up``: its last request was never sent, as no connection could be made.
        """
        if poll.api is not None:  # a connection that cannot be used is not looked up
            self._correct(poll.requested_at)
        late = self.ended is not None and poll.requested_at < self.ended
        if poll.responded_at is not None:
            self.ended = max(poll.responded_at, self.ended or poll.responded_at)
        failed = reads[-1].outcome if reads and reads[-1].outcome != "ok" else None
        if hung_up:
            failed = "unavailable"
        elif not reads:
            failed = "misconfigured"
        source, api = self.api, poll.api or self.api
        if self.newest is None or poll.requested_at >= self.newest:
            self.newest, self.api = poll.requested_at, api
        if late and failed is None:
            return "late", []
        if any(read.names for read in reads) or api not in (source, None):
            self.emptied = self.emptied_at = None
        if failed is not None:
            return failed, []

        first, last = reads[0], reads[-1]
        if first.names != last.names:
            return "unstable", []
        settled = self._settled(last.names)
        differs = self.differs(last.names)
        assert len(reads) == (2 if differs else 1), "read twice exactly where something differs"
        new_read, next_read = first, last
        if self.names and not settled:
            if self.emptied is None or self.emptied[0] == run:
                if self.emptied is None:
                    self.emptied, self.emptied_at = (run, first, last), poll.first_responded_at
                return "unstable", []
            _, new_read, next_read = self.emptied

        changes = []
        for slot in sorted(self.names.keys() | settled.keys()):
            old, new = self.names.get(slot), settled.get(slot)
            if old == new:
                continue
            learned = bool(old and new and old[0] == new[0] and old[1] is None)
            baseline = not self.first_seen or self.ok_api != api or learned
            before = None if baseline else self.ok_asked_at
            changes.append(
                Expected(slot, old, new, baseline, before, self.ok_read, new_read, next_read)
            )
        self.names, self.first_seen, self.ok_api = settled, True, api
        self.emptied = self.emptied_at = None
        self.ok_asked_at, self.ok_read = poll.last_requested_at, last
        self.goods.append(poll.last_requested_at)
        return "ok", changes

    def _settled(self, names: Mapping[int, Named]) -> dict[int, Named]:
        """An answer that says no type leaves the one that is known."""
        known = self.names
        return {
            slot: (name, known[slot][1] if type_ is None and slot in known else type_)
            for slot, (name, type_) in names.items()
        }


def assert_recorded(change: Any, expected: Expected, *, since: int = 0, right: bool = True) -> None:
    """A row of ``change`` is the expected one, and its bounds are those of the reads.

    ``since``: the log's number at which the clock last jumped; ``right``: whether it is right now.
    """
    old, new = expected.old or (None, None), expected.new or (None, None)
    assert (change.slot, change.old_name, change.new_name) == (expected.slot, old[0], new[0])
    assert (change.old_type, change.new_type) == (old[1], new[1])
    assert change.is_baseline == expected.is_baseline
    if expected.not_before == UNKNOWN:
        # Or when it was first polled, where that time can be trusted.
        assert change.not_before is not None
    else:
        assert change.not_before == expected.not_before
    departed = expected.new_read.entry.departed_at
    assert departed is not None
    if not right:
        return
    if expected.new_read.entry.seq > since:
        assert departed <= change.seen_at, (change, expected)
    if expected.old_read is not None and change.not_before is not None:
        assert change.not_before <= expected.old_read.entry.arrived_at, (change, expected)


def assert_true_time(change: Any, expected: Expected, history: Sequence[Truth]) -> bool:
    """The true time of the change lies within its bounds; False where there is none to look at.

    There is none for a baseline, and where one of the answers was made up.
    """
    old, new = expected.old_read, expected.new_read
    if change.is_baseline or old is None:
        return False
    if old.entry.truth_since is None or new.entry.truth_since is None:
        return False
    shown = [t for t in history if t.since <= new.entry.truth_since]
    assert shown
    assert shown[-1].since == new.entry.truth_since
    since, value = shown[-1].since, shown[-1].names.get(change.slot)
    type_ = shown[-1].types.get(change.slot)
    for truth in reversed(shown):
        if (truth.names.get(change.slot), truth.types.get(change.slot)) != (value, type_):
            break
        since = truth.since
    assert change.not_before <= since <= change.seen_at, (change, since)
    return True
