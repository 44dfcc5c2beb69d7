"""A day of many apps in fast motion: `make test-day`.

96 runs a quarter of an hour apart, by the DAG's own functions against the simulator, on two real
Postgres servers whose clock is set forward from run to run. 1 % of the apps change a name in each.
A region fails for a while, then everything; the primary is lost in the middle of a run and its
replica takes over; the database's clock is an hour ahead for one run. Each run is sealed. In the
middle of the day a month begins; the one that ended is folded at the end.

Every poll and change is compared with what the simulator truly answered (`tests.oracle`). Times are
reported in docs/performance.md and judged nowhere.

With --folder, SIGTERM stops it after a run, and the same command continues.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.cluster.day_chart import draw
from tests.cluster.day_world import (
    AHEAD,
    APART,
    GAP,
    RUNS,
    SLOTS,
    App,
    Events,
    Kept,
    Measured,
    World,
    first_of_month,
    new_day,
    opened,
)
from tests.cluster.moved_clock import Clocks, under_moved_clocks

CHANGED, RETRIES = 0.01, 3
MODULE = "tests.cluster.day"


class Day:
    """The day, run by run."""

    def __init__(self, world: World) -> None:
        from im_attr_audit import tasks

        self.world, self.kept, self._tasks = world, world.kept, tasks
        self.events = Events(world.kept.runs)
        self._broken: set[str] = set()

    # One run --------------------------------------------------------------------------------------

    def run(self, number: int, at: datetime) -> Measured:
        """Everything that one run of the DAG does, sealed and compared."""
        world = self.world
        ahead = AHEAD.total_seconds() if number == self.events.jumped else 0.0
        world.clocks.set(at - APART / 2, ahead)
        self._change()
        world.clocks.set(at, ahead)
        self._break(number)
        run_id = f"scheduled__{at.isoformat()}"
        seconds: dict[str, float] = {}
        with timed(seconds, "plan"):
            instances = self._tasks.plan(None, dag_run_id=run_id)
        with timed(seconds, "sync"):
            states = self._sync_all(instances, run_id, at, lose=number == self.events.failed_over)
        with timed(seconds, "publish and report"):
            state = self._end(instances, run_id, states)
        with timed(seconds, "seal"):
            sealed = self._is_sealed()
        assert sealed == (number not in self.events.unsealed), number
        changes, polls = self._judge(run_id, number, ahead=ahead)
        expected_failure = number in self.events.region_down or number in self.events.all_down
        assert (state == "failed") == expected_failure, (number, state, states)
        table, database = self.sizes()
        load = os.getloadavg()[0]
        return Measured(number, state, changes, seconds, polls, table, database, load)

    def _is_sealed(self) -> bool:
        from im_attr_audit.record.seals.sealing import SealingRefused

        try:
            self.world.seal()
        except SealingRefused as refused:
            if refused.findings:
                raise
            return False
        return True

    def _change(self) -> None:
        """Another name in one slot of 1 % of the apps."""
        kept, chance = self.kept, self.kept.random_
        for app in chance.sample(kept.apps, max(1, round(len(kept.apps) * CHANGED))):
            slot = chance.randrange(SLOTS)
            name = f"name {chance.randrange(10**6)}" if chance.random() < 0.9 else None
            self.world.vendor.set_name(*app, slot, name)
            kept.names[app] = {
                s: n for s, n in {**kept.names[app], slot: name}.items() if n is not None
            }

    def _break(self, number: int) -> None:
        """Whatever fails in this run, and nothing else."""
        vendor = self.world.vendor
        wanted = {"seoul"} if number in self.events.region_down else set()
        wanted |= {"all"} if number in self.events.all_down else set()
        for what in wanted ^ self._broken:
            if what == "seoul":
                vendor.set_failing(what, what in wanted)
            elif what in wanted:
                vendor.fault("drop", times=None)
            else:
                vendor.clear_faults()
        self._broken = wanted

    def _sync_all(
        self, instances: Sequence[Mapping[str, Any]], run_id: str, at: datetime, *, lose: bool
    ) -> dict[str, str]:
        """The mapped tasks one after another, each tried as often as the DAG tries it."""
        states = {}
        for place, instance in enumerate(instances):
            middle = lose and place == len(instances) // 2
            loser = self._lose_after(len(instance["conn_ids"]) // 2) if middle else None
            states[f"sync {place}"] = self._sync(instance, run_id, at)
            if loser is not None:
                loser.join()
        return states

    def _sync(self, instance: Mapping[str, Any], run_id: str, at: datetime) -> str:
        from airflow.sdk.exceptions import AirflowException, AirflowFailException
        from sqlalchemy.exc import OperationalError

        for try_number in range(1, RETRIES + 2):
            ti = SimpleNamespace(
                try_number=try_number,
                max_tries=RETRIES,
                task=SimpleNamespace(retries=RETRIES),
            )
            try:
                self._tasks.sync(
                    instance["conn_ids"], instance["problems"],
                    dag_run_id=run_id, begun_at=at, ti=ti,
                )  # fmt: skip
            except AirflowFailException:
                return "failed"
            except (AirflowException, OperationalError):
                self._wait_for_server()
            else:
                return "success"
        return "failed"

    def _lose_after(self, answers: int) -> threading.Thread:
        """Lose the primary in the middle of the polls of a task; its replica takes over."""
        pair, seen = self.world.pair, self._newest_request()

        def lose() -> None:
            while self._newest_request() < seen + answers:
                time.sleep(0.01)
            pair.lose_primary()
            pair.promote()

        thread = threading.Thread(target=lose)
        thread.start()
        return thread

    def _newest_request(self) -> int:
        return int(sum(self.world.vendor.stats()["requests"].values()))

    def _wait_for_server(self) -> None:
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OperationalError), self.world.writer.connect() as connection:
                connection.execute(text("select 1"))
                return
            time.sleep(0.1)

    def _end(
        self, instances: Sequence[Mapping[str, Any]], run_id: str, states: Mapping[str, str]
    ) -> str:
        from airflow.sdk.exceptions import AirflowFailException

        kept, tasks = self.kept, self._tasks

        def after(_: str) -> list[Any]:
            return [SimpleNamespace(source_dag_id=tasks.DAG_ID, extra=e) for e in kept.events]

        def add(_: Any, *, extra: dict[str, Any]) -> None:
            kept.events.append(extra)

        tasks.publish(
            {tasks.CHANGES: SimpleNamespace(after=after)},
            {tasks.CHANGES_ALIAS: SimpleNamespace(add=add)},
        )
        with contextlib.suppress(AirflowFailException):
            tasks.report(instances, dag_run_id=run_id, states=states)
            return "success"
        return "failed"

    # Compared -------------------------------------------------------------------------------------

    def _judge(self, run_id: str, number: int, *, ahead: float) -> tuple[int, int]:
        """Every poll and change of the run against what was answered; changes and polls."""
        from sqlalchemy import text

        world, kept = self.world, self.kept
        requests = self._requests()
        with world.owner.connect() as connection:
            polls = connection.execute(
                text("select * from attr_audit.poll where poll_id > :last order by poll_id"),
                {"last": kept.judged_poll},
            ).all()
            rows = connection.execute(
                text(
                    "select * from attr_audit.change where poll_id > :last "
                    "order by region, sdk_app_id, seq"
                ),
                {"last": kept.judged_poll},
            ).all()
        changes = defaultdict(list)
        for row in rows:
            changes[row.poll_id].append(row)
        of_app: dict[App, list[Any]] = defaultdict(list)
        for poll in polls:
            assert poll.dag_run_id == run_id
            of_app[poll.region, poll.sdk_app_id].append(poll)
        assert of_app.keys() == set(kept.apps), f"run {number} left apps out"
        for app, mine in of_app.items():
            self._judge_app(app, number, mine, requests[app], changes, ahead)
        assert not changes, "changes of polls that were not expected"
        assert sum(e["changes"] + e["baselines"] for e in kept.events) == kept.changes
        kept.judged_poll = max(poll.poll_id for poll in polls)
        return len(rows), len(polls)

    def _requests(self) -> dict[App, list[Any]]:
        found: dict[App, list[Any]] = defaultdict(list)
        for entry in self.world.vendor.log():
            assert entry.app_id is not None
            assert entry.ended
            found[entry.region, entry.app_id].append(entry)
        self.world.vendor.forget_log()
        return found

    def _judge_app(
        self,
        app: App,
        number: int,
        polls: Sequence[Any],
        requests: Sequence[Any],
        changes: dict[int, list[Any]],
        ahead: float,
    ) -> None:
        from tests.oracle import assert_recorded, reads_of

        kept, shift = self.kept, timedelta(seconds=ahead)
        left = len(requests)
        for poll in polls:
            sent, ended = poll.requested_at, poll.responded_at or poll.requested_at
            mine = [r for r in requests if sent <= r.arrived_at + shift <= ended]
            left -= len(mine)
            reads = reads_of(mine)
            # Seen about once in millions of polls: no connection could be made.
            hung_up = poll.reads > len(reads) and "TLS" in (poll.error_info or "")
            outcome, expected = kept.oracles[app].take(
                poll, reads, run=poll.dag_run_id, hung_up=hung_up
            )
            assert poll.outcome == outcome, (number, poll, mine)
            recorded = changes.pop(poll.poll_id, [])
            assert len(recorded) == len(expected), (number, recorded, expected)
            for change, wanted in zip(recorded, expected, strict=True):
                assert_recorded(change, wanted, right=not ahead)
                kept.changes += 1
            if outcome == "ok" and not ahead:
                before, failed = kept.good.get(app), kept.failed.pop(app, 0)
                kept.good[app] = arrived = mine[-1].arrived_at
                if before is not None and arrived - before > GAP:
                    kept.gaps[app].append((before, arrived, failed))
            elif outcome != "ok":
                kept.failed[app] += 1
        # Only a server that was lost makes a poll that is not recorded.
        assert left == 0 or number == self.events.failed_over, (number, app, left)

    def sizes(self) -> tuple[int, int]:
        from sqlalchemy import text

        with self.world.owner.connect() as connection:
            row = connection.execute(
                text(
                    "select (select sum(pg_total_relation_size(inhrelid)) from pg_inherits "
                    "where inhparent = 'attr_audit.poll'::regclass), "
                    "pg_database_size(current_database())"
                )
            ).one()
        return int(row[0]), int(row[1])

    # The end of the day ---------------------------------------------------------------------------

    def check_names(self) -> None:
        """The record's names are the vendor's, all of them."""
        from sqlalchemy import text

        with self.world.reader.connect() as connection:
            rows = connection.execute(
                text("select region, sdk_app_id, slot, name from attr_audit.current_names")
            ).all()
        kept = self.kept
        truth = {
            (region, number, slot, name)
            for region, number in kept.apps
            for slot, (name, _) in kept.oracles[region, number].names.items()
        }
        assert {tuple(row) for row in rows} == truth
        assert len(rows) == len(truth)
        for app in kept.apps:
            assert kept.names[app] == {s: name for s, (name, _) in kept.oracles[app].names.items()}

    def check_gaps(self) -> int:
        """The gaps are those that the vendor's log shows; how many."""
        from sqlalchemy import text

        kept = self.kept
        found: dict[App, list[Any]] = defaultdict(list)
        with self.world.reader.connect() as connection:
            for row in connection.execute(
                text("select * from attr_audit.gaps(:lo, :hi, :gap) order by gap_from"),
                {"lo": kept.begin, "hi": kept.end, "gap": GAP},
            ):
                found[row.region, row.sdk_app_id].append(row)
        for app in kept.apps:
            assert len(found[app]) == len(kept.gaps[app]), (app, found[app], kept.gaps[app])
            for row, (before, after, failed) in zip(found[app], kept.gaps[app], strict=True):
                # Sent at the one, arrived at the other; what came back is on record.
                assert timedelta(0) <= before - row.gap_from < timedelta(minutes=1), (row, before)
                assert timedelta(0) <= after - row.gap_to < timedelta(minutes=1), (row, after)
                assert row.polls_failed == failed, (row, failed)
        return sum(map(len, kept.gaps.values()))

    def answers(self) -> dict[str, list[str]]:
        """What must be the same before a month is folded and after."""
        from sqlalchemy import text

        questions = {
            "gaps": "gaps(:lo, :hi)",
            "short gaps": "gaps(:lo, :hi, interval '10 minutes')",
            "attest": "attest(:lo, :hi)",
            "months": "coverage_by_month where month < cast(:hi as date)",
        }
        with self.world.reader.connect() as connection:
            return {
                name: sorted(
                    str(row)
                    for row in connection.execute(
                        text(f"select * from attr_audit.{question}"),
                        {"lo": self.kept.begin, "hi": self.kept.end},
                    )
                )
                for name, question in questions.items()
            }


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - began


def live(kept: Kept, folder: Path, clocks: Clocks, *, lasting: bool) -> dict[str, Any] | None:
    """The rest of the day; its figures, or None where it was stopped.

    ``lasting``: the folder keeps what is in it unless the day ends well. Raises AssertionError
    where the record is not exact.
    """
    stopped = threading.Event()
    with opened(kept, folder, clocks, lasting=lasting) as world:
        day = Day(world)
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        for number in range(len(kept.measured), kept.runs):
            if stopped.is_set():
                return None
            # What is known goes back to the run before: a poll of a run that was cut off is found.
            measured = day.run(number, kept.begin + number * APART)
            kept.measured.append(measured)
            world.keep(folder / "kept")
            took = " ".join(f"{name} {value:.1f}" for name, value in measured.seconds.items())
            say(f"run {number}: {measured.state}, {measured.polls} polls, {measured.changes} "
                f"changes, {took} s, {measured.database_bytes / 1e6:.0f} MB")  # fmt: skip
        figures = check_whole(day)
        figures["fold"] = fold(day)
        last = day.run(kept.runs, kept.month + timedelta(days=8, minutes=15))
        assert last.state == "success"
        world.pair.destroy()
        (folder / "kept").unlink()
    return figures


def check_whole(day: Day) -> dict[str, Any]:
    """Names, gaps, chains and seals of all the runs; the day's figures."""
    world, kept = day.world, day.kept
    day.check_names()
    gaps, sealed = day.check_gaps(), verified(world)
    say(f"record exact: {kept.changes} changes, {gaps} gaps, {sealed} sealed rows")
    return {
        "apps": len(kept.apps),
        "runs": [vars(each) for each in kept.measured],
        "changes": kept.changes,
        "gaps": gaps,
        "sealed_rows": sealed,
    }


def verified(world: World) -> int:
    """Both checks find nothing; how many sealed rows there are."""
    from im_attr_audit.record.checks.verify import check_database
    from im_attr_audit.record.seals.verify import check_seals

    findings = check_database(world.owner).findings
    assert findings == (), findings[:5]
    _, sealed = check_seals(world.sealer, [world.witness], world.signer.verifier)
    assert sealed.findings == [], sealed.findings[:5]
    return int(sealed.rows)


def fold(day: Day) -> dict[str, Any]:
    """Fold the month that ended, a week later: no answer changes, and nothing is found."""
    from im_attr_audit.record.upkeep.fold import fold_old_polls

    world, before = day.world, day.answers()
    world.clocks.set(world.kept.month + timedelta(days=8))
    world.seal()
    sizes, began = day.sizes(), time.monotonic()
    [folded] = fold_old_polls(world.pair.owner_url())
    seconds = time.monotonic() - began
    after, left = day.answers(), day.sizes()
    assert {n for n, answer in before.items() if answer != after[n]} == set()
    verified(world)
    say(
        f"folded {folded.polls} polls into {folded.spans} spans in {seconds:.1f} s: "
        f"{sizes[0] / 1e6:.1f} MB of poll before, {left[0] / 1e6:.1f} MB after"
    )
    return {
        "polls": folded.polls,
        "spans": folded.spans,
        "kept": folded.kept,
        "seconds": seconds,
        "poll_bytes": [sizes[0], left[0]],
        "database_bytes": [sizes[1], left[1]],
    }


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Live the day; write its figures and draw them where that is asked for."""
    parser = argparse.ArgumentParser(prog="make test-day", description=__doc__)
    parser.add_argument("--apps", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--figures", type=Path, help="where the figures are written, as JSON")
    parser.add_argument("--chart", type=Path, help="where they are drawn, as SVG")
    parser.add_argument("--folder", type=Path, help="a folder for everything; can be continued")
    given = parser.parse_args()
    folder = given.folder or Path(os.environ.setdefault(
        "IM_ATTR_AUDIT_TEST_DAY", tempfile.mkdtemp(prefix="im-attr-audit-day-")))  # fmt: skip
    os.environ |= {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__SECRETS__BACKEND": "im_attr_audit.connection_files.ConnectionFilesBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"folder": str(folder / "connections")}),
    }
    begin = first_of_month() - timedelta(days=1)
    clocks = under_moved_clocks(folder / "clocks", MODULE, begin)
    logging.disable(logging.WARNING)
    file = folder / "kept"
    kept = pickle.loads(file.read_bytes()) if file.exists() else new_day(given.apps, given.runs)
    assert (len(kept.apps), kept.runs) == (given.apps, given.runs), "another day is in that folder"
    try:
        figures = live(kept, folder, clocks, lasting=given.folder is not None)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if figures is None:
        say(f"stopped after {len(kept.measured)} runs; the same command continues")
        return 0
    if given.figures:
        given.figures.write_text(json.dumps(figures, indent=1))
    if given.chart:
        given.chart.write_text(draw(figures), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
