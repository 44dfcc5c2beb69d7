"""A clock that was wrong blinds nobody, and what the writer claims is not simply believed."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from im_attr_audit.errors import Unavailable
from im_attr_audit.record.database_clock import correct_future_times
from im_attr_audit.record.notifications import record_gaps
from im_attr_audit.record.runs import read_run
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from im_attr_audit.tencent.target import Target
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from tests.clocks import jump
from tests.conftest import AuditDb
from tests.history import polled
from tests.rig import Rig, app_of, assert_chains_hold, brief

REGIONS = ("frankfurt", "seoul")
NAMES = {0: "sex", 1: "city"}
TWO_DAYS = timedelta(days=2)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def rig(simulator: Simulator, audit_db: AuditDb) -> Rig:
    simulator.reset()
    return Rig(simulator, audit_db.writer)


@pytest.fixture
def app(rig: Rig) -> Target:
    """An app that was polled once, a quarter of an hour ago."""
    target = rig.add_app("frankfurt", NAMES)
    assert rig.outcomes(target) == ["ok"]
    return target


def rows(engine: Engine, sql: str, **values: Any) -> list[Any]:
    """The rows of one statement, which is committed."""
    with engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return list(result) if result.returns_rows else []


def refused(engine: Engine, sql: str, **values: Any) -> str:
    """The database's refusal, as text; fails if it does not refuse."""
    with pytest.raises(DBAPIError) as error:
        rows(engine, sql, **values)
    return str(error.value.orig)


def names_now(db: AuditDb, at: datetime | None = None) -> list[tuple[int, str, bool]]:
    """(slot, name, certain) of names_as_of, now unless said."""
    found = rows(
        db.reader,
        "select slot, name, certain from attr_audit.names_as_of(coalesce(:at, now())) order by 1",
        at=at,
    )
    return [tuple(row) for row in found]


# A clock that was ahead --------------------------------------------------------------------------


@pytest.mark.parametrize("polls_under_the_wrong_clock", [1, 2])
def test_a_change_is_recorded_at_the_first_poll_after_the_clock_is_right_again(
    rig: Rig,
    app: Target,
    audit_db: AuditDb,
    caplog: pytest.LogCaptureFixture,
    polls_under_the_wrong_clock: int,
) -> None:
    last_trusted = rig.record(app).apps[0].last_ok_at
    jump(audit_db, TWO_DAYS, [app_of(app)])
    last_trusted -= TWO_DAYS
    for number in range(polls_under_the_wrong_clock):
        rig.set_names(app, {0: f"wrong clock {number}", 1: "city"})
        assert rig.outcomes(app) == ["ok"]
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    last_trusted += TWO_DAYS
    [freshness] = rows(audit_db.reader, "select * from attr_audit.freshness")
    assert freshness.last_ok_at == last_trusted
    assert timedelta(0) <= freshness.age < MINUTE

    rig.set_names(app, {0: "right again", 1: "city"})
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="im_attr_audit.sync"):
        assert rig.outcomes(app) == ["ok"]
    [warning] = [r for r in caplog.records if "clock" in r.message]
    assert "The database's clock was wrong: it was 1728" in warning.message

    changes = rig.record_as_it_is(app).changes
    assert brief(changes[-1:]) == [
        (0, "renamed", f"wrong clock {polls_under_the_wrong_clock - 1}", "right again")
    ]
    newest = changes[-1]
    assert newest.not_before == last_trusted
    assert newest.not_before <= newest.seen_at <= newest.recorded_at
    assert assert_chains_hold(audit_db.writer) == len(changes)
    assert names_now(audit_db) == [(0, "right again", False), (1, "city", False)]
    assert rig.outcomes(app) == ["ok"]
    at = rig.record_as_it_is(app).apps[0].last_ok_at
    assert names_now(audit_db, at) == [(0, "right again", True), (1, "city", True)]
    assert names_now(audit_db, newest.seen_at - timedelta(microseconds=1))[0][2] is False
    history = rows(
        audit_db.reader, "select * from attr_audit.name_history where slot = 0 order by valid_from"
    )
    assert all(row.valid_from < datetime.now(UTC) + MINUTE for row in history)
    assert all(row.valid_to is None or row.valid_from <= row.valid_to for row in history)
    assert all(row.certain_to <= last_trusted for row in history if row.valid_to)
    assert rows(audit_db.reader, "select * from attr_audit.coverage_gaps('1 minute')") == []


def test_an_unchanged_app_is_no_longer_late_once_the_clock_is_right(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    jump(audit_db, TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["ok"]
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["ok"]
    [known] = rig.record_as_it_is(app).apps
    assert known.last_ok_at <= known.last_poll_ended_at < datetime.now(UTC) + MINUTE


def test_an_app_first_seen_under_the_wrong_clock_has_the_widest_lower_bound(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    rig.set_names(app, {0: "gender", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    [change] = rig.record_as_it_is(app).changes[2:]
    assert (change.kind, change.not_before) == ("renamed", datetime(1970, 1, 1, tzinfo=UTC))
    assert names_now(audit_db, change.seen_at)[0] == (0, "gender", True)


def test_an_app_that_was_never_seen_is_corrected_too(rig: Rig, audit_db: AuditDb) -> None:
    target = rig.add_app("seoul", NAMES)
    rig.fault(target, "bad_gateway")
    assert rig.outcomes(target) == ["unavailable"]
    jump(audit_db, -TWO_DAYS, [app_of(target)])
    assert rig.outcomes(target) == ["ok"]
    assert {c.kind for c in rig.record_as_it_is(target).changes} == {"baseline"}


def test_a_removal_seen_under_the_wrong_clock_must_be_seen_again(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    rig.set_names(app, {})
    jump(audit_db, TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["unstable"]
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["unstable"]
    assert rig.outcomes(app) == ["ok"]
    assert rig.record_as_it_is(app).names_of(app_of(app)) == {}


def test_after_several_jumps_every_slot_has_one_name_again(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    for number, by in enumerate((TWO_DAYS, -TWO_DAYS, 3 * TWO_DAYS, -TWO_DAYS, -2 * TWO_DAYS)):
        jump(audit_db, by, [app_of(app)])
        rig.set_names(app, {0: f"name {number}", 1: "city"})
        assert rig.outcomes(app) == ["ok"]
        assert rig.record_as_it_is(app).names_of(app_of(app))[0] == f"name {number}"
    # One correction was found by a clock that was ahead itself: it is replaced.
    assert len(rows(audit_db.reader, "select * from attr_audit.clock_correction")) == 2
    assert_chains_hold(audit_db.writer)
    at = rig.record_as_it_is(app).apps[0].last_ok_at
    assert names_now(audit_db, at) == [(0, "name 4", True), (1, "city", True)]


def test_a_change_is_recorded_after_a_change_that_is_dated_in_the_future(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    """As where an operator has set the times of app right by hand, which leaves those of change."""
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    rows(
        audit_db.owner,
        "update attr_audit.app set first_polled_at = now(), last_polled_at = now(), "
        "first_ok_at = now(), last_ok_at = now(), last_poll_ended_at = now()",
    )
    rig.set_names(app, {0: "gender", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    at = rig.record_as_it_is(app).apps[0].last_ok_at
    assert names_now(audit_db, at) == [(0, "gender", True), (1, "city", True)]


@pytest.fixture
def ahead(rig: Rig, app: Target, audit_db: AuditDb) -> datetime:
    """The clock was ahead for two polls, the second with a change. When the good one before was."""
    trusted: datetime = rig.record(app).apps[0].last_ok_at
    jump(audit_db, TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["ok"]
    rig.set_names(app, {0: "gender", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    return trusted


@pytest.mark.usefixtures("ahead")
def test_names_as_of_is_not_certain_by_a_good_poll_in_the_future(audit_db: AuditDb) -> None:
    assert [certain for *_, certain in names_now(audit_db)] == [False, False]


def test_name_history_is_certain_to_the_last_good_poll_that_is_not_in_the_future(
    audit_db: AuditDb, ahead: datetime
) -> None:
    found = rows(audit_db.reader, "select certain_to from attr_audit.name_history")
    assert {row.certain_to for row in found} == {ahead}


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("name", ["sex", "gender", "city"])
def test_name_in_window_is_not_certain_by_a_good_poll_in_the_future(
    audit_db: AuditDb, name: str
) -> None:
    [row] = rows(
        audit_db.reader,
        "select * from attr_audit.name_in_window(:name, now(), now() + interval '1 hour')",
        name=name,
    )
    assert (row.certain_pct, row.verdict) == (0, "unknown")


@pytest.mark.usefixtures("ahead")
def test_attest_does_not_count_a_good_poll_in_the_future(audit_db: AuditDb) -> None:
    [row] = rows(
        audit_db.reader, "select * from attr_audit.attest(now(), now() + interval '1 hour')"
    )
    assert (row.polls_good, row.verdict) == (0, "not watched")


def test_current_names_and_freshness_go_by_the_last_good_poll_that_is_not_in_the_future(
    audit_db: AuditDb, ahead: datetime
) -> None:
    confirmed = rows(audit_db.reader, "select confirmed_at from attr_audit.current_names")
    assert {row.confirmed_at for row in confirmed} == {ahead}
    [fresh] = rows(audit_db.reader, "select last_ok_at, age from attr_audit.freshness")
    assert fresh.last_ok_at == ahead
    assert timedelta(0) <= fresh.age < MINUTE


_TIMES_SHOWN = {
    "changes": ("not_before", "seen_at", "detect_seconds"),
    "unreviewed_changes": ("not_before", "seen_at", "detect_seconds", "age_seconds"),
    "name_history": ("possible_from", "valid_from", "certain_to", "valid_to"),
    "current_names": ("not_before", "seen_at", "confirmed_at"),
    "daily_changes": ("day",),
    "attest(now() - interval '3 days', now() + interval '3 days')": (
        *("first_good_at", "last_good_at", "longest_gap_seconds"),
    ),
}


def shown_times(db: AuditDb) -> tuple[dict[str, list[dict[str, Any]]], list[datetime]]:
    """The rows of each source of `_TIMES_SHOWN` without its times, and the times."""
    shown: dict[str, list[dict[str, Any]]] = {}
    found: list[datetime] = []
    for source, times in _TIMES_SHOWN.items():
        select = f"select * from attr_audit.{source} order by 1, 2, 3, 4, 5"
        shown[source] = [dict(row._mapping) for row in rows(db.reader, select)]
        taken = [row.pop(time) for row in shown[source] for time in times]
        found += [time for time in taken if isinstance(time, datetime)]
    return shown, found


def test_a_change_that_is_dated_in_the_future_was_seen_by_now(
    rig: Rig, app: Target, audit_db: AuditDb, ahead: datetime
) -> None:
    """Between the last good poll with a true time and the present, as after the correction."""
    shown = []
    for corrects in (False, True):
        if corrects:
            correct_future_times(audit_db.writer, [app_of(app)])
        [(now,)] = rows(audit_db.reader, "select now()")
        answers, times = shown_times(audit_db)
        shown.append(answers)
        assert max(times) < now + MINUTE
        [change] = rows(audit_db.reader, "select * from attr_audit.changes")
        assert change.not_before == ahead
        assert now - MINUTE < change.seen_at < now + MINUTE
        assert change.detect_seconds == (change.seen_at - ahead).total_seconds()
        [span] = rows(
            audit_db.reader, "select * from attr_audit.name_history where valid_to is not null"
        )
        assert (span.name, span.certain_to) == ("sex", ahead)
        for window, changes in (
            ("now() - interval '3 days', now()", 1),
            ("now() - interval '3 days', now() - interval '1 minute'", 0),
            ("now(), now() + interval '3 days'", 0),
        ):
            [row] = rows(audit_db.reader, f"select * from attr_audit.attest({window})")
            assert (row.changes, row.verdict != "unchanged") == (changes, True)
    assert shown[0] == shown[1]
    assert all(shown[0].values())
    # Also when the time has come that the wrong clock had.
    rig.set_names(app, {0: "again", 1: "city"})
    assert rig.outcomes(app) == ["ok"]
    jump(audit_db, 2 * TWO_DAYS, [app_of(app)])
    one, other = rows(audit_db.reader, "select * from attr_audit.changes order by seq")
    assert one.not_before <= one.seen_at <= other.seen_at
    assert other.not_before <= other.seen_at


def test_an_app_seen_only_by_polls_in_the_future_is_not_certain_at_any_time(
    audit_db: AuditDb, app: Target
) -> None:
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    at = datetime.now(UTC) + 2 * TWO_DAYS
    assert [certain for *_, certain in names_now(audit_db, at)] == [False, False]
    [fresh] = rows(audit_db.reader, "select age from attr_audit.freshness")
    assert fresh.age > TWO_DAYS


def test_a_poll_of_a_wrong_clock_ends_no_gap_and_begins_none_when_its_date_comes(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    def alerts_after(by: timedelta) -> list[tuple[str, datetime]]:
        """The alerts that are queued when so much more time has passed."""
        jump(audit_db, by, [app_of(app)])
        record_gaps(audit_db.writer, dag_run_id="run", stale_after=timedelta(hours=1))
        queued = "select kind, gap_from from attr_audit.notification where kind <> 'change'"
        return [tuple(row) for row in rows(audit_db.reader, queued)]

    trusted: datetime = rig.record(app).apps[0].last_ok_at
    jump(audit_db, TWO_DAYS, [app_of(app)])
    assert rig.outcomes(app) == ["ok"]
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    rig.fault(app, "bad_gateway")
    assert rig.outcomes(app) == ["unavailable"]
    assert alerts_after(timedelta(0)) == []
    day = timedelta(days=1)
    assert alerts_after(day) == [("stale", trusted - day)]
    assert alerts_after(day) == [("stale", trusted - 2 * day)]
    assert alerts_after(day) == [("stale", trusted - 3 * day)]


def group_now(db: AuditDb) -> str:
    found = rows(db.reader, "select distinct app_group from attr_audit.names_as_of(now())")
    return str(found[0].app_group)


@pytest.mark.parametrize("corrects", [False, True])
def test_a_group_of_a_wrong_clock_holds_until_the_next_one(
    audit_db: AuditDb, app: Target, corrects: bool
) -> None:
    jump(audit_db, TWO_DAYS, [app_of(app)])
    rows(audit_db.owner, "update attr_audit.app set app_group = 'b', last_ok_at = now()")
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    assert group_now(audit_db) == "b"
    if corrects:
        correct_future_times(audit_db.writer, [app_of(app)])
        assert group_now(audit_db) == "b"
    rows(audit_db.owner, "update attr_audit.app set app_group = 'c'")
    assert group_now(audit_db) == "c"
    # Also when the time has come that the wrong clock had.
    jump(audit_db, 2 * TWO_DAYS, [app_of(app)])
    assert group_now(audit_db) == "c"


def test_a_group_of_no_time_at_all_is_in_no_window(audit_db: AuditDb, app: Target) -> None:
    jump(audit_db, TWO_DAYS, [app_of(app)])
    for group in ("b", "c"):
        rows(audit_db.owner, f"update attr_audit.app set app_group = '{group}', last_ok_at = now()")
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    # Both are then taken to be of the moment in which the clock was found to be wrong.
    correct_future_times(audit_db.writer, [app_of(app)])
    window = "now() - interval '1 hour', now() + interval '1 minute'"
    for question in ("name_in_window('city', {})", "attest({})"):
        found = rows(
            audit_db.reader,
            f"select distinct app_group from attr_audit.{question.format(window)} order by 1",
        )
        assert {row.app_group for row in found} == {"default", "c"}, question


# A clock that is behind ---------------------------------------------------------------------------


def test_a_database_whose_clock_is_behind_the_workers_corrects_nothing(
    rig: Rig, app: Target, audit_db: AuditDb
) -> None:
    jump(audit_db, -TWO_DAYS, [app_of(app)])
    before = rig.record_as_it_is(app).apps
    workers = datetime.now(UTC) + TWO_DAYS
    [found] = correct_future_times(audit_db.writer, [app_of(app)], caller_at=workers)
    assert (found.app, found.is_corrected) == (app_of(app), False)
    assert found.ahead > TWO_DAYS - MINUTE
    assert rig.record_as_it_is(app).apps == before
    assert rows(audit_db.reader, "select * from attr_audit.clock_correction") == []


def test_a_late_poll_fails_the_run_unless_the_app_had_a_good_poll_since_it_began(
    audit_db: AuditDb,
) -> None:
    now = datetime.now(UTC)
    long_ago, before = now - 20 * MINUTE, now - 10 * MINUTE
    record(audit_db, polled(NAMES, NAMES, at=long_ago), run="before")
    record(audit_db, polled(NAMES, at=now, failure=Unavailable("502")), run="failing")
    record(audit_db, polled(NAMES, at=before), run="blind")
    [poll] = read_run(audit_db.writer, "blind").polls
    assert (poll.outcome, poll.superseded, poll.failed) == ("late", False, True)

    record(audit_db, polled(NAMES, at=datetime.now(UTC) + timedelta(seconds=20)), run="good")
    [poll] = read_run(audit_db.writer, "blind").polls
    assert (poll.outcome, poll.superseded, poll.failed) == ("late", True, False)


def record(db: AuditDb, *polls: Any, run: str = "run") -> None:
    """Record polls one after the other, as the writer."""
    for poll in polls:
        record_polls(db.writer, [poll], dag_run_id=run, try_number=1)


# What the writer says of an app -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("last_ok_at = '2099-01-01Z'", "last_ok_at_is_not_in_the_future"),
        ("last_ok_at = 'infinity'", "last_ok_at_is_not_in_the_future"),
        ("last_poll_ended_at = now() + interval '2 minutes'", "is_not_in_the_future"),
        ("last_polled_at = '294000-01-01Z'", "last_polled_at_is_not_in_the_future"),
        ("retired_at = '2099-01-01Z'", "retired_at_is_not_in_the_future"),
        ("last_ok_at = last_ok_at - interval '1 second'", "cannot be changed"),
        ("last_ok_at = '-infinity'", "cannot be changed"),
        ("last_ok_at = '0044-03-15 BC'", "cannot be changed"),
        ("last_ok_at = null, first_ok_at = null, ok_api = null", "cannot be changed"),
        ("last_poll_ended_at = last_poll_ended_at - interval '1 second'", "cannot be changed"),
        ("last_poll_ended_at = null", "cannot be changed"),
        ("last_polled_at = '-infinity'", "cannot be changed"),
        ("first_ok_at = first_ok_at - interval '1 second'", "cannot be changed"),
        ("first_ok_at = first_ok_at + interval '1 second'", "cannot be changed"),
        ("first_polled_at = '-infinity'", "cannot be changed"),
        ("retired_at = '-infinity'", "times_are_since_1970"),
        ("retired_at = '0044-03-15 BC'", "times_are_since_1970"),
        ("emptied_seen_at = now(), emptied_dag_run_id = 'x'", "set by the database alone"),
        ("snapshot_digest = sha256('forged')", "is not that of its snapshot"),
    ],
)
def test_the_writer_cannot_move_what_the_audit_goes_by(
    rig: Rig, app: Target, audit_db: AuditDb, change: str, why: str
) -> None:
    before = rig.record(app).apps
    assert why in refused(audit_db.writer, f"update attr_audit.app set {change}")
    assert rig.record(app).apps == before


@pytest.mark.parametrize("region", ["", " ", " a", "a ", "a/b", "a\tb", "\x1b[0m", "x" * 65])
def test_an_app_whose_region_is_not_a_label_is_refused(audit_db: AuditDb, region: str) -> None:
    assert "region_is_a_label" in refused(audit_db.writer, NEW_APP, region=region, number=1)


NEW_APP = """
insert into attr_audit.app (region, sdk_app_id, api, conn_id, first_polled_at, last_polled_at,
                            last_outcome)
values (:region, :number, 'timpush', 'c', now(), now(), 'ok')
"""


@pytest.mark.parametrize("number", [0, -1])
def test_an_app_whose_number_is_not_positive_is_refused(audit_db: AuditDb, number: int) -> None:
    assert "sdk_app_id_is_positive" in refused(
        audit_db.writer, NEW_APP, region="seoul", number=number
    )


@pytest.mark.parametrize("region", ["a", "china|1", "my own label", "台北"])
def test_a_label_of_the_operators_own_is_taken(audit_db: AuditDb, region: str) -> None:
    rows(audit_db.writer, NEW_APP, region=region, number=1)


def test_the_writer_cannot_add_an_app_that_was_seen_already(audit_db: AuditDb) -> None:
    seen = NEW_APP.replace("last_outcome)", "last_outcome, last_ok_at)").replace(
        "'ok')", "'ok', now())"
    )
    assert "permission denied" in refused(audit_db.writer, seen, region="seoul", number=1)


# What a change comes from -------------------------------------------------------------------------

LIE = """
with p as (
    insert into attr_audit.poll (conn_id, region, sdk_app_id, dag_run_id, requested_at,
                                 responded_at, outcome)
    values ('c', :region, :app, :poll_run, now() - interval '1 second', now(), :outcome)
    returning poll_id
)
insert into attr_audit.change (region, sdk_app_id, slot, old_name, is_baseline, not_before,
                               new_name, seen_at, poll_id, dag_run_id)
select 'frankfurt', :of, slot, name, false, :before, case when :removed then null else 'forged' end,
       now(), poll_id + :another, 'forged'
  from p cross join attr_audit.snapshot s
 where s.sdk_app_id = :of and (:removed or slot = 0)
"""


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"app": 1}, "does not come from poll"),
        ({"region": "seoul"}, "does not come from poll"),
        # Its poll, of the same statement, does not know of it either, and is checked first.
        ({"another": 1000}, "is not the newest change of its app"),
        ({"outcome": "unavailable"}, "does not come from poll"),
        ({"poll_run": "another run"}, "does not come from poll"),
        ({"removed": True}, "no poll of another run saw that before"),
    ],
    ids=str,
)
def test_a_change_comes_from_a_good_poll_of_its_app_and_run(
    rig: Rig, app: Target, audit_db: AuditDb, lie: dict[str, Any], why: str
) -> None:
    [known] = rig.record(app).apps
    truth = {
        "region": "frankfurt",
        "app": app.sdk_app_id,
        "of": app.sdk_app_id,
        "poll_run": "forged",
        "outcome": "ok",
        "another": 0,
        "removed": False,
        "before": known.last_ok_at,
    }
    assert why in refused(audit_db.writer, LIE, **(truth | lie))
    rows(audit_db.writer, LIE, **truth)  # and one that does is taken


def test_a_poll_of_an_app_that_cannot_exist_is_refused(audit_db: AuditDb) -> None:
    poll = (
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome) "
        "values ('c', :region, :app, now(), 'unavailable')"
    )
    assert "app_can_exist" in refused(audit_db.writer, poll, region="", app=1)
    assert "app_can_exist" in refused(audit_db.writer, poll, region="seoul", app=0)


# The step that brings this ------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_a_database_of_every_released_revision_goes_to_the_newest_with_its_data(
    postgres: EmbeddedPostgres, revision: str
) -> None:
    """Rows that are refused today included: they stay, and nothing stops."""
    assert revision in revisions()
    name = f"from_{revision}"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    url = postgres.url(name)
    migrate(url, revision)
    everything = (
        "select (select jsonb_agg(to_jsonb(a) - 'names_digest' order by region) "
        "   from attr_audit.app a), "
        "(select jsonb_agg(to_jsonb(p) - 'names_read' - 'first_responded_at' - 'head_seq' "
        "                  - 'is_folded' order by poll_id) "
        "   from attr_audit.poll p), "
        "(select jsonb_agg(s) from attr_audit.snapshot s), "
        "(select jsonb_agg(c order by change_id) from attr_audit.change c)"
    )
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(
            """
            insert into attr_audit.app (region, sdk_app_id, api, first_polled_at, last_polled_at,
                                        last_outcome, conn_id, first_ok_at, last_ok_at, ok_api,
                                        last_poll_ended_at)
            select r, n, 'timpush', now(), now(), 'ok', 'c', now(), at, 'timpush', at
              from (values ('seoul', 2, now()), ('', 1, now()), ('a/b', -5, now()),
                           ('ahead', 3, now() + interval '2 days'),
                           ('ancient', 4, '-infinity')) as v (r, n, at);
            insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome)
            values ('c', 'seoul', 2, now(), 'ok'), ('c', '', 0, now(), 'ok');
            insert into attr_audit.change (region, sdk_app_id, slot, new_name, is_baseline, seen_at,
                                           poll_id)
            values ('seoul', 2, 0, 'sex', true, now(), 1), ('', 1, 0, 'x', true, now(), 77)
            """
        )
        cursor.execute(everything)
        before = cursor.fetchone()
    assert migrate(url) == revisions()[-1]
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(everything)
        assert cursor.fetchone() == before
        cursor.execute("select bool_and(ok) from attr_audit.verify_chain()")
        assert cursor.fetchone() == (True,)
        cursor.execute("select count(*) from attr_audit.freshness where age < interval '0'")
        assert cursor.fetchone() == (0,)
        cursor.execute(
            "select region, is_corrected from attr_audit_internal.correct_future_times("
            "array['ahead', 'seoul'], array[3, 2], now())"
        )
        assert cursor.fetchall() == [("ahead", True)]
