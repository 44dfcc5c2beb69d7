"""One round against the real simulator and a real Postgres: one sentence per rule."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from im_attr_audit.errors import Misconfigured
from im_attr_audit.record.clock import Clock
from im_attr_audit.record.database_clock import read_clock
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.tencent import answer
from im_attr_audit.tencent.target import Target, Unresolved
from sqlalchemy import Engine, text

from simulator.control import Simulator
from tests.children import Children, Strike, Work
from tests.conftest import WRITER, AuditDb
from tests.rig import Rig, app_of, assert_changes_are_true, brief

REGIONS = ("china", "frankfurt", "seoul")
NAMES = {0: "sex", 1: "city"}
MANY = {slot: f"name {slot}" for slot in range(200)}


@pytest.fixture
def rig(simulator: Simulator, audit_db: AuditDb) -> Rig:
    simulator.reset()
    return Rig(simulator, audit_db.writer)


@pytest.fixture
def app(rig: Rig) -> Target:
    """An app that has been seen."""
    target = rig.add_app("frankfurt", NAMES)
    assert rig.outcomes(target) == ["ok"]
    return target


class Overtaken:
    """A poll in a thread, its answer held back until `finish`."""

    def __init__(self, rig: Rig, target: Target, *reads_before: str) -> None:
        self._rig, self._target = rig, target
        rig.fault(target, *reads_before, {"kind": "hold", "at": "arrival"})
        self.outcome: list[str] = []
        self._thread = threading.Thread(
            target=lambda: self.outcome.extend(rig.outcomes(target)), daemon=True
        )
        self._thread.start()
        rig.simulator.wait_held(1)

    def finish(self) -> str:
        self._rig.simulator.release(region=self._target.region, app=self._target.sdk_app_id)
        self._thread.join(30)
        [outcome] = self.outcome
        return outcome


# What is recorded --------------------------------------------------------------------------------


def test_first_sight_is_recorded_as_baselines_after_a_second_read(rig: Rig) -> None:
    target = rig.add_app("frankfurt", NAMES)
    [recorded] = rig.sync(target, run="first")
    record = rig.record(target)
    [poll] = record.polls
    assert (poll.conn_id, poll.outcome, poll.reads) == (recorded.conn_id, "ok", 2)
    assert (poll.dag_run_id, poll.conn_id, poll.http_status) == ("first", target.conn_id, 200)
    assert brief(record.changes) == [(0, "baseline", None, "sex"), (1, "baseline", None, "city")]
    assert {c.not_before for c in record.changes} == {None}
    assert record.changes[0].answer == (
        '{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"AttrNames":{"0":"sex","1":"city"}}'
    )


def test_every_kind_of_change_is_recorded_once_with_bounds_that_hold_its_time(
    rig: Rig, app: Target
) -> None:
    for names in (
        {0: "gender", 1: "city"},
        {0: "gender", 1: "city", 7: ""},
        {1: "city", 7: ""},
        {1: "a", 7: "b"},
        {1: "b", 7: "a"},
    ):
        rig.set_names(app, names)
        assert rig.outcomes(app) == ["ok"]
    changes = rig.record(app).changes
    assert_changes_are_true(changes, rig.history(app))
    assert [c.kind for c in changes[2:]] == ["renamed", "added", "removed", *["renamed"] * 4]


def test_an_unchanged_answer_is_read_once_and_recorded_as_a_poll_alone(
    rig: Rig, app: Target
) -> None:
    before = rig.record(app)
    assert rig.outcomes(app) == ["ok"]
    after = rig.record(app)
    assert (after.changes, after.snapshot) == (before.changes, before.snapshot)
    assert after.polls[-1].reads == 1
    assert after.apps[0].last_ok_at == after.polls[-1].requested_at


def test_names_are_compared_exactly_and_kept_as_sent(rig: Rig) -> None:
    odd = {
        0: "é",
        1: "e\u0301",
        2: " city",
        3: "city ",
        4: "City",
        5: "",
        6: "\x1b[31m",
        7: "🙂" * 256,
    }
    target = rig.add_app("seoul", odd)
    rig.sync(target)
    assert rig.record(target).names_of(app_of(target)) == odd
    rig.set_names(target, odd | {0: "e\u0301", 1: "é", 4: "city"})
    rig.sync(target)
    assert [c.slot for c in rig.record(target).changes[8:]] == [0, 1, 4]


def test_every_way_to_say_no_names_says_no_names(rig: Rig) -> None:
    shapes = ("object", "absent", "null", "array")
    targets = [rig.add_app("china", {}, empty_as=shape) for shape in shapes]
    assert rig.outcomes(*targets) == ["ok"] * 4
    record = rig.record(*targets)
    assert (record.changes, record.snapshot) == ((), ())
    assert all(app.first_ok_at is not None for app in record.apps)


# Rule 1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("bad_gateway", "unavailable"),
        ("drop", "unavailable"),
        ({"kind": "drop", "reset": True}, "unavailable"),
        ("half", "unavailable"),
        ({"kind": "half", "where": "headers"}, "unavailable"),
        ({"kind": "code", "code": 70009}, "rejected"),
        ({"kind": "code", "code": 60026}, "rejected"),
        ({"kind": "code", "code": 90045}, "rejected"),
        ({"kind": "code", "code": 91000}, "unavailable"),
        ({"kind": "code", "code": 60007}, "unavailable"),
        ({"kind": "raw", "body": b"<html>"}, "invalid"),
        ({"kind": "raw", "body": b'{"AttrNames":{}}'}, "invalid"),
        ("redirect", "invalid"),
        ("oversize", "invalid"),
        ("gzip_bomb", "invalid"),
    ],
    ids=str,
)
@pytest.mark.parametrize("read", ["first", "second"])
def test_a_poll_that_fails_changes_nothing(
    rig: Rig, app: Target, fault: Any, outcome: str, read: str
) -> None:
    rig.set_names(app, {0: "gender"})
    before = rig.record(app)
    faults = [fault] if read == "first" else ["ok", fault]
    rig.fault(app, *faults)
    assert rig.outcomes(app) == [outcome]
    after = rig.record(app)
    assert (after.changes, after.snapshot) == (before.changes, before.snapshot)
    assert after.apps[0].last_ok_at == before.apps[0].last_ok_at
    poll = after.polls[-1]
    assert (poll.outcome, poll.reads) == (outcome, len(faults))
    assert poll.error_info
    assert (poll.answer is not None) == (outcome == "invalid")


def test_a_hanging_vendor_is_given_up_in_the_targets_own_time(rig: Rig, app: Target) -> None:
    rig.fault(app, "hang")
    assert rig.outcomes(replace(app, timeout=0.2)) == ["unavailable"]
    rig.simulator.clear_faults()
    assert rig.record(app).polls[-1].error_info.endswith("within 0.2 s, the connection's timeout")


def test_a_broken_connection_is_recorded_without_being_sent(rig: Rig, app: Target) -> None:
    entries = len(rig.simulator.log())
    broken = Unresolved(app.conn_id, Misconfigured("no key"), *app_of(app))
    nameless = Unresolved("im_nowhere", Misconfigured("no region"))
    assert rig.outcomes(broken, nameless) == ["misconfigured"] * 2
    assert len(rig.simulator.log()) == entries
    poll = rig.record(app).polls[-1]
    assert (poll.outcome, poll.reads, poll.responded_at) == ("misconfigured", 0, None)


# Rule 3 ------------------------------------------------------------------------------------------


def test_a_poll_that_is_made_twice_records_its_change_once(rig: Rig, app: Target) -> None:
    rig.set_names(app, {0: "gender", 1: "city"})
    for _ in range(3):
        assert rig.outcomes(app, run="the same run") == ["ok"]
    assert_changes_are_true(rig.record(app).changes, rig.history(app))


def test_the_same_name_back_and_forth_is_as_many_changes(rig: Rig, app: Target) -> None:
    for name in ("gender", "sex", "gender", "sex"):
        rig.set_names(app, {0: name, 1: "city"})
        rig.sync(app)
    assert_changes_are_true(rig.record(app).changes, rig.history(app))


# Rule 4 ------------------------------------------------------------------------------------------


def test_the_second_read_comes_after_the_wait_on_a_new_connection(rig: Rig, app: Target) -> None:
    rig.set_names(app, {0: "gender"})
    mark = rig.simulator.log()[-1].seq
    rig.sync(app, confirm_seconds=0.3)
    first, second = rig.simulator.log(mark)
    assert first.connection != second.connection
    poll = rig.record(app).polls[-1]
    assert poll.last_requested_at - poll.requested_at >= timedelta(seconds=0.3)
    assert second.arrived_at - first.arrived_at >= timedelta(seconds=0.3)


def test_the_wait_begins_with_the_answer_however_long_connecting_takes(
    rig: Rig, app: Target
) -> None:
    rig.set_names(app, {0: "gender"})
    rig.fault(app, {"kind": "delay", "seconds": 0.4, "at": "arrival"})
    ends: list[datetime] = []

    def note_end(seconds: float) -> None:
        ends.append(datetime.now(UTC) + timedelta(seconds=seconds))

    rig.sync(app, confirm_seconds=100, sleep=note_end)
    [end] = ends
    # The answer came 0.4 s after the request at the earliest.
    assert end - rig.record(app).polls[-1].requested_at > timedelta(seconds=100.3)


def test_there_is_one_wait_for_all_apps_that_differ(rig: Rig) -> None:
    targets = [rig.add_app(region, NAMES) for region in REGIONS for _ in range(4)]
    waits: list[float] = []
    rig.sync(*targets, confirm_seconds=100, sleep=waits.append)
    [wait] = waits
    assert 0 < wait <= 100


def test_nobody_waits_where_nothing_differs(rig: Rig, app: Target) -> None:
    waits: list[float] = []
    rig.sync(app, confirm_seconds=100, sleep=waits.append)
    assert waits == []


def test_reads_that_disagree_record_nothing(rig: Rig, app: Target) -> None:
    rig.fault(app, {"kind": "answer_names", "names": {"0": "glitch"}})
    assert rig.outcomes(app) == ["unstable"]
    rig.fault(
        app,
        {"kind": "answer_names", "names": {"0": "one"}},
        {"kind": "answer_names", "names": {"0": "another"}},
    )
    assert rig.outcomes(app) == ["unstable"]
    assert [c.kind for c in rig.record(app).changes] == ["baseline"] * 2


def test_a_name_that_changes_between_the_reads_is_recorded_by_the_next_run(
    rig: Rig, app: Target
) -> None:
    rig.set_names(app, {0: "gender", 1: "city"})

    def rename_again(_: float) -> None:
        rig.set_names(app, {0: "geschlecht", 1: "city"})

    assert rig.outcomes(app, confirm_seconds=100, sleep=rename_again) == ["unstable"]
    assert rig.outcomes(app) == ["ok"]
    assert brief(rig.record(app).changes[2:]) == [(0, "renamed", "sex", "geschlecht")]


def test_a_removal_of_everything_waits_for_the_next_runs_poll(rig: Rig, app: Target) -> None:
    rig.set_names(app, {})
    assert rig.outcomes(app, run="one") == ["unstable"]
    assert rig.outcomes(app, run="one", try_number=2) == ["unstable"]
    assert rig.record(app).names_of(app_of(app)) == NAMES
    first = rig.record(app).polls[1]
    assert rig.outcomes(app, run="two") == ["ok"]
    record = rig.record(app)
    assert record.names_of(app_of(app)) == {}
    assert_changes_are_true(record.changes, rig.history(app))
    # The upper bound stays the first read's that saw nothing.
    assert {first.requested_at <= c.seen_at <= first.responded_at for c in record.changes[2:]} == {
        True
    }


# Rule 5 ------------------------------------------------------------------------------------------


def test_an_older_answer_never_overwrites_a_newer_one(rig: Rig, app: Target) -> None:
    overtaken = Overtaken(rig, app)
    rig.set_names(app, {0: "gender", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    assert overtaken.finish() == "late"
    record = rig.record(app)
    assert record.apps[0].last_outcome == "ok"
    assert_changes_are_true(record.changes, rig.history(app))


def test_a_confirming_read_that_is_overtaken_is_late_too(rig: Rig, app: Target) -> None:
    rig.set_names(app, {0: "gender", 1: "city"})
    overtaken = Overtaken(rig, app, "ok")
    rig.set_names(app, {0: "geschlecht", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    assert overtaken.finish() == "late"
    assert rig.record(app).names_of(app_of(app)) == {0: "geschlecht", 1: "city"}


def test_an_overtaken_poll_that_failed_keeps_its_reason_and_is_not_the_last_word(
    rig: Rig, app: Target
) -> None:
    rig.fault(app, {"kind": "hang"})
    came: list[str] = []
    thread = threading.Thread(target=lambda: came.extend(rig.outcomes(app)))
    thread.start()
    rig.simulator.wait_held(1)
    assert rig.outcomes(app) == ["ok"]
    rig.simulator.clear_faults()
    thread.join(30)
    assert came == ["unavailable"]
    [known] = rig.record(app).apps
    assert (known.last_outcome, known.consecutive_failures) == ("ok", 0)


# Rule 7 ------------------------------------------------------------------------------------------


def test_one_apps_failure_stops_no_other(rig: Rig) -> None:
    faults: list[Any] = ["bad_gateway", "drop", {"kind": "code", "code": 70009}, "half", "redirect"]
    targets = [rig.add_app(REGIONS[i % 3], NAMES) for i in range(12)]
    for target, fault in zip(targets, faults, strict=False):
        rig.fault(target, fault)
    broken = Unresolved("im_nowhere", Misconfigured("no region"))
    outcomes = rig.outcomes(*targets, broken)
    assert outcomes[5:] == ["ok"] * 7 + ["misconfigured"]
    assert "ok" not in outcomes[:5]
    assert len(rig.record(*targets).changes) == 14


def test_an_answer_that_nobody_foresaw_is_invalid_and_stops_no_other(
    rig: Rig, app: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = rig.add_app("china", NAMES)

    decode = answer._decode

    def fails(body: bytes) -> tuple[Any, str | None]:
        if b"gender" in body:
            raise ZeroDivisionError(app.secret_key)
        return decode(body)

    rig.set_names(app, {0: "gender"})
    monkeypatch.setattr(answer, "_decode", fails)
    assert rig.outcomes(app, other) == ["invalid", "ok"]
    assert rig.record(app).polls[-1].error_info == (
        "the answer could not be understood (ZeroDivisionError)"
    )


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
def test_nothing_is_recorded_where_a_clock_was_changed_during_the_poll(
    rig: Rig, app: Target, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    """A machine that was suspended after it read the clock, or a clock that was set."""
    unchanged = rig.add_app("china", NAMES)
    rig.sync(unchanged)
    clocks = iter([off, timedelta()])

    def read(engine: Engine) -> Clock:
        real = read_clock(engine)
        at = real.earliest() - next(clocks)
        return Clock(at, asked=time.monotonic(), answered=time.monotonic())

    rig.set_names(app, {0: "gender"})
    monkeypatch.setattr("im_attr_audit.sync.read_clock", read)
    before = rig.record(app).changes
    assert rig.outcomes(app) == ["unavailable"]
    monkeypatch.undo()
    record = rig.record(app)
    assert record.changes == before
    assert record.polls[-1].error_info == (
        "the machine was suspended or a clock was changed during the poll (3600 s), "
        "so its times cannot be trusted"
    )
    assert rig.outcomes(app, unchanged) == ["ok", "ok"]
    assert_changes_are_true(rig.record(app).changes, rig.history(app))


def test_an_app_that_the_database_refuses_stops_no_other(rig: Rig, audit_db: AuditDb) -> None:
    with audit_db.owner.begin() as connection:
        connection.execute(
            text("alter table attr_audit.change add constraint test check (new_name <> 'refused')")
        )
    targets = [rig.add_app("china", {0: f"name {i}"}) for i in range(7)]
    rig.set_names(targets[4], {0: "refused"})
    with pytest.raises(Exception, match="violates check constraint"):
        rig.sync(*targets)
    record = rig.record(*targets)
    assert len(record.changes) == 6
    assert record.polls_of(app_of(targets[4])) == []


# Sources, types, clocks --------------------------------------------------------------------------


def test_another_api_is_another_source_and_not_a_change(rig: Rig, app: Target) -> None:
    rig.set_names(app, {0: "gender", 1: "city"}, types={0: 0, 1: 1}, api="timpush")
    other = replace(app, api="timpush")
    rig.sync(other)
    assert brief(rig.record(app).changes[2:]) == [
        (0, "baseline", "sex", "gender"),
        (1, "baseline", "city", "city"),
    ]
    rig.set_names(app, {0: "sex", 1: "city"}, types={0: 1, 1: 1}, api="timpush")
    rig.sync(other)
    [change] = rig.record(app).changes[4:]
    assert (change.kind, change.old_type, change.new_type) == ("renamed", 0, 1)


def test_a_retired_app_that_returns_continues_where_it_was(rig: Rig, app: Target) -> None:
    assert (app_of(app), True) in retire_apps(rig.engine, listed=[], unresolved=[])
    rig.set_names(app, {0: "gender", 1: "city"})
    assert (app_of(app), False) in retire_apps(rig.engine, listed=[app_of(app)], unresolved=[])
    rig.sync(app)
    assert_changes_are_true(rig.record(app).changes, rig.history(app))


def test_a_vendors_clock_far_off_is_warned_about_and_bounds_nothing(
    rig: Rig, app: Target, caplog: pytest.LogCaptureFixture
) -> None:
    rig.simulator.set_clock(date_skew=-30)
    rig.sync(app)
    assert [r for r in caplog.records if r.name.startswith("im_attr_audit")] == []
    rig.simulator.set_clock(date_skew=3600)
    rig.set_names(app, {0: "gender", 1: "city"})
    with caplog.at_level(logging.WARNING):
        rig.sync(app)
    [message] = [r.getMessage() for r in caplog.records if r.name.startswith("im_attr_audit")]
    assert "apart" in message
    assert app.conn_id in message
    record = rig.record(app)
    assert record.polls[-1].vendor_date - record.polls[-1].responded_at > timedelta(minutes=59)
    assert_changes_are_true(record.changes, rig.history(app))


# What was measured elsewhere on this very job; here each of these is zero ------------------------


def test_a_late_answer_delivered_again_records_zero_false_changes(rig: Rig) -> None:
    """Elsewhere: 6."""
    target = rig.add_app("frankfurt", {slot: f"name {slot}" for slot in range(6)})
    rig.sync(target)
    late = Overtaken(rig, target)
    rig.set_names(target, {slot: f"new {slot}" for slot in range(6)})
    rig.sync(target)
    right = rig.record(target).changes
    assert late.finish() == "late"
    rig.sync(target)
    assert len(rig.record(target).changes) - len(right) == 0
    assert_changes_are_true(right, rig.history(target))


def test_a_region_that_failed_records_zero_false_changes(rig: Rig) -> None:
    """Elsewhere: 398."""
    targets = [rig.add_app(region, MANY) for region in REGIONS]
    rig.sync(*targets)
    before = rig.record(*targets)
    for fault in ("bad_gateway", "drop", "half"):
        rig.simulator.fault(fault, region="seoul", times=None)
        rig.sync(*targets)
        rig.simulator.clear_faults()
    after = rig.record(*targets)
    assert len(after.changes) - len(before.changes) == 0
    assert after.snapshot == before.snapshot


def test_overlapping_runs_record_zero_duplicates(rig: Rig) -> None:
    """Elsewhere: 175, or everything twice."""
    targets = [rig.add_app(region, MANY) for region in REGIONS]
    overtaken = Overtaken(rig, targets[0])
    assert rig.outcomes(*targets) == ["ok"] * 3
    assert overtaken.finish() == "late"
    changes = rig.record(*targets).changes
    assert len(changes) - len({(c.region, c.slot) for c in changes}) == 0
    assert len(changes) == 3 * len(MANY)


def test_one_empty_answer_records_zero_false_changes(rig: Rig) -> None:
    """Elsewhere: 398."""
    target = rig.add_app("frankfurt", MANY)
    rig.sync(target)
    before = rig.record(target)
    empty = {"kind": "answer_names", "names": {}}
    rig.fault(target, empty)
    assert rig.outcomes(target) == ["unstable"]
    rig.fault(target, empty, empty)
    assert rig.outcomes(target) == ["unstable"]
    assert rig.outcomes(target) == ["ok"]
    after = rig.record(target)
    assert len(after.changes) - len(before.changes) == 0
    assert after.snapshot == before.snapshot


def test_after_a_kill_the_next_run_misses_zero_changes(rig: Rig, audit_db: AuditDb) -> None:
    """Elsewhere: the old package was loaded again, the new data ignored, exit code 0."""
    target = rig.add_app("frankfurt", NAMES)
    rig.sync(target)
    rig.set_names(target, {0: "what the killed run saw", 1: "city"})
    fields = rig.simulator.connection_json(*app_of(target))
    work = Work(url=audit_db.url(WRITER), targets={target.conn_id: fields}, run="killed")
    with Children() as children:
        killed = children.wait(children.fork(work, Strike("before: commit")))
    assert killed.signal == 9
    rig.set_names(target, {0: "what is true now", 1: "city"})
    assert rig.outcomes(target) == ["ok"]
    record = rig.record(target)
    assert record.names_of(app_of(target)) == {0: "what is true now", 1: "city"}
    assert brief(record.changes[2:]) == [(0, "renamed", "sex", "what is true now")]


def test_keys_and_names_with_bars_collide_zero_times(rig: Rig) -> None:
    """Elsewhere: two keys that were joined with a bar collided."""
    names = {1: "1|a", 11: "a", 2: "a|b", 3: "a", 4: "b", 5: "|", 6: "||"}
    targets = [rig.add_app(region, names) for region in ("china", "seoul")]
    odd = replace(targets[0], region="china|1")  # a region's own label, as an operator may give it
    rig.sync(*targets)
    record = rig.record(*targets)
    assert [record.names_of(app_of(target)) for target in targets] == [names] * 2
    assert len(record.changes) - 2 * len(names) == 0
    assert rig.outcomes(odd) == ["ok"]
    assert rig.record(odd).names_of(app_of(odd)) == names
    rig.set_names(targets[0], names | {2: "a", 3: "b|a"})
    rig.sync(*targets)
    assert brief(rig.record(targets[0]).changes[7:]) == [
        (2, "renamed", "a|b", "a"),
        (3, "renamed", "a", "b|a"),
    ]
    assert len(rig.record(targets[1]).changes) == len(names)
