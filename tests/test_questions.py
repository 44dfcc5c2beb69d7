"""Every relation for questions says what a brute-force replay of the polls says.

Random histories of apps in groups: names that move, drift and disappear, failed polls, another API
family, apps that change their group or are retired. `tests.replay` has the right answers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import PollFailed, Rejected, Unavailable
from im_attr_audit.page import queries
from im_attr_audit.record.store import record_polls
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from tests import agreement, replay
from tests.agreement import Reading
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import NamesLike, polled
from tests.psql import QUERIES
from tests.replay import Life, Look
from tests.test_views import Replay, Writer, months_for_histories, run

BEGIN = datetime(2025, 11, 2, tzinfo=UTC)
GROUPS, APPS, ROUNDS, WINDOWS = 4, 16, 50, 40
#: Minutes between rounds: many gaps of about an hour, some longer.
_STEPS = [7, 15, 30, 50, 57, 60, 61, 62, 90, 180, 1_800, 10_000]
_NAMES = ["", "a", "b", "c", "never"]


@dataclass
class History:
    """What is recorded, and the lives that it has to follow from."""

    db: AuditDb
    lives: list[Life]
    begin: datetime
    end: datetime


@pytest.fixture(scope="module")
def history(postgres: EmbeddedPostgres, template: str) -> Iterator[History]:
    with fresh_audit_db(postgres, template) as db:
        yield record_history(db, random.Random(15))


def record_history(db: AuditDb, rng: random.Random, begin: datetime = BEGIN) -> History:
    """A random history, recorded through the store."""
    months_for_histories(db)
    lives = [Life(AppKey(rng.choice(["seoul", "china"]), number)) for number in range(1, APPS + 1)]
    writers = {life.app: Writer(random.Random(rng.random()), Replay(life.app)) for life in lives}
    groups = {life.app: f"group {number % GROUPS}" for number, life in enumerate(lives)}
    time = begin
    for number in range(ROUNDS):
        time += timedelta(minutes=rng.choice(_STEPS))
        polls = []
        for life in lives:
            if number < life.app.sdk_app_id % 7 * 2 or life.retired_at < time:
                continue  # not all of them begin together, and one ends early
            if rng.random() < 0.02:
                groups[life.app] = f"group {rng.randrange(GROUPS)}"
            at = time + timedelta(microseconds=rng.randrange(10**8))
            writer = writers[life.app]
            known = len(writer.replay.looks)
            poll = replace(writer.poll(at), app_group=groups[life.app])
            if poll.failure is None and rng.random() < 0.3:
                _swap(writer, rng)
            polls.append(poll)
            life.first_polled_at = min(life.first_polled_at, at)
            if not life.groups or life.groups[-1][1] != groups[life.app]:
                life.groups.append((at, groups[life.app]))
            if len(writer.replay.looks) > known:
                life.looks.append(Look(at, *writer.replay.looks[-1], poll.api))
            else:
                life.failed.append(at)
        recorded = record_polls(db.writer, polls, dag_run_id=f"run {number}", try_number=1)
        assert {each.outcome for each in recorded} <= {"ok", "unstable", "unavailable", "rejected"}
        if number == ROUNDS * 2 // 3:
            lives[2].retired_at = time + timedelta(minutes=5)
    run(
        db.owner,
        "update attr_audit.app set retired_at = :at where sdk_app_id = :id",
        at=lives[2].retired_at,
        id=lives[2].app.sdk_app_id,
    )
    # One app never gave an answer.
    blind = Life(AppKey("china", 99), first_polled_at=begin, failed=[begin])
    blind.groups = [(begin, "group 0")]
    failure = Rejected("no", error_code=90009)
    poll = polled(at=begin, region="china", sdk_app_id=99, app_group="group 0", failure=failure)
    record_polls(db.writer, [poll], dag_run_id="run", try_number=1)
    run(db.owner, "analyze")
    return History(db, [*lives, blind], begin, time)


def _swap(writer: Writer, rng: random.Random) -> None:
    """A name moves to another slot, in which there may be one that takes its place."""
    slot, other = rng.sample(range(4), 2)
    moving, taking = writer.truth.pop(slot, None), writer.truth.pop(other, None)
    if moving is not None:
        writer.truth[other] = moving
    if taking is not None:
        writer.truth[slot] = taking


def windows(history: History, number: int, seed: int) -> Iterator[tuple[datetime, datetime]]:
    """Windows of the history, many of which begin or end at a bound or a tick beside one."""
    return agreement.windows(history.lives, history.begin, history.end, number, seed)


@pytest.fixture
def reading(history: History) -> Iterator[Reading]:
    with history.db.reader.begin() as connection:
        yield Reading(connection, history.lives)


def test_gaps_are_those_between_the_polls(history: History, reading: Reading) -> None:
    found = 0
    for lo, hi in windows(history, WINDOWS, 1):
        for minutes in (60, 20):
            found += len(reading.gaps(lo, hi, timedelta(minutes=minutes)))
    assert found > 1_000


def test_a_name_in_a_window_is_what_the_polls_saw(history: History, reading: Reading) -> None:
    verdicts: set[str] = set()
    for number, (lo, hi) in enumerate(windows(history, WINDOWS, 2)):
        found = reading.name_in_window(_NAMES[number % len(_NAMES)], lo, hi)
        verdicts |= {row.verdict for row in found}
    assert verdicts == {"yes", "yes, with gaps", "partly", "no", "unknown"}


def test_an_attestation_is_what_the_polls_saw(history: History, reading: Reading) -> None:
    verdicts: set[str] = set()
    for lo, hi in windows(history, 2 * WINDOWS, 3):
        verdicts |= {row.verdict for row in reading.attest(lo, hi)}
    assert verdicts == {
        "unchanged",
        "changed",
        "no change seen, with gaps",
        "not watched",
        "source changed",
    }


def test_the_head_of_an_attestation_is_the_newest_change_seen_by_then(history: History) -> None:
    for lo, hi in windows(history, 3, 4):
        rows = run(
            history.db.reader,
            "select region, sdk_app_id, head_seq, head_hash from attr_audit.attest(:lo, :hi)",
            lo=lo,
            hi=hi,
        )
        regrouped = {life.app for life in history.lives if len(life.groups) > 1}
        for row in rows:
            if (row.region, row.sdk_app_id) in regrouped:
                continue
            heads = run(
                history.db.reader,
                "select seq, encode(row_hash, 'hex') as hash from attr_audit.change "
                "where region = :region and sdk_app_id = :id and seen_at < :hi order by seq",
                region=row.region,
                id=row.sdk_app_id,
                hi=hi,
            )
            assert (row.head_seq, row.head_hash) == (tuple(heads[-1]) if heads else (None, None))


def test_episodes_of_drift_are_those_of_a_replay(reading: Reading) -> None:
    found = reading.drift_episodes(range(4))
    assert len(found) > 20
    assert any(episode.ended_seen_at is None for episode in found)


def test_changes_are_the_differences_between_looks(reading: Reading) -> None:
    moved_from = [row[8] for row in reading.changes()]
    assert sum(slot is not None for slot in moved_from) > 10


def test_coverage_of_a_month_is_what_the_gaps_leave(reading: Reading) -> None:
    assert reading.coverage_by_month() > APPS


def test_polls_have_their_group_of_then_and_an_advice(history: History) -> None:
    rows = run(history.db.reader, "select * from attr_audit.polls")
    lives = {life.app: life for life in history.lives}
    assert len(rows) == sum(len(life.looks) + len(life.failed) for life in history.lives)
    for row in rows:
        life = lives[AppKey(row.region, row.sdk_app_id)]
        assert row.app_group == life.group_at(row.requested_at)
        assert row.is_good == (row.requested_at not in life.failed)
        assert row.meaning
        assert row.is_good or row.advice


# Rules, one by one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lo", "hi", "sentence"),
    [
        ("2026-01-02", "2026-01-02", "window is empty"),
        ("2026-01-03", "2026-01-02", "window is empty"),
        (None, "2026-01-02", "must not be null"),
        ("2026-01-02", None, "must not be null"),
        ("-infinity", "2026-01-02", "must be finite"),
        ("2026-01-02", "infinity", "must be finite"),
    ],
)
@pytest.mark.parametrize(
    "function", ["gaps({})", "attest({})", "attest({}, 'group 0')", "name_in_window('a', {})"]
)
def test_a_window_that_cannot_be_is_refused_with_a_sentence(
    history: History, function: str, lo: str | None, hi: str | None, sentence: str
) -> None:
    bounds = "cast(:lo as timestamptz), cast(:hi as timestamptz)"
    with pytest.raises(DBAPIError, match=sentence):
        run(history.db.reader, f"select * from attr_audit.{function.format(bounds)}", lo=lo, hi=hi)


@pytest.mark.parametrize(
    "call",
    [
        "attest(null, now())",
        "attest(now(), null)",
        "attest(null::timestamptz, now(), 'group 0')",
        "name_in_window('a', null, now())",
        "name_in_window(null::text, now() - interval '1 day', now())",
        "name_in_window(null, '2026-11-01', '2026-11-02')",
        "names_as_of(null)",
        "names_as_of(null::timestamptz)",
        "name_in_window('a', now(), null)",
        "gaps(null::timestamptz, now())",
        "gaps(now() - interval '1 day', now(), null)",
        "coverage_gaps(null::interval)",
        "coverage_gaps(null::text)",
    ],
)
def test_an_argument_that_is_null_is_refused_whatever_the_others_are(
    history: History, call: str
) -> None:
    with pytest.raises(DBAPIError, match="must not be null"):
        run(history.db.reader, f"select * from attr_audit.{call}")


@pytest.mark.parametrize(
    "call", ["attest(t.at, now())", "name_in_window('a', now(), t.at)", "names_as_of(t.at)"]
)
def test_a_null_bound_of_a_row_is_refused_too(history: History, call: str) -> None:
    rows = "(select max(change_id)::text::timestamptz as at from attr_audit.change where false) t"
    with pytest.raises(DBAPIError, match="must not be null"):
        run(history.db.reader, f"select * from {rows}, attr_audit.{call}")


def at(hour: float, day: int = 1) -> datetime:
    """A time of June 2026."""
    return datetime(2026, 6, day, tzinfo=UTC) + timedelta(hours=hour)


NamesOrFailure = NamesLike | PollFailed
_OUTAGE = Unavailable("HTTP 502", http_status=502)


@pytest.fixture(scope="module")
def rules(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    """A database for the rules; each records an app of its own in a group of its own."""
    with fresh_audit_db(postgres, template) as db:
        months_for_histories(db)
        yield db


def watch(db: AuditDb, group: str, *polls: tuple[datetime, NamesOrFailure], **more: Any) -> None:
    """Record the polls of one app, which is named after its group."""
    for time, seen in polls:
        failure = seen if isinstance(seen, PollFailed) else None
        poll = polled(
            *(() if isinstance(seen, PollFailed) else (seen, seen)),
            **{"region": f"region {group}", "sdk_app_id": 1, "app_group": group, **more},
            at=time,
            apart=0,
            failure=failure,
        )
        record_polls(db.writer, [poll], dag_run_id=f"run {time}", try_number=1)


def every_half_hour(
    lo: datetime, hi: datetime, names: NamesOrFailure
) -> list[tuple[datetime, NamesOrFailure]]:
    polls = []
    while lo <= hi:
        polls.append((lo, names))
        lo += timedelta(minutes=30)
    return polls


def in_window(db: AuditDb, name: str, lo: datetime, hi: datetime, group: str) -> Any:
    [row] = run(
        db.reader,
        "select * from attr_audit.name_in_window(:name, :lo, :hi, :group)",
        name=name,
        lo=lo,
        hi=hi,
        group=group,
    )
    return row


def attested(db: AuditDb, lo: datetime, hi: datetime, group: str) -> Any:
    [row] = run(
        db.reader,
        "select * from attr_audit.attest(:lo, :hi, :group)",
        lo=lo,
        hi=hi,
        group=group,
    )
    return row


def test_an_app_that_never_had_the_name_says_no(rules: AuditDb) -> None:
    watch(rules, "no", *every_half_hour(at(0), at(24), {0: "sex"}))
    row = in_window(rules, "Sex", at(1), at(23), "no")
    assert tuple(row[3:]) == ([], 0, 0, 0, "no")


def test_an_app_not_yet_watched_is_unknown_and_not_attested(rules: AuditDb) -> None:
    watch(rules, "later", *every_half_hour(at(0, day=15), at(24, day=15), {0: "sex"}))
    for name in ("sex", "never"):
        row = in_window(rules, name, at(0), at(12), "later")
        assert (row.certain_pct, row.possible_pct, row.verdict) == (0, 100, "unknown")
        assert row.blind_seconds == 12 * 3600
    assert attested(rules, at(0), at(12), "later").verdict == "not watched"


def test_a_window_that_begins_before_the_first_good_poll_is_blind_there(rules: AuditDb) -> None:
    watch(rules, "second half", *every_half_hour(at(6), at(24), {0: "sex"}))
    row = in_window(rules, "sex", at(0), at(12), "second half")
    assert row.verdict == "yes, with gaps"
    assert row.certain_pct == pytest.approx(50, abs=0.01)
    assert row.blind_seconds == pytest.approx(6 * 3600, abs=1)
    # What it had before is not known, so nothing excludes the name there.
    assert in_window(rules, "never", at(0), at(12), "second half").verdict == "unknown"
    row = attested(rules, at(0), at(12), "second half")
    assert row.verdict == "no change seen, with gaps"
    assert row.first_good_at == at(6)
    assert row.longest_gap_seconds == 6 * 3600


def test_the_future_is_unknown(rules: AuditDb) -> None:
    watch(rules, "future", *every_half_hour(at(0), at(6), {0: "sex"}))
    lo = datetime.now(UTC) + timedelta(days=1)
    hi = lo + timedelta(days=1)
    row = in_window(rules, "sex", lo, hi, "future")
    assert (row.certain_pct, row.verdict) == (0, "unknown")
    row = attested(rules, lo, hi, "future")
    assert (row.verdict, row.longest_gap_seconds) == ("not watched", 24 * 3600)
    rows = run(rules.reader, "select * from attr_audit.gaps(:lo, :hi)", lo=lo, hi=hi)
    assert rows == []


def test_an_outage_between_polls_that_agree_is_blind_and_not_contradicted(rules: AuditDb) -> None:
    watch(
        rules,
        "outage",
        *every_half_hour(at(0), at(6), {0: "sex"}),
        *every_half_hour(at(6.5), at(13.5), _OUTAGE),
        *every_half_hour(at(14), at(20), {0: "sex"}),
    )
    row = in_window(rules, "sex", at(1), at(19), "outage")
    assert tuple(row[3:]) == ([0], 100, 100, 8 * 3600, "yes, with gaps")
    assert in_window(rules, "sex", at(1), at(5), "outage").verdict == "yes"
    assert attested(rules, at(1), at(5), "outage").verdict == "unchanged"
    row = attested(rules, at(1), at(19), "outage")
    assert (row.verdict, row.polls_failed) == ("no change seen, with gaps", 15)
    assert row.longest_gap_seconds == 8 * 3600
    assert attested(rules, at(7), at(8), "outage").verdict == "not watched"


def test_a_name_that_was_gone_within_the_window_is_partly_there(rules: AuditDb) -> None:
    watch(
        rules,
        "gone",
        *every_half_hour(at(0), at(10), {0: "sex", 1: "city"}),
        *every_half_hour(at(10.5), at(39.5), {0: "sex"}),
        *every_half_hour(at(40), at(60), {0: "sex", 1: "city"}),
    )
    row = in_window(rules, "city", at(1), at(59), "gone")
    assert (row.slots, row.verdict) == ([1], "partly")
    assert row.certain_pct == pytest.approx(100 * 28 / 58, abs=0.01)
    assert row.possible_pct == pytest.approx(100 * 29 / 58, abs=0.01)
    assert attested(rules, at(1), at(59), "gone").verdict == "changed"


def test_a_name_that_moves_to_another_slot_is_the_same_name(rules: AuditDb) -> None:
    watch(
        rules,
        "moved",
        *every_half_hour(at(0), at(10), {0: "sex", 1: "city"}),
        *every_half_hour(at(10.5), at(20), {0: "sex", 7: "city"}),
    )
    row = in_window(rules, "city", at(1), at(19), "moved")
    assert (row.slots, row.possible_pct, row.verdict) == ([1, 7], 100, "yes, with gaps")
    rows = run(
        rules.reader,
        "select slot, kind, moved_from_slot from attr_audit.changes where app_group = 'moved' "
        "order by slot",
    )
    assert [tuple(row) for row in rows] == [(1, "removed", None), (7, "added", 1)]


def test_a_type_does_not_interrupt_a_name(rules: AuditDb) -> None:
    watch(
        rules,
        "type",
        *every_half_hour(at(0), at(5), {0: "sex"}),
        *every_half_hour(at(5.5), at(10), {0: ("sex", 0)}),
        *every_half_hour(at(10.5), at(15), {0: ("sex", 1)}),
        api="timpush",
    )
    assert tuple(in_window(rules, "sex", at(1), at(14), "type")[3:]) == ([0], 100, 100, 0, "yes")
    row = attested(rules, at(1), at(9), "type")
    assert (row.changes, row.source_changes, row.verdict) == (0, 0, "unchanged")
    assert attested(rules, at(1), at(14), "type").verdict == "changed"


def test_another_source_is_not_a_change(rules: AuditDb) -> None:
    watch(rules, "source", *every_half_hour(at(0), at(5), {0: "sex"}))
    watch(rules, "source", *every_half_hour(at(5.5), at(10), {0: "gender"}), api="timpush")
    row = attested(rules, at(1), at(9), "source")
    assert (row.changes, row.source_changes, row.verdict) == (0, 1, "source changed")
    assert in_window(rules, "sex", at(1), at(9), "source").verdict == "partly"
    rows = run(rules.reader, "select * from attr_audit.changes where app_group = 'source'")
    assert rows == []
    # The first poll of the new source comes after the window.
    assert attested(rules, at(1), at(5.2), "source").verdict == "no change seen, with gaps"


def test_a_change_seen_after_the_window_may_have_happened_in_it(rules: AuditDb) -> None:
    watch(
        rules,
        "just after",
        *every_half_hour(at(0), at(5), {0: "sex"}),
        *every_half_hour(at(5.5), at(10), {0: "gender"}),
    )
    assert attested(rules, at(1), at(5), "just after").verdict == "unchanged"
    row = attested(rules, at(1), at(5.25), "just after")
    assert (row.changes, row.verdict) == (0, "no change seen, with gaps")
    assert in_window(rules, "sex", at(1), at(5.25), "just after").verdict == "yes, with gaps"


def test_an_app_that_changed_its_group_answers_for_each_with_its_part(rules: AuditDb) -> None:
    watch(rules, "before", *every_half_hour(at(0), at(11.5), {0: "sex"}))
    watch(
        rules,
        "after",
        *every_half_hour(at(12), at(24), {0: "gender"}),
        region="region before",
    )
    assert in_window(rules, "sex", at(1), at(11), "before").verdict == "yes"
    assert in_window(rules, "sex", at(1), at(23), "before").certain_pct > 95
    assert in_window(rules, "sex", at(1), at(23), "after").verdict == "unknown"
    assert in_window(rules, "gender", at(13), at(23), "after").verdict == "yes"
    for group in ("before", "after"):
        rows = run(
            rules.reader,
            "select * from attr_audit.name_in_window('sex', :lo, :hi, :group)",
            lo=at(1) if group == "after" else at(13),
            hi=at(11) if group == "after" else at(23),
            group=group,
        )
        assert rows == []
    [row] = run(rules.reader, "select * from attr_audit.changes where region = 'region before'")
    assert row.app_group == "after"


def test_gaps_of_adjacent_windows_add_up(history: History) -> None:
    cuts = [history.begin + (history.end - history.begin) * part / 7 for part in range(8)]

    def total(lo: datetime, hi: datetime) -> Any:
        [row] = run(
            history.db.reader,
            "select sum(seconds), sum(polls_failed) from attr_audit.gaps(:lo, :hi)",
            lo=lo,
            hi=hi,
        )
        return row

    parts = [total(lo, hi) for lo, hi in itertools.pairwise(cuts)]
    assert [sum(part[i] for part in parts) for i in (0, 1)] == pytest.approx(
        list(total(cuts[0], cuts[-1]))
    )


def test_gaps_of_earlier_polls_are_there_before_and_after_they_are_noted(history: History) -> None:
    """A record that was migrated has no noted gaps until `migrate` has read its polls."""

    def answers() -> list[Any]:
        lo, hi = history.begin, history.end
        return [
            sorted(map(tuple, run(history.db.reader, f"select * from attr_audit.{call}", **values)))
            for call, values in (
                ("gaps(:lo, :hi)", {"lo": lo, "hi": hi}),
                ("name_in_window('a', :lo, :hi)", {"lo": lo, "hi": hi}),
                # Its last month ends now.
                ("coverage_by_month where month < date '2025-12-01'", {}),
            )
        ]

    noted = "select * from attr_audit_internal.noted_gap order by 1, 2, 3"
    rows, right = run(history.db.owner, noted), answers()
    run(history.db.owner, "delete from attr_audit_internal.gaps_noted")
    run(history.db.owner, "delete from attr_audit_internal.noted_gap")
    assert answers() == right
    [[is_new]] = run(history.db.owner, "select attr_audit_internal.note_earlier_gaps()")
    assert is_new
    assert answers() == right
    assert run(history.db.owner, noted) == rows
    [[is_new]] = run(history.db.owner, "select attr_audit_internal.note_earlier_gaps()")
    assert not is_new
    assert rows


@pytest.mark.parametrize("name", _NAMES)
def test_a_name_is_missing_exactly_where_no_slot_has_it(history: History, name: str) -> None:
    """The question of docs/bi.md: names move, change their type and return in a baseline."""
    [query] = (QUERIES.parent / "questions").glob("*_when_was_it_gone.sql")
    statement = query.read_text(encoding="utf-8").replace("'Membership level'", f"'{name}'")
    given = run(history.db.reader, statement)
    right = replay.absences(history.lives, name)
    assert sorted(str(tuple(row[:6])) for row in given) == sorted(str(tuple(r)) for r in right)
    for row in given:
        assert row.at_least == (row.back_not_before and row.back_not_before - row.seen_at)
        assert row.at_most == (row.back_seen_at and row.back_seen_at - row.not_before)
    again = len(right) - len({each[:2] for each in right})
    assert again > 5 or name in ("", "never")


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Apia"])
def test_every_session_gets_the_same_answers(history: History, zone: str) -> None:
    lo, hi = history.begin, history.end
    with history.db.reader.begin() as connection:
        for statement in (
            "attr_audit.gaps(:lo, :hi)",
            "attr_audit.attest(:lo, :hi)",
            "attr_audit.name_in_window('a', :lo, :hi)",
            "attr_audit.changes",
            "attr_audit.polls",
            "attr_audit.coverage_by_month",
            "attr_audit.drift_episodes",
        ):
            question = text(f"select * from {statement} order by 1, 2, 3, 4, 5, 6")
            values = {"lo": lo, "hi": hi} if ":lo" in statement else {}
            connection.execute(text("set local timezone = 'UTC'"))
            plain = list(connection.execute(question, values))
            connection.execute(text(f"set local timezone = '{zone}'"))
            connection.execute(text("set local search_path = pg_temp"))
            assert list(connection.execute(question, values)) == plain
            assert plain


@pytest.mark.parametrize(
    "call",
    [
        *("gaps({})", "gaps({}, '2 hours')", "attest({})", "attest({}, 'group 1')"),
        *("name_in_window('a', {})", "name_in_window('a', {}, 'group 1')"),
    ],
)
def test_arguments_may_be_text(history: History, call: str) -> None:
    """JDBC sends a String as varchar, psycopg as text."""
    lo, hi = "2025-11-03 00:00+00", "2025-12-01 00:00+00"
    answers = []
    for kind in ("timestamptz", "varchar"):
        bounds = f"cast('{lo}' as {kind}), cast('{hi}' as {kind})"
        if kind == "varchar":
            call = call.replace("'2 hours'", "cast('2 hours' as varchar)")
        answers.append(
            run(history.db.reader, f"select * from attr_audit.{call.format(bounds)} order by 1, 2")
        )
    assert sorted(map(str, answers[0])) == sorted(map(str, answers[1]))
    assert answers[0]


@pytest.mark.parametrize("pattern", ["%a%", "%B%", "b", "%", "", "%never%"])
def test_changes_by_a_name_are_the_same_by_its_index(history: History, pattern: str) -> None:
    """Of few changes their numbers, each exactly what a look at every change finds."""
    with history.db.reader.connect() as connection:
        only = queries.narrow_to_name(connection, {"name": pattern or None})["only"]
        if not pattern:
            assert only is None
            return
        right = connection.execute(
            text(
                "select change_id from attr_audit.change "
                "where old_name ilike :name or new_name ilike :name"
            ),
            {"name": pattern},
        ).scalars()
        assert set(only) == set(right)
        assert bool(only) == (pattern != "%never%")
        # Where there are more of them than it pays for, it says so.
        few = queries.statement("changes_by_name").text.replace("2000", "0").replace("2001", "1")
        found = connection.execute(text(few), {"name": pattern}).scalar_one()
        assert found == ([] if pattern == "%never%" else None)
