"""Folding old months of poll: every question has the same answer, and nothing else is lost."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from im_attr_audit.page import queries
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.notifications import record_gaps
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.fold import fold_old_polls
from im_attr_audit.record.upkeep.retention import RetentionRefused, drop_old_polls
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import polled
from tests.test_questions import History, record_history, windows
from tests.test_retention import run, superuser

#: What a task of a run calls while a month is folded.
SITES = ("covered", "rewritten", "swapped", "committed")


@pytest.fixture(scope="module")
def history(postgres: EmbeddedPostgres, template: str) -> Iterator[History]:
    with fresh_audit_db(postgres, template) as db:
        yield record_history(db, random.Random(19), datetime(2025, 11, 20, tzinfo=UTC))


def answers(history: History) -> dict[str, list[Any]]:
    """Every relation that goes by polls, for random windows and for all of the past."""
    found: dict[str, list[Any]] = {}

    def ask(call: str, columns: str = "*", values: dict[str, datetime] | None = None) -> None:
        question = f"select {columns} from attr_audit.{call}"
        with history.db.reader.begin() as connection:
            rows = connection.exec_driver_sql(question, values).all()
        found[f"{call} {values}"] = sorted(map(str, rows))

    for lo, hi in windows(history, 10, seed=19):
        given = {"lo": lo, "hi": hi}
        ask("gaps(%(lo)s, %(hi)s)", values=given)
        ask("gaps(%(lo)s, %(hi)s, interval '20 minutes')", values=given)
        ask("attest(%(lo)s, %(hi)s)", values=given)
        ask("name_in_window('a', %(lo)s, %(hi)s)", values=given)
        with history.db.reader.connect() as connection:
            lanes = queries.read(
                connection,
                "gaps",
                **queries.arrays([life.app for life in history.lives]),
                window_from=lo,
                window_to=hi,
                longer_than=timedelta(minutes=45),
            )
        found[f"page {lo} {hi}"] = sorted(map(str, lanes))
    ask("coverage_by_month where month < date '2026-09-01'")
    ask("coverage_gaps()")
    ask("coverage_gaps(interval '10 minutes')")
    # What is still open ends now.
    ask("drift_episodes", "began_seen_at, ended_seen_at, app_group, slot, first_sdk_app_id")
    for relation in ("changes", "current_names", "name_history"):
        ask(relation)
    ask("freshness", "region, sdk_app_id, last_ok_at, last_outcome")
    ask("names_as_of('2025-12-01 00:00Z')")
    return found


def rows_that_stay(db: AuditDb) -> list[Any]:
    return run(
        db.owner,
        "select to_jsonb(p) - 'is_folded' from attr_audit.poll p where outcome <> 'ok' or exists ("
        "select from attr_audit.change c where c.region = p.region "
        "and c.sdk_app_id = p.sdk_app_id and c.poll_id = p.poll_id) order by p.poll_id",
    )


def count(db: AuditDb) -> tuple[int, int]:
    """The rows of poll, and the good polls that are known by rows or by spans."""
    [row] = run(
        db.owner,
        "select (select count(*) from attr_audit.poll), "
        "(select count(*) from attr_audit.poll where outcome = 'ok' and is_folded is not true) "
        "+ (select coalesce(sum(polls), 0) from attr_audit.coverage)",
    )
    return row[0], int(row[1])


def test_every_question_has_the_same_answer_before_and_after(history: History) -> None:
    before, kept, (rows, good) = answers(history), rows_that_stay(history.db), count(history.db)
    folded = fold_old_polls(superuser(history.db), unsealed=True)
    assert [each.part for each in folded] == ["poll_2025_11", "poll_2025_12"]
    after = answers(history)
    assert {
        call: (before[call], after[call]) for call in before if before[call] != after[call]
    } == {}
    assert rows_that_stay(history.db) == kept
    assert count(history.db) == (len(kept), good)
    assert rows > len(kept) + 100
    # The history was recorded long after it was made.
    findings = check_database(history.db.owner).findings
    backdated = r"(1 poll is|\d+ polls are) dated more than 1 hour before they were recorded, .*"
    assert findings
    assert all(re.fullmatch(backdated, each.text) for each in findings)
    # A second time there is nothing to do.
    assert fold_old_polls(superuser(history.db), unsealed=True) == []
    assert answers(history) == before


@pytest.fixture
def old(audit_db: AuditDb) -> AuditDb:
    """Half-hourly good polls of three months that ended long ago, with a change and a failure."""
    run(
        audit_db.owner,
        "select attr_audit_internal.create_poll_partition(m) from unnest(array[date '2025-01-01', "
        "'2025-02-01', '2025-03-01']) m",
    )
    begin = datetime(2025, 1, 30, tzinfo=UTC)
    for number in range(60):
        names = {0: "sex"} if number < 40 else {0: "gender"}
        poll = polled(names, names, at=begin + number * timedelta(hours=1))
        record_polls(audit_db.writer, [poll], dag_run_id=f"run {number}", try_number=1)
    return audit_db


def fold(db: AuditDb, at_site: Callable[[str], None] = lambda _: None) -> list[str]:
    return [
        each.part
        for each in fold_old_polls(superuser(db), unsealed=True, patience=1, at_site=at_site)
    ]


def test_a_month_is_one_span_of_each_app(old: AuditDb) -> None:
    assert fold(old) == ["poll_2025_01", "poll_2025_02"]
    spans = run(
        old.reader,
        "select region, sdk_app_id, from_at, to_at, polls, polls_failed, longest_gap, api "
        "from attr_audit.coverage order by from_at",
    )
    assert [(row.polls, row.polls_failed) for row in spans] == [(48, 0), (12, 0)]
    assert spans[0].from_at == datetime(2025, 1, 30, tzinfo=UTC)
    assert spans[1].from_at - spans[0].to_at == timedelta(hours=1)
    assert {row.longest_gap for row in spans} <= {
        timedelta(hours=1),
        timedelta(minutes=59, seconds=58),
    }
    # The polls that the two changes cite.
    assert [row.is_folded for row in run(old.reader, "select is_folded from attr_audit.poll")] == [
        True,
        True,
    ]


def test_what_no_seal_covers_is_not_folded_unless_asked_for(old: AuditDb) -> None:
    before = count(old)
    with pytest.raises(RetentionRefused, match="no poll is sealed"):
        fold_old_polls(superuser(old))
    assert count(old) == before


@pytest.mark.parametrize("site", SITES)
def test_a_fold_killed_anywhere_loses_nothing_and_doubles_nothing(old: AuditDb, site: str) -> None:
    program = (
        "import os, sys\n"
        "from im_attr_audit.record.upkeep.fold import fold_old_polls\n"
        "def kill(site):\n"
        f"    if site == {site!r}: os.kill(os.getpid(), 9)\n"
        "fold_old_polls(sys.argv[1], unsealed=True, at_site=kill)\n"
    )
    good = count(old)[1]
    killed = subprocess.run([sys.executable, "-c", program, superuser(old)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert count(old)[1] == good
    assert fold(old) == (
        ["poll_2025_02"] if site == "committed" else ["poll_2025_01", "poll_2025_02"]
    )
    assert count(old) == (2, good)
    assert {
        row.n for row in run(old.owner, "select count(*) n from pg_class where relname ~ '^fold'")
    } == {0}


def test_a_reader_delays_the_fold_and_the_sync_waits_for_neither(old: AuditDb) -> None:
    before = count(old)
    at = run(old.reader, "select now() - interval '1 minute' as at")[0].at

    def sync(site: str) -> None:
        if site == "rewritten":
            poll = polled({0: "gender"}, {0: "gender"}, at=at)
            record_polls(old.writer, [poll], dag_run_id="beside", try_number=1)

    with old.reader.begin() as connection:
        connection.exec_driver_sql("select count(*) from attr_audit.poll")
        with pytest.raises(RetentionRefused, match="poll_2025_01 is in use"):
            fold(old, sync)
    assert count(old) == (before[0] + 1, before[1] + 1)
    assert fold(old) == ["poll_2025_01", "poll_2025_02"]


def test_spans_can_be_edited_by_nobody(old: AuditDb) -> None:
    fold(old)
    for statement in (
        "update attr_audit.coverage set polls = 1",
        "delete from attr_audit.coverage",
        "truncate attr_audit.coverage",
    ):
        for engine in (old.owner, old.writer):
            with pytest.raises(DBAPIError):
                run(engine, statement)
    with pytest.raises(DBAPIError):
        run(old.writer, "insert into attr_audit.coverage select * from attr_audit.coverage")


WINDOW = "(timestamptz '2025-01-30 06:00Z', timestamptz '2025-01-31 06:00Z')"
ATTESTED = (
    "select polls_good, polls_failed, longest_gap_seconds, first_good_at, changes, verdict "
    f"from attr_audit.attest{WINDOW}"
)


def unknown_failures(row: Any) -> tuple[Any, ...]:
    return tuple({**row._mapping, "polls_failed": None}.values())


def drop(db: AuditDb) -> None:
    assert drop_old_polls(superuser(db), older_than=datetime(2025, 4, 1, tzinfo=UTC))


def test_spans_outlive_the_months_that_retention_drops(old: AuditDb) -> None:
    fold(old)
    [before] = run(old.reader, ATTESTED)
    assert (before.polls_good, before.polls_failed) == (24, 0)
    by_month = "select * from attr_audit.coverage_by_month where month < date '2025-03-01'"
    months = run(old.reader, by_month)
    assert [(month.polls_good, month.polls_failed) for month in months] == [(48, 0), (12, 0)]
    drop(old)
    # The rows of failed polls went with the month: how many there were, nobody knows any more.
    assert run(old.reader, ATTESTED) == [unknown_failures(before)]
    assert run(old.reader, by_month) == list(map(unknown_failures, months))


def test_what_was_dropped_without_being_folded_is_not_known(old: AuditDb) -> None:
    drop(old)
    [found] = run(old.reader, ATTESTED)
    assert (found.polls_good, found.polls_failed, found.longest_gap_seconds) == (None, None, None)
    assert found.verdict == "not watched"
    [january] = run(
        old.reader,
        "select polls_good, polls_failed, longest_gap_seconds, covered_pct "
        "from attr_audit.coverage_by_month where month = date '2025-01-01'",
    )
    # Gaps of more than an hour are noted when polls are recorded: there was none.
    assert january == (None, None, None, 100)


def test_a_month_that_was_dropped_between_folded_ones_is_no_gap(old: AuditDb) -> None:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    # The last poll before it was on 1 February: a gap that is noted.
    for hour in range(2):
        poll = polled({0: "gender"}, {0: "gender"}, at=at + timedelta(hours=hour))
        record_polls(old.writer, [poll], dag_run_id="March", try_number=1)
    every_gap = "select gap_from, gap_to, polls_failed from attr_audit.coverage_gaps() order by 1"
    gaps = "select gap_from, gap_to from attr_audit.gaps('2025-01-30Z', '2025-03-01 01:00Z', '{}')"
    before, short = (
        run(old.reader, every_gap),
        run(old.reader, gaps.format("59 minutes 30 seconds")),
    )
    fold(old)
    for statement in (
        "alter table attr_audit.coverage disable trigger append_only",
        "delete from attr_audit.coverage where from_at between '2025-02-01Z' and '2025-03-01Z'",
    ):
        run(old.owner, statement)
    assert run(old.reader, every_gap) != before
    drop(old)
    [noted, still_open] = before
    # Only the gap to now is known to be one: that of February began with a poll that is not known.
    assert run(old.reader, every_gap) == [unknown_failures(still_open)]
    assert (noted.gap_from, noted.gap_to) in {(gap.gap_from, gap.gap_to) for gap in short}
    after = run(old.reader, gaps.format("59 minutes 30 seconds"))
    assert {gap.gap_from for gap in after} <= {gap.gap_from for gap in short}


def test_polls_of_a_wrong_clock_are_not_folded(old: AuditDb) -> None:
    times = run(old.reader, "select requested_at, poll_id from attr_audit.poll order by poll_id")
    assert all(later.poll_id > earlier.poll_id for earlier, later in pairwise(times))
    run(
        old.owner,
        "insert into attr_audit.clock_correction (region, sdk_app_id, found_at, ahead, ok_at, "
        "wrong_seen_at, last_poll_id, wrong_from_at) "
        f"select region, sdk_app_id, '{times[30].requested_at}', interval '1 hour', "
        f"'{times[30].requested_at}', '{{}}', {times[33].poll_id}, '{{}}' from attr_audit.app",
    )
    # Three polls of January do not count; those of February came later.
    assert fold(old) == ["poll_2025_02"]
    assert count(old)[1] == 60


def test_a_stale_app_has_no_second_alert_after_the_fold(old: AuditDb) -> None:
    alerted = "select kind, gap_from from attr_audit.notification where kind <> 'change'"
    record_gaps(old.writer, dag_run_id="before", stale_after=timedelta(hours=1))
    before = run(old.reader, alerted)
    [last] = run(old.reader, "select last_ok_at from attr_audit.app")
    assert [tuple(row) for row in before] == [("stale", last.last_ok_at)]
    fold(old)
    record_gaps(old.writer, dag_run_id="after", stale_after=timedelta(hours=1))
    assert run(old.reader, alerted) == before


def test_the_page_says_where_a_run_lacks_its_good_polls(old: AuditDb) -> None:
    def folded(run_id: str) -> bool:
        with old.reader.connect() as connection:
            [row] = queries.read(connection, "run_folded", dag_run_id=run_id)
        return bool(row["is_folded"])

    run(
        old.writer,
        "insert into attr_audit.planned (dag_run_id, conn_ids, regions, sdk_app_ids) "
        "values ('run now', '{c}', '{seoul}', '{1}')",
    )
    assert not folded("run 0")
    fold(old)
    # The run has a row, for a change cites it.
    assert folded("run 0")
    assert not folded("run now")
    assert not folded("run never")
