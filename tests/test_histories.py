"""Whole histories, made up: what is recorded is what follows from what was truly answered.

A Hypothesis state machine over apps, true changes, faults, retries, late and overlapping polls, a
switched API, retired and returning apps, cleared tasks, wrong keys and clocks; against the real
simulator and a real Postgres. The simulator's log is the oracle (`tests.oracle`). At the end of a
history the relations for questions are asked about it; `tests.replay` has the right answers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Misconfigured
from im_attr_audit.names import AttrName
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.record.store import Recorded
from im_attr_audit.tencent.fields import MAX_TIMEOUT
from im_attr_audit.tencent.target import Target, Unresolved
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from simulator.records import LogEntry
from simulator.world import SimulatorError
from tests.agreement import Reading, windows
from tests.clearing import Tasks
from tests.clocks import jump
from tests.conftest import AuditDb, fresh_audit_db
from tests.counts import count, counted
from tests.oracle import AppOracle, Expected, assert_recorded, assert_true_time, reads_of
from tests.replay import NEVER, Life, Look
from tests.rig import Record, Rig, app_of, assert_chains_hold

REGIONS = ("china", "frankfurt", "seoul")
#: Those without an app are not counted among what they held. Hypothesis makes more than it is asked
#: for, by a number that differs by machine. `make soak` makes thousands, of other seeds each time.
HISTORIES = 80
#: They are made so many at a time, and further ones until every way to clear was taken.
AT_A_TIME = 20
_HELD = "histories: what they held"
_TITLE = "histories: polls by outcome"
_CLEARED = ("syncs tried again", "syncs cleared", "runs cleared", "syncs marked success by hand")
_ASKED = "histories: answers that agree with a replay"
#: In the suite one history of so many is asked about: it takes as long as the history itself.
_ASKED_ONE_OF = 10
_HUNG_UP = "histories: polls whose connection failed by itself"

_NAMES = ["sex", "city", "Sex", "a|b", "a", "b", "", " ", "é", "e\u0301", "会员等级", "🙂", "';--"]
_slots = st.integers(0, 3)
_names = st.dictionaries(_slots, st.sampled_from(_NAMES), max_size=4)
_apps = st.integers(0, 2)
_changes = st.one_of(
    st.tuples(st.just("names"), _names),
    st.tuples(st.just("name"), st.tuples(_slots, st.sampled_from([*_NAMES, None]))),
    st.tuples(st.just("types"), st.dictionaries(_slots, st.integers(0, 1))),
    st.tuples(st.just("names of timpush alone"), _names),
    st.tuples(
        st.just("how no names are said"), st.sampled_from(["object", "absent", "null", "array"])
    ),
    st.tuples(st.just("api of the connection"), st.sampled_from(["timpush", "all_member_push"])),
    st.tuples(st.just("key at the vendor"), st.none()),
    st.tuples(st.just("key in the connection"), st.none()),
    st.tuples(st.just("the vendor's Date"), st.sampled_from([0.0, -90.0, 3600.0])),
)

_FAULTS: list[str | dict[str, Any]] = [
    "ok",
    "bad_gateway",
    {"kind": "bad_gateway", "status": 503},
    "drop",
    {"kind": "drop", "reset": True},
    "half",
    {"kind": "half", "where": "headers"},
    {"kind": "delay", "seconds": 0.002, "at": "arrival"},
    {"kind": "delay", "seconds": 0.002, "at": "departure"},
    {"kind": "drip", "interval": 0.0001},
    "close_after",
    "redirect",
    {"kind": "oversize", "size": 1_100_000},
    {"kind": "gzip_bomb", "size": 2_000_000},
    {"kind": "raw", "body": b"<html>maintenance</html>"},
    {"kind": "raw", "body": b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":1}}'},
    {"kind": "raw", "body": b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"00":"a"}}'},
    {"kind": "raw", "body": b'{"ErrorCode":70009}', "status": 503},
    *({"kind": "code", "code": code} for code in (70001, 70009, 90045, 60026, 91000, 60007, 60008)),
    {"kind": "answer_names", "names": {}},
    {"kind": "answer_names", "names": {"0": "never true", "1": "city"}},
]
_faults: st.SearchStrategy[list[Any]] = st.lists(st.sampled_from(_FAULTS), max_size=3)


#: What a writer that lies could say of an app that has been seen; the database refuses each.
_LIES = (
    "update attr_audit.app set last_ok_at = '2099-01-01Z'",
    "update attr_audit.app set last_ok_at = 'infinity'",
    "update attr_audit.app set last_ok_at = last_ok_at - interval '1 day'",
    "update attr_audit.app set last_poll_ended_at = '-infinity'",
    "update attr_audit.app set last_poll_ended_at = now() + interval '999 days'",
    "update attr_audit.app set first_ok_at = '0044-03-15 BC'",
    "update attr_audit.app set emptied_seen_at = now(), emptied_dag_run_id = 'forged'",
    "update attr_audit.app set last_ok_at = null, first_ok_at = null, ok_api = null",
    "update attr_audit.app set snapshot_digest = sha256('forged')",
    "delete from attr_audit.app",
    "update attr_audit.poll set outcome = 'ok'",
    "with one as (select * from attr_audit.poll where sdk_app_id = :app order by poll_id desc "
    "limit 1) insert into attr_audit.change (region, sdk_app_id, slot, new_name, is_baseline, "
    "seen_at, poll_id) select region, sdk_app_id, 900, 'forged', true, now(), poll_id from one",
)


@dataclass
class _Actor:
    """One call of sync_apps: its run, and the requests that it made."""

    run: str
    targets: list[Target]
    seqs: set[int] = field(default_factory=set)


@dataclass
class _Held(_Actor):
    """One that waits for an answer which the simulator holds back, if it got through to it."""

    waits: bool = False
    thread: threading.Thread | None = None
    errors: list[BaseException] = field(default_factory=list)


def _no_tls(poll: Any) -> str | None:
    """How a poll says that it found no TLS connection to the simulator.

    Seen about once in some ten thousand histories, under load, with nothing asked of the simulator.
    A poll that says so is believed, as it claims nothing; how many may do so is bounded.
    """
    _, _, why = (poll.error_info or "").rpartition(": ")
    return why if "TLS" in why or "before it could be asked" in why else None


class History(RuleBasedStateMachine):
    """One made-up history; `rig` is set before it runs."""

    rig: ClassVar[Rig]
    db: ClassVar[AuditDb]
    tasks: ClassVar[Tasks]
    number: ClassVar[int] = 0
    asks_always: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        History.number += 1
        self.simulator = self.rig.simulator
        self.simulator.reset()
        self.simulator.set_clock(lockout_after=1_000_000)
        self.targets: list[Target] = []
        self.current: list[Target] = []
        self.oracles: list[AppOracle] = []
        self.held: dict[int, tuple[int, _Held]] = {}
        self.actors: dict[int, _Actor] = {}
        self.runs: list[str] = []
        self.first_tries: dict[tuple[str, str], int] = {}
        self.judged = 0
        self.expected: list[tuple[int, Any, Expected]] = []
        self.run = self.rig.new_run()
        self.sound = True
        self.changes = 0
        self.clock_is_off = timedelta(0)
        self.jumped_after = 0
        self.jumps = 0
        self.asks = False
        self.went_back = False
        self.lives: list[Life] = []

    @initialize(
        given=st.lists(st.tuples(st.sampled_from(REGIONS), _names), min_size=3, max_size=3),
        asks=st.sampled_from([True] + [False] * (_ASKED_ONE_OF - 1)),
    )
    def begin(self, given: list[tuple[str, dict[int, str]]], asks: bool) -> None:
        """Three apps, in one to three regions."""
        self.asks = asks or self.asks_always
        group = f"history {self.number}"
        for region, names in given:
            # On a busy machine an answer is held back for longer than the usual time-out.
            app = self.rig.add_app(region, names)
            target = replace(app, app_group=group, timeout=MAX_TIMEOUT)
            self.targets.append(target)
            self.oracles.append(AppOracle())
            self.lives.append(Life(app_of(target)))
        self.current = list(self.targets)

    # What changes ---------------------------------------------------------------------------

    @rule(app=_apps, change=_changes)
    def something_changes(self, app: int, change: tuple[str, Any]) -> None:
        what, value = change
        target = self.targets[app]
        place = app_of(target)
        if what == "names":
            self.rig.set_names(target, value)
        elif what == "name":
            self.simulator.set_name(*place, value[0], value[1])
        elif what == "types":
            names = self.simulator.truth(*place, api="timpush").names
            said = {slot: type_ for slot, type_ in value.items() if slot in names}
            self.rig.set_names(target, names, types=said, api="timpush")
        elif what == "names of timpush alone":
            self.rig.set_names(target, value, api="timpush")
        elif what == "how no names are said":
            self.simulator.configure(*place, empty_as=value)
        elif what == "api of the connection":
            self.current[app] = replace(self.current[app], api=value)
        elif what == "key at the vendor":
            self.simulator.rotate_key(*place)
        elif what == "key in the connection":
            self._mend_key(app)
        else:
            assert what == "the vendor's Date"
            self.simulator.set_clock(date_skew=value)

    @rule(listed=st.sets(_apps))
    def a_plan_retires_and_brings_back(self, listed: set[int]) -> None:
        ours = {app_of(target): number for number, target in enumerate(self.targets)}
        moved = retire_apps(
            self.rig.engine, listed=[app_of(self.targets[i]) for i in listed], unresolved=[]
        )
        for app, retired in moved:
            if app in ours:
                assert retired == (ours[app] not in listed)
                count(_HELD, "apps retired" if retired else "apps returned")

    @precondition(lambda self: not self.held)
    @rule(days=st.sampled_from([-2, -1, 1, 2, None]))
    def the_databases_clock_jumps(self, days: int | None) -> None:
        """By so many days, or back to the right time."""
        self._judge()
        self._jump(-self.clock_is_off if days is None else timedelta(days=days))

    def _jump(self, by: timedelta) -> None:
        jump(self.db, by, [app_of(target) for target in self.targets])
        for oracle, life in zip(self.oracles, self.lives, strict=True):
            oracle.jump(by)
            life.jump(by)
        self.went_back |= by < timedelta(0)
        self.clock_is_off += by
        self.jumped_after = self._mark()
        self.jumps += 1
        count(_HELD, "jumps of the database's clock")

    @precondition(lambda self: not self.held)
    @rule(app=_apps, lie=st.sampled_from(_LIES))
    def the_writer_lies(self, app: int, lie: str) -> None:
        if not self.oracles[app].first_seen:
            return
        before = self._record()
        region, number = app_of(self.targets[app])
        of_app = "" if lie.startswith("with") else " where region = :region and sdk_app_id = :app"
        with pytest.raises(DBAPIError), self.rig.engine.begin() as connection:
            connection.execute(text(lie + of_app), {"region": region, "app": number})
        assert self._record() == before
        count(_HELD, "lies of the writer refused")

    def _record(self) -> Record:
        return Record.read(self.rig.engine, [app_of(target) for target in self.targets])

    def _mend_key(self, app: int) -> None:
        key = self.simulator.key(*app_of(self.targets[app]))
        self.current[app] = replace(self.current[app], secret_key=key)

    # Polls ----------------------------------------------------------------------------------

    @rule(
        apps=st.sets(_apps, min_size=1),
        changes=st.tuples(*[st.none() | _names] * 3),
        faults=st.tuples(_faults, _faults, _faults),
        overtake=st.booleans(),
        new_run=st.booleans(),
        broken=st.sampled_from([None, None, None, 0, 1, 2]),
    )
    def a_poll(
        self,
        apps: set[int],
        changes: tuple[dict[int, str] | None, ...],
        faults: tuple[list[Any], ...],
        overtake: bool,
        new_run: bool,
        broken: int | None,
    ) -> None:
        self.sound = False
        if overtake:
            apps = apps | set(self.held)
        for app, names in enumerate(changes):
            if names is not None:
                self.rig.set_names(self.targets[app], names)
        for app in apps:
            if faults[app]:
                self.rig.fault(self.targets[app], *faults[app])
        targets: list[Target | Unresolved] = [
            self._broken(app) if app == broken else self.current[app] for app in sorted(apps)
        ]
        self._poll(targets, new_run=new_run)
        for app in apps:
            self.simulator.clear_faults(app=self.targets[app].sdk_app_id)
        self._judge()
        self.sound = True

    @precondition(lambda self: len(self.held) < 3)
    @rule(
        app=_apps,
        second=st.booleans(),
        at=st.sampled_from(["arrival", "departure"]),
        new_run=st.booleans(),
    )
    def a_poll_whose_answer_is_held_back(
        self, app: int, second: bool, at: str, new_run: bool
    ) -> None:
        if app in self.held:
            return
        self.sound = False
        target = self.current[app]
        first = [] if not (second and self._would_be_read_twice(app)) else ["ok"]
        self.rig.fault(target, *first, {"kind": "hold", "at": at})
        mark = self._mark()
        number, actor = self._new_actor(new_run, [target], _Held)

        def run() -> None:
            try:
                self.rig.sync(target, run=actor.run, try_number=number)
            except BaseException as error:
                actor.errors.append(error)

        actor.thread = threading.Thread(target=run)
        actor.thread.start()
        self.held[app] = (mark, actor)
        # The first read of a new signature may be refused and sent again before it is held.
        actor.waits = self._waits(actor.thread)
        actor.seqs |= {entry.seq for entry in self._entries(mark, {target.sdk_app_id})}
        if actor.waits:
            count(_HELD, "polls held under way")
        else:
            self.simulator.clear_faults(app=target.sdk_app_id)
            before = counted(_HUNG_UP).total()
            self._judge()
            recorded = [poll for poll in self._record().polls if poll.try_number == number]
            assert counted(_HUNG_UP).total() > before, f"not held back: {recorded}"
        self.sound = True

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 2))
    def a_held_answer_comes(self, which: int) -> None:
        self.sound = False
        self._release(sorted(self.held)[which % len(self.held)])
        self._judge()
        self.sound = True

    @precondition(lambda self: self.runs)
    @rule(back=st.integers(0, 2), how=st.sampled_from(_CLEARED), first=_apps, fault=_faults)
    def a_sync_is_tried_again_or_cleared(
        self, back: int, how: str, first: int, fault: list[Any]
    ) -> None:
        """Of one of the last runs; what it records then is announced once."""
        run = self.runs[-1 - back % len(self.runs)]
        if how == "syncs marked success by hand":
            self._mark_success(run)
            return
        polled = {p.conn_id for p in self._record().polls if p.dag_run_id == run}
        by_region: dict[str, list[Target]] = {}
        for target in self.current:
            if target.conn_id in polled:
                by_region.setdefault(target.region, []).append(target)
        regions = sorted(by_region)
        if not regions:
            return
        self.sound = False
        if how == "runs cleared":
            retire_apps(self.rig.engine, listed=map(app_of, self.targets), unresolved=[])
        else:
            regions = [regions[first % len(regions)]]
        if fault:
            self.rig.fault(self.targets[first], *fault)
        for region in regions:
            number, actor = self._actor(run, by_region[region])
            if how != "syncs tried again":
                self.first_tries[run, region] = number
            mark = self._mark()
            first_try = self.first_tries.get((run, region), 1)
            self.tasks.sync(by_region[region], run=run, number=number, first_try=first_try)
            ids = {target.sdk_app_id for target in by_region[region]}
            actor.seqs |= {entry.seq for entry in self._entries(mark, ids)}
        self.simulator.clear_faults(app=self.targets[first].sdk_app_id)
        self._judge()
        self._publish()
        count(_HELD, how)
        self.sound = True

    def _mark_success(self, run: str) -> None:
        """It records nothing, and the run's report names every app that it did not poll."""
        before = self._record()
        missing = self.tasks.not_polled(self.current, run)
        polled = {p.conn_id for p in before.polls if p.dag_run_id == run}
        assert missing == {target.conn_id for target in self.current} - polled
        assert self._record() == before
        count(_HELD, "syncs marked success by hand", bool(missing))

    def _publish(self) -> None:
        count(_HELD, "events emitted", self.tasks.publish())
        if abs(self.clock_is_off) < timedelta(days=20):  # within publish's look-back
            assert self.tasks.announced(self.runs) == self.changes

    # How ------------------------------------------------------------------------------------

    def _broken(self, app: int) -> Unresolved:
        target = self.targets[app]
        return Unresolved(
            target.conn_id,
            Misconfigured("no key"),
            target.region,
            target.sdk_app_id,
            app_group=target.app_group,
        )

    def _would_be_read_twice(self, app: int) -> bool:
        """With a good key an answer comes at once, and it differs from what is known."""
        target = self.current[app]
        if target.secret_key != self.simulator.key(*app_of(target)):
            return False
        truth = self.simulator.truth(*app_of(target), api=target.api)
        types = truth.types if target.api == "timpush" else {}
        answered = {slot: (name, types.get(slot)) for slot, name in truth.names.items()}
        return self.oracles[app].differs(answered)

    def _new_actor(
        self, new_run: bool, targets: list[Target], kind: Any = _Actor
    ) -> tuple[int, Any]:
        if new_run:
            self.run = self.rig.new_run()
        if self.run not in self.runs:
            self.runs.append(self.run)
        return self._actor(self.run, targets, kind)

    def _actor(self, run: str, targets: list[Target], kind: Any = _Actor) -> tuple[int, Any]:
        # The number of the try identifies the polls of one call.
        number = len(self.actors) + 1
        self.actors[number] = kind(run, targets)
        return number, self.actors[number]

    def _poll(self, targets: list[Target | Unresolved], *, new_run: bool) -> list[Recorded]:
        sent = [target for target in targets if isinstance(target, Target)]
        number, actor = self._new_actor(new_run, sent)
        mark = self._mark()
        recorded = self.rig.sync(*targets, run=actor.run, try_number=number)
        ids = {target.sdk_app_id for target in sent}
        actor.seqs |= {entry.seq for entry in self._entries(mark, ids)}
        return recorded

    def _release(self, app: int) -> None:
        _, actor = self.held.pop(app)
        mark = self._mark()
        target = self.targets[app]
        # An answer that is held back because the key was wrong is followed by a second request.
        self.simulator.release(region=target.region, app=target.sdk_app_id)
        assert actor.thread is not None
        actor.thread.join(30)
        assert not actor.thread.is_alive()
        assert not actor.errors, actor.errors
        actor.seqs |= {entry.seq for entry in self._entries(mark, {target.sdk_app_id})}

    def _waits(self, thread: threading.Thread) -> bool:
        """Whether one more answer is held back; if not, this thread's poll is over already."""
        number = 1 + sum(actor.waits for _, actor in self.held.values())
        while True:
            over = not thread.is_alive()
            try:
                self.simulator.wait_held(number, timeout=1)
            except SimulatorError:
                if over:
                    return False
            else:
                return True

    def _mark(self) -> int:
        entries = self.simulator.log()
        return entries[-1].seq if entries else 0

    def _entries(self, after: int, ids: set[int]) -> list[LogEntry]:
        return [entry for entry in self.simulator.log(after) if entry.app_id in ids]

    def _judge(self) -> None:
        """Every poll that was recorded since, against the oracle."""
        record = self._record()
        log = self.simulator.log()
        places = {app_of(target): number for number, target in enumerate(self.targets)}
        for poll in record.polls:
            if poll.poll_id <= self.judged:
                continue
            self.judged = poll.poll_id
            app = places[AppKey(poll.region, poll.sdk_app_id)]
            actor = self.actors[poll.try_number]
            entries = [e for e in log if e.seq in actor.seqs and e.app_id == poll.sdk_app_id]
            assert actor.run == poll.dag_run_id
            # What a poll says it asked is what the vendor was asked.
            assert {e.api for e in entries} <= {poll.api}, (poll, entries)
            reads = reads_of(entries)
            hung_up = _no_tls(poll)
            # The request that was not sent was a read of its own, or a read's second request.
            assert poll.reads - len(reads) in ((0, 1) if hung_up else (0,)), (poll, entries)
            oracle = self.oracles[app]
            emptied_at = oracle.emptied_at
            outcome, expected = oracle.take(poll, reads, run=actor.run, hung_up=bool(hung_up))
            assert poll.outcome == outcome, (poll, reads)
            # A removal was seen before. A poll that saw nothing new counts from its last request,
            # although its row says when it was answered where another poll was under way.
            removed_at = emptied_at if expected and not oracle.names else None
            is_news = expected or not self.lives[app].looks
            seen_at = removed_at or (is_news and poll.first_responded_at) or poll.last_requested_at
            self._live(app, poll, seen_at)
            changes = [c for c in record.changes if c.poll_id == poll.poll_id]
            assert len(changes) == len(expected), (changes, expected)
            for change, wanted in zip(changes, expected, strict=True):
                right = self.clock_is_off == timedelta(0)
                assert_recorded(change, wanted, since=self.jumped_after, right=right)
                if right and wanted.new_read.entry.seq > self.jumped_after:
                    self.expected.append((app, change, wanted))
                self.changes += 1
                count("histories: changes by kind", change.kind)
            count(_TITLE, poll.outcome)
            if hung_up:
                count(_HUNG_UP, hung_up)
        assert len(record.changes) == self.changes
        for number, target in enumerate(self.targets):
            known = {slot: name for slot, (name, _) in self.oracles[number].names.items()}
            assert record.names_of(app_of(target)) == known

    def _live(self, app: int, poll: Any, seen_at: datetime) -> None:
        """A poll that was judged becomes part of the app's life, with what was truly answered."""
        life, oracle = self.lives[app], self.oracles[app]
        if life.first_polled_at == NEVER:  # a late poll may have been sent before
            life.first_polled_at = poll.requested_at
        if poll.outcome == "ok":
            names = {slot: AttrName(*named) for slot, named in oracle.names.items()}
            asked_at, looked_at = poll.requested_at, poll.last_requested_at
            life.looks.append(Look(asked_at, seen_at, looked_at, names, oracle.ok_api))
        elif poll.outcome != "late":
            life.failed.append(poll.requested_at)

    def _ask(self, record: Record) -> None:
        """What the relations for questions say of this history is what was truly answered."""
        group = self.targets[0].app_group
        retired = {AppKey(a.region, a.sdk_app_id): a.retired_at for a in record.apps}
        lives = [life for life in self.lives if life.app in retired]
        for life in lives:
            life.groups = [(life.first_polled_at, group)]
            life.retired_at = retired[life.app] or NEVER
        if not any(life.looks for life in lives):
            return
        times = [at for life in lives for look in life.looks for at in look[:3]]
        rng = random.Random(self.judged)
        with self.db.reader.begin() as connection:
            reading = Reading(connection, lives)
            for lo, hi in windows(lives, min(times), max(times), 6, self.judged):
                for longer in (timedelta(hours=1), timedelta(milliseconds=rng.choice([1, 20]))):
                    count(_ASKED, "gaps", len(reading.gaps(lo, hi, longer)) > 0)
                found = reading.name_in_window(rng.choice([*_NAMES, "never"]), lo, hi)
                for verdict in {row.verdict for row in found}:
                    count(_ASKED, f"name_in_window: {verdict}")
                for verdict in {row.verdict for row in reading.attest(lo, hi)}:
                    count(_ASKED, f"attest: {verdict}")
            count(_ASKED, "drift_episodes", len(reading.drift_episodes(range(4))))
            moved = [row[8] for row in reading.changes()]
            count(_ASKED, "changes", len(moved))
            count(_ASKED, "changes moved from another slot", sum(s is not None for s in moved))
            count(_ASKED, "coverage_by_month", reading.coverage_by_month())
        count(_ASKED, "histories")

    def teardown(self) -> None:
        """When everything is well again two runs suffice to know the truth."""
        for app in list(self.held):
            self._release(app)
        if not (self.targets and self.sound):
            return
        self.simulator.clear_faults()
        self._judge()
        asks = self.asks and not self.went_back
        if asks and self.clock_is_off:
            self._ask(self._record())
        if self.clock_is_off:
            self._jump(-self.clock_is_off)
        for app in range(len(self.targets)):
            self._mend_key(app)
        sufficing = 0
        for _ in range(10):
            # One right after another may be late where reading the clock took long, or _no_tls.
            recorded = self._poll(list(self.current), new_run=True)
            self._judge()
            sufficing += all(each.outcome in ("ok", "unstable") for each in recorded)
            if sufficing == 2:
                break
        self._publish()
        record = self._record()
        if self.jumps:  # its times need not be in order
            record.check_names_and_chain()
        else:
            record.check()
        if asks and not self.jumps:
            self._ask(record)
        for target in self.current:
            truth = self.simulator.truth(*app_of(target), api=target.api)
            polls = record.polls_of(app_of(target))
            assert record.names_of(app_of(target)) == truth.names, (truth, polls[-2:])
        for app, target in enumerate(self.current):
            for api in {target.api, "timpush", "all_member_push"}:
                history = self.simulator.history(*app_of(target), api=api)
                for number, change, expected in self.expected:
                    if number == app and expected.new_read.entry.api == api:
                        looked = assert_true_time(change, expected, history)
                        count(_HELD, "true times within bounds", looked)
        count(_HELD, "histories")


def run_histories(
    simulator: Simulator,
    postgres: EmbeddedPostgres,
    template: str,
    number: int,
    *,
    of_seed: int | None,
    steps: int = 13,
) -> None:
    """So many histories; a fresh database for every hundred, whose chains are verified then."""
    with ExitStack() as stack:
        left = 0

        def fresh_rig() -> History:
            nonlocal left
            if left == 0:
                if hasattr(History, "rig"):
                    assert_chains_hold(History.rig.engine)
                stack.pop_all().close()
                db = stack.enter_context(fresh_audit_db(postgres, template))
                History.rig, History.db = Rig(simulator, db.writer), db
                History.tasks = Tasks(History.rig)
                left = 100
            left -= 1
            return History()

        if of_seed is not None:
            seed(of_seed)(fresh_rig)
        run_state_machine_as_test(
            fresh_rig,  # type: ignore[arg-type]  # any callable that gives a machine will do
            settings=settings(
                max_examples=number,
                stateful_step_count=steps,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.normal,
                print_blob=True,
            ),
        )
        assert_chains_hold(History.rig.engine)
        del History.rig
    # A simulator that nobody gets through to would prove nothing.
    assert counted(_HUNG_UP).total() <= 2 + counted(_HELD)["histories"] // 5000


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with Simulator.start(tmp_path / "simulator", regions=REGIONS, lasting=False) as running:
        yield running


def test_whatever_happens_the_record_is_what_was_truly_answered(
    simulator: Simulator, postgres: EmbeddedPostgres, template: str
) -> None:
    def enough() -> bool:
        held = counted(_HELD)
        return held["histories"] >= HISTORIES and all(held[how] for how in _CLEARED)

    for batch in range(20):
        run_histories(simulator, postgres, template, AT_A_TIME, of_seed=batch)
        if enough():
            break
    assert enough()
