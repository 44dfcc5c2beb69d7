"""What every view and function says, exactly: against a replay of random histories, and in a week
whose truth is written down."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.record.rules import Poll
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.record.store import record_polls
from sqlalchemy import Engine, text

from launch.postgres import EmbeddedPostgres
from tests import story
from tests.conftest import AuditDb
from tests.history import NamesLike, polled
from tests.story import CHINA, FRANKFURT, JAKARTA, LOYALTY, MUMBAI, SEOUL, SINGAPORE, at

TICK = timedelta(microseconds=1)
BEGIN = datetime(2025, 11, 2, tzinfo=UTC)
HISTORIES, POLLS, INSTANTS = 250, 40, 10_500


def run(engine: Engine, sql: str, **values: Any) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return list(result) if result.returns_rows else []


# names_as_of and name_history against a replay ----------------------------------------------------


@dataclass
class Span:
    """A slot was called so: first seen, last seen; what followed was first seen at `ended_at`."""

    slot: int
    name: AttrName
    seen_at: datetime
    last_seen_at: datetime
    began_after: datetime | None
    ended_at: datetime | None = None


@dataclass
class Replay:
    """One app's good reads, replayed; knows neither the rules of recording nor the database.

    ``looks`` are the good polls in order: when what they showed was first seen, when they last
    looked, and what the names then were.
    """

    app: AppKey
    looks: list[tuple[datetime, datetime, dict[int, AttrName]]] = field(default_factory=list)

    def name_at(self, when: datetime, slot: int) -> tuple[AttrName | None, bool] | None:
        """The row that names_as_of owes for the slot: its name, and whether it is certain."""
        before = [look for look in self.looks if look[0] <= when]
        if not before:
            return None
        name = before[-1][2].get(slot)
        # When it was last seen to be so, beginning with the last look that had seen it by then.
        last_seen_at = before[-1][1]
        for _, looked_at, names in self.looks[len(before) :]:
            if names.get(slot) != name:
                break
            last_seen_at = looked_at
        else:
            # Nothing else has been seen since.
            return None if name is None else (name, when <= last_seen_at)
        if name is None:
            return None if when <= last_seen_at else (None, False)
        return name, when <= last_seen_at


@dataclass
class Writer:
    """Makes one app's random history: the truth, its polls, and the replay of what they saw."""

    random: random.Random
    replay: Replay
    api: str = "all_member_push"
    truth: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    shown: dict[int, AttrName] = field(default_factory=dict)
    emptied_at: datetime | None = None
    emptied: bool = False

    def poll(self, time: datetime) -> Poll:
        """One poll at the time: good, failed, in disagreement, or of another source."""
        chance = self.random.random()
        region, number = self.replay.app
        if chance < 0.12:
            failure = Unavailable("502") if chance < 0.1 else Rejected("no")
            return polled(at=time, region=region, sdk_app_id=number, api=self.api, failure=failure)
        if chance < 0.16:
            self.api = "timpush" if self.api == "all_member_push" else "all_member_push"
            self.emptied_at = None
        if chance < 0.5:
            self._change()
        answer: NamesLike = {} if self.emptied else dict(self.truth)
        reads = [answer, answer]
        if chance > 0.97 and answer:
            # The two reads disagree: nothing is to be believed.
            reads[0] = {0: "flicker"}
        poll = polled(*reads, at=time, region=region, sdk_app_id=number, api=self.api)
        if reads[0] != reads[1]:
            self.emptied_at = None
            return poll
        self._see(poll)
        return poll

    def _see(self, poll: Poll) -> None:
        names = dict(poll.reads[-1].answer.names)
        seen_at = poll.reads[0].responded_at
        if not names and self.shown:
            # Everything gone: believed at the next poll, and then seen at the first.
            if self.emptied_at is None:
                self.emptied_at = seen_at
                return
            seen_at = self.emptied_at
        self.emptied_at = None
        for slot, name in names.items():
            known = self.shown.get(slot)
            if name.type is None and known is not None:
                names[slot] = AttrName(name.name, known.type)
        self.shown = names
        self.replay.looks.append((seen_at, poll.reads[-1].requested_at, names))

    def _change(self) -> None:
        self.emptied = self.random.random() < 0.15
        slot = self.random.randrange(4)
        if slot in self.truth and self.random.random() < 0.4:
            del self.truth[slot]
            return
        type_ = self.random.choice([None, 0, 1]) if self.api == "timpush" else None
        self.truth[slot] = (self.random.choice(["", "a", "b", "c"]), type_)


@dataclass(frozen=True)
class Histories:
    db: AuditDb
    replays: list[Replay]


def random_histories(db: AuditDb, seed: int) -> Histories:
    """Random histories, each an app of its own, recorded through the store."""
    rng = random.Random(seed)
    months_for_histories(db)
    writers = [
        Writer(random.Random(rng.random()), Replay(AppKey("seoul", number)))
        for number in range(1, HISTORIES + 1)
    ]
    for number in range(POLLS):
        polls = [
            w.poll(poll_time(number) + timedelta(microseconds=w.random.randrange(10**8)))
            for w in writers
            if number >= w.replay.app[1] % 5  # not all of them begin together
        ]
        for poll in record_polls(db.writer, polls, dag_run_id=f"run {number}", try_number=1):
            assert poll.outcome != "late"
    run(db.owner, "analyze attr_audit.change, attr_audit.snapshot, attr_audit.app")
    return Histories(db, [w.replay for w in writers])


def poll_time(number: float) -> datetime:
    """Polls come ever more seldom, so that spans have every length from minutes to months."""
    return BEGIN + timedelta(minutes=60 * (1.25**number - 1))


def months_for_histories(db: AuditDb) -> None:
    run(
        db.owner,
        "select attr_audit_internal.create_poll_partition(m::date) "
        "from generate_series(date '2025-11-01', '2026-11-01', interval '1 month') m",
    )


AS_OF = """
select u.at, n.slot, n.name, n.attr_type, n.certain
  from unnest(cast(:instants as timestamptz[])) as u (at)
 cross join lateral attr_audit.names_as_of(u.at) n
 where n.region = :region and n.sdk_app_id = :id
 order by u.at, n.slot
"""


def test_names_as_of_agrees_with_a_replay_at_random_instants(audit_db: AuditDb) -> None:
    histories = random_histories(audit_db, seed=4)
    rng, asked = random.Random(5), 0
    rows: list[tuple[Any, ...]] = []
    for replay in histories.replays:
        instants = sorted({_instant(rng, replay) for _ in range(INSTANTS // HISTORIES)})
        expected = [
            (when, slot, name and name.name, name and name.type, certain)
            for when in instants
            for slot in range(4)
            for name, certain in [replay.name_at(when, slot) or (None, None)]
            if certain is not None
        ]
        region, number = replay.app
        given = run(audit_db.reader, AS_OF, instants=instants, region=region, id=number)
        assert [tuple(row) for row in given] == expected, replay.app
        asked += len(instants)
        rows += expected
    assert asked >= 10_000  # a bound may have been drawn twice
    # The histories have what the rule is about: otherwise nothing was shown.
    certain = sum(row[4] for row in rows)
    unknown = sum(row[2] is None for row in rows)
    lengths = run(audit_db.reader, "select count(distinct span_class) from attr_audit.change")
    assert lengths == [(7,)]
    assert certain > 5_000
    assert len(rows) - certain - unknown > 2_000
    assert unknown > 300


def _instant(rng: random.Random, replay: Replay) -> datetime:
    """Any time of the history, a bound of it, or a tick beside one."""
    if replay.looks and rng.random() < 0.6:
        look = rng.choice(replay.looks)
        return rng.choice(look[:2]) + rng.choice([-TICK, TICK * 0, TICK])
    return poll_time(rng.uniform(-1, POLLS))


def test_names_as_of_gives_the_whole_map_of_an_instant(audit_db: AuditDb) -> None:
    histories = random_histories(audit_db, seed=6)
    for number in (0.3, 4.5, 11.2, 20.0, 31.7, 39.9):
        when = poll_time(number)
        expected = {
            (replay.app, slot): row
            for replay in histories.replays
            for slot in range(4)
            if (row := replay.name_at(when, slot)) is not None
        }
        rows = run(audit_db.reader, "select * from attr_audit.names_as_of(:at)", at=when)
        given = {
            ((r.region, r.sdk_app_id), r.slot): (
                None if r.name is None else AttrName(r.name, r.attr_type),
                r.certain,
            )
            for r in rows
        }
        assert len(rows) == len(given)  # no slot twice
        assert given == expected


def test_names_as_of_needs_nothing_of_change_but_its_index(audit_db: AuditDb) -> None:
    """However long the record is: benchmarks/data_volume.py has the figures."""
    random_histories(audit_db, seed=8)
    with audit_db.owner.connect() as connection:
        for other in ("change_by_seen_at", "change_by_slot", "change_by_run"):
            connection.execute(text(f"drop index attr_audit.{other}"))
        connection.execute(text("set local enable_seqscan = off"))
        connection.execute(text("set local enable_bitmapscan = off"))
        plan = connection.execute(
            text("explain select * from attr_audit.names_as_of('2026-01-15Z')")
        ).scalars()
        scans = [line for line in plan if re.search(r"\bon change\b", line)]
    assert len(scans) == 7
    assert all("Index Only Scan using change_by_span" in scan for scan in scans)


def test_name_history_and_current_names_agree_with_a_replay(audit_db: AuditDb) -> None:
    histories = random_histories(audit_db, seed=7)
    expected = sorted(
        (replay.app[1], s.slot, s.seen_at, s.name.name, s.name.type, s.last_seen_at, s.ended_at)
        for replay in histories.replays
        for s in _spans(replay)
    )
    history = run(
        audit_db.reader,
        "select sdk_app_id, slot, valid_from, name, attr_type, certain_to, valid_to, possible_from "
        "from attr_audit.name_history order by sdk_app_id, slot, valid_from",
    )
    assert [tuple(row[:7]) for row in history] == expected
    # A lower bound, where there is one, is the last look that saw the slot otherwise.
    began = {
        (replay.app[1], s.slot, s.seen_at): s.began_after
        for replay in histories.replays
        for s in _spans(replay)
    }
    bounded = [row for row in history if row.possible_from is not None]
    assert len(bounded) > HISTORIES
    for row in bounded:
        assert row.possible_from == began[row.sdk_app_id, row.slot, row.valid_from]
    current = run(
        audit_db.reader,
        "select sdk_app_id, slot, seen_at, name, attr_type, confirmed_at, not_before "
        "from attr_audit.current_names order by sdk_app_id, slot",
    )
    assert [tuple(row) for row in current] == [
        (*row[:6], row.possible_from) for row in history if row.valid_to is None
    ]


def _spans(replay: Replay) -> list[Span]:
    """Every span of every slot, from the looks."""
    spans: list[Span] = []
    for slot in range(4):
        open_span: Span | None = None
        looked_before: datetime | None = None
        for seen_at, looked_at, names in replay.looks:
            name = names.get(slot)
            if open_span is not None and open_span.name != name:
                open_span.ended_at = seen_at
                open_span = None
            if open_span is None and name is not None:
                open_span = Span(slot, name, seen_at, looked_at, looked_before)
                spans.append(open_span)
            if open_span is not None:
                open_span.last_seen_at = looked_at
            looked_before = looked_at
    return spans


# Bounds, one by one ------------------------------------------------------------------------------

AS_OF_ONE = (
    "select slot, name, attr_type, certain from attr_audit.names_as_of(:at) "
    "where region = :region and sdk_app_id = :id order by slot"
)


@pytest.fixture(scope="module")
def week(postgres: EmbeddedPostgres, template: str) -> Engine:
    """The scripted week, as the reader."""
    from im_attr_audit.record.engine import create_audit_engine
    from sqlalchemy.engine import make_url

    name = story.week(postgres, template)
    return create_audit_engine(make_url(postgres.url(name, "attr_audit_reader")))


Row = tuple[int, str | None, int | None, bool]


@pytest.mark.parametrize(
    ("app", "when", "right"),
    [
        # A rename: certain up to and including the last read of the old name …
        (FRANKFURT, at(29, 9), (2, "Membership level", None, True)),
        (FRANKFURT, at(29, 9) + TICK, (2, "Membership level", None, False)),
        # … and from the first read of the new one on, that included.
        (FRANKFURT, at(29, 10, second=0.1) - TICK, (2, "Membership level", None, False)),
        (FRANKFURT, at(29, 10, second=0.1), (2, "Tier", None, True)),
        # An addition: nothing, then not known, then the name.
        (FRANKFURT, at(1, 4), None),
        (FRANKFURT, at(1, 4) + TICK, (3, None, None, False)),
        (FRANKFURT, at(1, 5, second=0.1), (3, "birthday", None, True)),
        # A removal: the name, then not known whether, then nothing.
        (FRANKFURT, at(2, 19), (3, "birthday", None, True)),
        (FRANKFURT, at(2, 19, 30), (3, "birthday", None, False)),
        (FRANKFURT, at(2, 20, second=0.1), None),
        # After the last good poll nothing is certain.
        (FRANKFURT, at(3, 23), (2, "Tier", None, True)),
        (FRANKFURT, at(3, 23) + TICK, (2, "Tier", None, False)),
        # Before an app's first good poll there is nothing.
        (SEOUL, at(31), None),
        (SEOUL, at(31, second=0.1) - TICK, None),
        (SEOUL, at(31, second=0.1), (2, "Membership level", None, True)),
        # Another source: not certain since the old one was last read, although a baseline.
        (LOYALTY, at(29, 23), (1, "points", None, True)),
        (LOYALTY, at(29, 23) + TICK, (1, "points", None, False)),
        (LOYALTY, at(30, second=0.1), (1, "points balance", 0, True)),
        (LOYALTY, at(29, 23, 30), (0, "tier", None, False)),  # its type became known
        # One answer without any name was not believed; the hours around it agree.
        (LOYALTY, at(3, 10, 15), (0, "tier", 0, True)),
        # Not listed for two days: the app is still there, and its history is known.
        (CHINA, at(30), (1, "points", None, False)),
        (CHINA, at(30), (0, "tier", None, True)),
        (JAKARTA, at(3), (0, "coupon", None, False)),
        # An outage: certain again from its end on, and the names that did not change through it.
        (SINGAPORE, at(30, 8), (1, "city", None, False)),
        (SINGAPORE, at(30, 8), (0, "sex", None, True)),
    ],
)
def test_names_as_of_knows_the_bounds(
    week: Engine, app: AppKey, when: datetime, right: Row | None
) -> None:
    given = [tuple(r) for r in run(week, AS_OF_ONE, at=when, region=app[0], id=app[1])]
    if right is None:
        assert all(row[0] != 3 for row in given) if app == FRANKFURT else given == []
    else:
        assert right in given


@pytest.mark.parametrize(
    ("app", "slot", "right"),
    [
        (
            FRANKFURT,
            2,
            [
                ("Membership level", None, at(28, second=0.1), at(29, 9), at(29, 10, second=0.1)),
                ("Tier", at(29, 9), at(29, 10, second=0.1), at(3, 23), None),
            ],
        ),
        (
            LOYALTY,
            1,
            [
                ("points", None, at(28, second=0.1), at(29, 23), at(30, second=0.1)),
                ("points balance", None, at(30, second=0.1), at(3, 23), None),
            ],
        ),
        (
            SINGAPORE,
            1,
            [
                ("city", None, at(28, second=0.1), at(30, 1), at(30, 9, second=0.1)),
                ("region", at(30, 1), at(30, 9, second=0.1), at(3, 23), None),
            ],
        ),
        (JAKARTA, 0, [("coupon", None, at(28, second=0.1), at(2, 11), None)]),
    ],
)
def test_name_history_has_the_bounds_of_every_span(
    week: Engine, app: AppKey, slot: int, right: list[Any]
) -> None:
    rows = run(
        week,
        "select name, possible_from, valid_from, certain_to, valid_to "
        "from attr_audit.name_history "
        "where region = :region and sdk_app_id = :id and slot = :slot order by valid_from",
        region=app[0],
        id=app[1],
        slot=slot,
    )
    assert [tuple(row) for row in rows] == right


# The scripted week, day by day -------------------------------------------------------------------

Drift = dict[tuple[str, int], dict[str, str | None]]


def drift(engine: Engine) -> Drift:
    rows = run(engine, "select * from attr_audit.drift")
    for row in rows:
        assert row.distinct_names == len({name for name in row.names.values() if name is not None})
    return {(row.app_group, row.slot): row.names for row in rows}


def key(app: AppKey) -> str:
    return f"{app[0]}/{app[1]}"


def stale(engine: Engine, now: datetime) -> dict[AppKey, tuple[datetime | None, str, int]]:
    """freshness: the apps last seen before the newest run, with how their polls end."""
    rows = run(engine, "select f.*, now() as read_at from attr_audit.freshness f")
    for row in rows:
        if row.last_ok_at is not None:
            assert row.age == row.read_at - row.last_ok_at
    return {
        AppKey(r.region, r.sdk_app_id): (r.last_ok_at, r.last_outcome, r.consecutive_failures)
        for r in rows
        if r.last_ok_at is None or r.last_ok_at < now
    }


TIER, LEVEL = "Tier", "Membership level"

#: After the run of that hour: what drifts, and which apps it did not see.
CHECKPOINTS: dict[datetime, tuple[Drift, dict[AppKey, tuple[datetime | None, str, int]]]] = {
    at(28): ({}, {}),
    at(29, 9): ({}, {}),
    at(29, 10): ({("shop", 2): {key(FRANKFURT): TIER, key(SINGAPORE): LEVEL}}, {}),
    at(29, 14): ({}, {}),
    # China is retired: its names count no longer, and nobody waits for it.
    at(29, 23): ({}, {}),
    # Another source for the loyalty app in Frankfurt; the only other app of its group is retired.
    at(30): ({}, {}),
    at(30, 2): ({}, {SINGAPORE: (at(30, 1), "unavailable", 1)}),
    at(30, 8): ({}, {SINGAPORE: (at(30, 1), "unavailable", 7)}),
    at(30, 9): ({("shop", 1): {key(FRANKFURT): "city", key(SINGAPORE): "region"}}, {}),
    # Seoul is added, and brings the old name with it; China is back with another one.
    at(31, 12): (
        {
            ("shop", 1): {key(FRANKFURT): "city", key(SINGAPORE): "region", key(SEOUL): "city"},
            ("shop", 2): {key(FRANKFURT): TIER, key(SINGAPORE): TIER, key(SEOUL): LEVEL},
            ("loyalty", 1): {key(CHINA): "credits", key(LOYALTY): "points balance"},
        },
        {},
    ),
    # A slot that only one app has; an empty name is a name, none is none.
    at(1, 7): (
        {
            ("shop", 0): {key(FRANKFURT): "sex", key(SINGAPORE): "sex", key(SEOUL): ""},
            ("shop", 1): {key(FRANKFURT): "city", key(SINGAPORE): "region", key(SEOUL): "city"},
            ("shop", 2): {key(FRANKFURT): TIER, key(SINGAPORE): TIER, key(SEOUL): LEVEL},
            ("shop", 3): {key(FRANKFURT): "birthday", key(SINGAPORE): None, key(SEOUL): None},
            ("loyalty", 1): {key(CHINA): "credits", key(LOYALTY): "points balance"},
        },
        {},
    ),
    # Mumbai was never seen: it has no part in the drift.
    at(3, 23): (
        {
            ("shop", 0): {key(FRANKFURT): "sex", key(SINGAPORE): "sex", key(SEOUL): "gender"},
            ("shop", 1): {key(FRANKFURT): "city", key(SINGAPORE): "region", key(SEOUL): "city"},
            ("shop", 2): {key(FRANKFURT): TIER, key(SINGAPORE): TIER, key(SEOUL): LEVEL},
            ("loyalty", 1): {key(CHINA): "credits", key(LOYALTY): "points balance"},
        },
        {MUMBAI: (None, "rejected", 48), SEOUL: (at(3, 17), "unavailable", 6)},
    ),
}


def test_drift_and_freshness_are_right_all_week(audit_db: AuditDb) -> None:
    story.make_partitions(audit_db.server, audit_db.name, story.BEGIN, story.END)
    checked = 0
    for scripted in story.WEEK.runs():
        story.record(audit_db.writer, scripted)
        if scripted.time in CHECKPOINTS:
            right_drift, right_stale = CHECKPOINTS[scripted.time]
            assert drift(audit_db.reader) == right_drift, scripted.time
            assert stale(audit_db.reader, scripted.time) == right_stale, scripted.time
            checked += 1
    assert checked == len(CHECKPOINTS)
    listed = {(r.region, r.sdk_app_id) for r in run(audit_db.reader, "table attr_audit.freshness")}
    assert listed == set(story.LISTED) - {JAKARTA}
    named = run(audit_db.reader, "select distinct region from attr_audit.current_names")
    assert {r.region for r in named} == {"frankfurt", "singapore", "seoul", "china"}


def test_freshness_of_an_app_without_a_good_poll_counts_from_its_first_poll(week: Engine) -> None:
    [row] = run(
        week,
        "select now() - age as since, last_ok_at from attr_audit.freshness where region = 'mumbai'",
    )
    assert (row.since, row.last_ok_at) == (at(2), None)


def test_an_app_without_names_is_not_one_that_was_never_seen(audit_db: AuditDb) -> None:
    """It was asked and has none: it drifts from every app of its group that has some."""
    months_for_histories(audit_db)
    names: NamesLike = {0: "sex", 7: ""}
    none: NamesLike = {}
    record_polls(
        audit_db.writer,
        [polled(names, names, at=0), polled(none, none, at=0, region="seoul")],
        dag_run_id="run",
        try_number=1,
    )
    assert drift(audit_db.reader) == {
        ("default", 0): {"frankfurt/1400000001": "sex", "seoul/1400000001": None},
        ("default", 7): {"frankfurt/1400000001": "", "seoul/1400000001": None},
    }
    retire_apps(audit_db.writer, listed=[AppKey("frankfurt", 1400000001)], unresolved=())
    assert drift(audit_db.reader) == {}


GAPS = (
    "select region, sdk_app_id, gap_from, gap_to, polls_failed "
    "from attr_audit.coverage_gaps({}) order by gap_from, region, sdk_app_id"
)
#: Every app's gaps of more than an hour; open ones at the end, since the week is over.
ALL_GAPS = [
    (*CHINA, at(29, 11), at(31, 12), 0),  # retired: not polled
    (*SINGAPORE, at(30, 1), at(30, 9), 7),
    (*JAKARTA, at(2, 11), None, 0),
    (*LOYALTY, at(3, 9), at(3, 11), 1),  # the poll that was not believed
    (*SEOUL, at(3, 17), None, 6),
    (*CHINA, at(3, 23), None, 0),
    (*FRANKFURT, at(3, 23), None, 0),
    (*LOYALTY, at(3, 23), None, 0),
    (*SINGAPORE, at(3, 23), None, 0),
]


@pytest.mark.parametrize(
    ("longer_than", "expected"),
    [
        ("", ALL_GAPS),
        ("'1 hour'", ALL_GAPS),
        ("'2 hours'", [gap for gap in ALL_GAPS if gap[0] != "frankfurt" or gap[3] is None]),
        ("'24:00'", [gap for gap in ALL_GAPS if gap[3] is None or gap[0] == "china"]),
        ("'1 day'", [gap for gap in ALL_GAPS if gap[3] is None or gap[0] == "china"]),
        ("'49 hours'", [gap for gap in ALL_GAPS if gap[3] is None]),
        ("'2 days 01:00:00'", [gap for gap in ALL_GAPS if gap[3] is None]),
        ("'48:59:59.999999'", [gap for gap in ALL_GAPS if gap[3] is None or gap[0] == "china"]),
    ],
)
def test_coverage_gaps_are_right_to_the_microsecond(
    week: Engine, longer_than: str, expected: list[Any]
) -> None:
    given = [tuple(row) for row in run(week, GAPS.format(longer_than))]
    assert given == sorted(expected, key=lambda gap: (gap[2], gap[0], gap[1]))


def test_a_confirming_read_shortens_the_gap_after_it(week: Engine) -> None:
    """Knowledge reaches as far as the last read was sent, not only as the poll began."""
    [row] = run(
        week,
        "select gap_from from attr_audit.coverage_gaps('59 minutes 57 seconds') "
        "where region = 'frankfurt' and sdk_app_id = 1400000001 and gap_to = :at",
        at=at(29, 11),
    ) or [None]
    assert row is not None
    assert row.gap_from == at(29, 10, second=2)


ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe"]
EVERYTHING = [
    "select * from attr_audit.current_names order by 1, 2, 4",
    "select * from attr_audit.name_history order by 1, 2, 4, 8",
    "select * from attr_audit.names_as_of('2026-11-01 06:30Z') order by 1, 2, 4",
    "select * from attr_audit.names_as_of('2026-11-01 05:30Z') order by 1, 2, 4",
    "select * from attr_audit.drift order by 1, 2",
    "select region, sdk_app_id, last_ok_at, now() - age from attr_audit.freshness order by 1, 2",
    "select * from attr_audit.coverage_gaps('1 day') order by 1, 2, 3",
    "select * from attr_audit.coverage_gaps('24 hours') order by 1, 2, 3",
    "select * from attr_audit.coverage_gaps() order by 1, 2, 3",
    "select * from attr_audit.daily_changes order by 1, 2, 3, 4",
    "select * from attr_audit.verify_chain() order by 1, 2",
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("statement", EVERYTHING)
def test_every_session_sees_the_same(week: Engine, statement: str, zone: str) -> None:
    """The clocks of New York went back on 1 November at 06:00 UTC, in the middle of the week."""
    with week.begin() as connection:
        plain = list(connection.execute(text(statement)))
        connection.execute(text(f"set local timezone = '{zone}'"))
        connection.execute(text("set local search_path = pg_temp"))
        assert list(connection.execute(text(statement))) == plain


def test_a_day_without_polls_is_24_hours_long_on_the_day_the_clocks_go_back(
    audit_db: AuditDb,
) -> None:
    """24 hours and a minute are more than one day even where that day had 25 hours."""
    months_for_histories(audit_db)
    first = datetime(2026, 11, 1, 4, 30, tzinfo=UTC)  # half past midnight in New York
    names: NamesLike = {0: "sex"}
    for time in (first, first + timedelta(hours=24, minutes=1, seconds=2)):
        record_polls(
            audit_db.writer, [polled(names, names, at=time)], dag_run_id=f"{time}", try_number=1
        )
    with audit_db.reader.begin() as connection:
        connection.execute(text("set local timezone = 'America/New_York'"))
        closed = "select count(*) from attr_audit.coverage_gaps('{}') where gap_to is not null"
        assert connection.execute(text(closed.format("1 day"))).scalar_one() == 1
        assert connection.execute(text(closed.format("1 day 00:01"))).scalar_one() == 0


def test_daily_changes_counts_by_utc_day(week: Engine) -> None:
    rows = run(week, "select * from attr_audit.daily_changes order by day, region, app_group, kind")
    assert [(f"{r.day:%m-%d}", *r[1:]) for r in rows] == [
        ("10-28", "china", "loyalty", "baseline", 2),
        ("10-28", "frankfurt", "loyalty", "baseline", 2),
        ("10-28", "frankfurt", "shop", "baseline", 3),
        ("10-28", "jakarta", "coupons", "baseline", 1),
        ("10-28", "singapore", "shop", "baseline", 3),
        ("10-29", "frankfurt", "shop", "renamed", 1),
        ("10-29", "singapore", "shop", "renamed", 1),
        ("10-30", "frankfurt", "loyalty", "baseline", 2),
        ("10-30", "singapore", "shop", "renamed", 1),
        ("10-31", "china", "loyalty", "renamed", 1),
        ("10-31", "seoul", "shop", "baseline", 3),
        ("11-01", "frankfurt", "shop", "added", 1),
        ("11-01", "seoul", "shop", "renamed", 2),
        ("11-02", "frankfurt", "shop", "removed", 1),
    ]


# What a BI tool shows ----------------------------------------------------------------------------

CONTRACT = {
    "current_names": "region sdk_app_id app_group slot name attr_type not_before seen_at "
    "confirmed_at",
    "name_history": "region sdk_app_id app_group slot name attr_type possible_from valid_from "
    "certain_to valid_to",
    "names_as_of(now())": "region sdk_app_id app_group slot name attr_type certain",
    "drift": "app_group slot distinct_names names",
    "freshness": "region sdk_app_id app_group last_ok_at age last_outcome consecutive_failures",
    "coverage_gaps()": "region sdk_app_id gap_from gap_to polls_failed",
    "daily_changes": "day region app_group kind changes",
    "changes": "seen_at not_before app_group region sdk_app_id slot kind old_name new_name "
    "old_type new_type lookalike moved_from_slot declared detect_seconds verdict reviewer ticket "
    "reviewed_at dag_run_id poll_id seq change_id row_hash",
    "polls": "requested_at app_group region sdk_app_id outcome is_good seconds reads error_code "
    "meaning advice dag_run_id try_number poll_id",
    "gaps('2026-10-01Z', '2026-11-01Z')": "gap_from gap_to app_group region sdk_app_id seconds "
    "polls_failed",
    "name_in_window('sex', '2026-10-01Z', '2026-11-01Z')": "app_group region sdk_app_id slots "
    "certain_pct possible_pct blind_seconds verdict",
    "attest('2026-10-01Z', '2026-11-01Z')": "app_group region sdk_app_id polls_good polls_failed "
    "changes source_changes longest_gap_seconds first_good_at last_good_at head_seq head_hash "
    "verdict",
    "drift_episodes": "began_seen_at began_not_before ended_not_before ended_seen_at app_group "
    "slot first_region first_sdk_app_id first_name seconds",
    "coverage_by_month": "month app_group region sdk_app_id covered_pct longest_gap_seconds "
    "polls_good polls_failed",
    "declared_names": "app_group region sdk_app_id slot name reason until",
    "violations": "since app_group region sdk_app_id slot violation declared_name actual_name "
    "lookalike age_seconds",
    "unreviewed_changes": "seen_at not_before app_group region sdk_app_id slot kind old_name "
    "new_name old_type new_type lookalike moved_from_slot declared detect_seconds verdict reviewer "
    "ticket reviewed_at dag_run_id poll_id seq change_id row_hash age_seconds",
    "verify_chain()": "region sdk_app_id rows_checked ok first_bad_seq head_seq head_hash",
}


@pytest.mark.parametrize("relation", CONTRACT)
def test_a_relation_has_exactly_its_columns(week: Engine, relation: str) -> None:
    with week.connect() as connection:
        given = connection.execute(text(f"select * from attr_audit.{relation}")).keys()
    assert list(given) == CONTRACT[relation].split()


#: Tables may have further columns.
TABLES = {
    "app": "region text, sdk_app_id bigint, app_group text, api text, first_polled_at timestamptz, "
    "first_ok_at timestamptz, last_polled_at timestamptz, last_ok_at timestamptz, "
    "last_outcome text, retired_at timestamptz",
    "poll": "poll_id bigint, conn_id text, region text, sdk_app_id bigint, api text, "
    "dag_run_id text, try_number integer, requested_at timestamptz, responded_at timestamptz, "
    "outcome text, reads smallint, http_status integer, error_code integer, error_info text, "
    "answer text, vendor_date timestamptz, recorded_at timestamptz, head_seq bigint",
    "snapshot": "region text, sdk_app_id bigint, slot smallint, name text, attr_type smallint, "
    "seen_at timestamptz",
    "change": "change_id bigint, region text, sdk_app_id bigint, seq bigint, slot smallint, "
    "kind text, old_name text, new_name text, old_type smallint, new_type smallint, "
    "is_baseline boolean, not_before timestamptz, seen_at timestamptz, answer text, "
    "poll_id bigint, dag_run_id text, recorded_at timestamptz, prev_hash bytea, row_hash bytea",
    "coverage": "region text, sdk_app_id bigint, from_at timestamptz, to_at timestamptz, "
    "polls bigint, polls_failed bigint, longest_gap interval",
    "membership": "region text, sdk_app_id bigint, app_group text, from_at timestamptz",
    "declaration": "declaration_id bigint, recorded_at timestamptz, dag_run_id text, source text, "
    "revision text, digest bytea, document jsonb",
    "review": "review_id bigint, region text, sdk_app_id bigint, seq bigint, verdict text, "
    "reviewer text, ticket text, comment text, reviewed_at timestamptz, recorded_at timestamptz, "
    "dag_run_id text",
    "seal": "n bigint, leaf text, note text, timestamp_token bytea, sealed_at timestamptz",
}
KEYS = {
    "app": "region, sdk_app_id",
    "poll": "requested_at, poll_id",
    "snapshot": "region, sdk_app_id, slot",
    "change": "region, sdk_app_id, seq",
}
_COLUMNS = """
select attname, replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')
  from pg_attribute
 where attrelid = cast(:relation as regclass) and attnum > 0 and not attisdropped
"""


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_its_columns(week: Engine, table: str) -> None:
    given = {f"{name} {kind}" for name, kind in run(week, _COLUMNS, relation=f"attr_audit.{table}")}
    assert set(TABLES[table].split(", ")) <= given
    keys = run(
        week,
        "select pg_get_constraintdef(oid) from pg_constraint "
        "where conrelid = cast(:relation as regclass) and contype in ('p', 'u')",
        relation=f"attr_audit.{table}",
    )
    if table in KEYS:
        assert f"({KEYS[table]})" in {key.partition(" ")[2].removeprefix("KEY ") for (key,) in keys}


#: Those whose first column is a time that is never null; the only ones that tools filter by it.
BY_TIME = (
    *("changes", "polls", "gaps('2026-10-01Z', '2026-11-15Z')", "drift_episodes"),
    *("coverage_by_month", "violations", "unreviewed_changes"),
)


@pytest.mark.parametrize("relation", BY_TIME)
def test_a_relation_by_time_has_no_type_that_a_tool_cannot_read(
    week: Engine, relation: str
) -> None:
    with week.connect() as connection:
        found = connection.execute(text(f"select * from attr_audit.{relation} limit 0"))
        assert found.cursor
        oids = [column[1] for column in found.cursor.description or ()]
    kinds = {
        kind
        for (kind,) in run(
            week,
            "select distinct format_type(oid, null) from pg_type where oid = any(:oids)",
            oids=oids,
        )
    }
    assert kinds <= {
        *("timestamp with time zone", "date", "text", "boolean"),
        *("smallint", "integer", "bigint", "double precision"),
    }
    first = CONTRACT[next(name for name in CONTRACT if name[:6] == relation[:6])].split()[0]
    rows, nulls = run(
        week, f"select count(*), count(*) filter (where {first} is null) from attr_audit.{relation}"
    )[0]
    assert nulls == 0
    assert rows > 0 or relation == "violations"  # nothing is declared in this week


def test_sqlalchemy_reflects_tables_and_views_with_types_and_comments(week: Engine) -> None:
    from sqlalchemy import inspect

    inspector = inspect(week)
    tables = set(inspector.get_table_names("attr_audit"))
    assert {"app", "poll", "snapshot", "change"} <= tables
    views = set(inspector.get_view_names("attr_audit"))
    assert views == {name for name in CONTRACT if "(" not in name}
    for relation in ["app", "poll", "snapshot", "change", *sorted(views)]:
        assert inspector.get_table_comment(relation, "attr_audit")["text"]
        for column in inspector.get_columns(relation, "attr_audit"):
            assert column["comment"], f"{relation}.{column['name']}"
            assert str(column["type"]) != "NULL", f"{relation}.{column['name']}"


def test_the_planner_expects_about_what_it_gets(week: Engine) -> None:
    """A BI tool shows the estimate before it has the rows."""
    for relation in ("current_names", "name_history"):
        with week.connect() as connection:
            plan = connection.execute(
                text(f"explain (analyze, format json) select * from attr_audit.{relation}")
            ).scalar_one()
        top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
        assert top["Plan Rows"] == pytest.approx(top["Actual Rows"], rel=1)
