"""A day of many apps in fast motion: `make test-day`.

96 runs a quarter of an hour apart, by the DAG's own functions against the simulator, on a real
Postgres whose clock is set forward from run to run. 1 % of the apps change a name in each. A region
fails for a while, then everything; the server is killed in the middle of a run; its clock is an
hour ahead for one run. Each run is sealed. In the middle of the day a month begins; the one that
ended is folded at the end.

Every poll and change is compared with what the simulator truly answered (`tests.oracle`). Times are
reported in docs/performance.md and judged nowhere.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.cluster.moved_clock import Clocks, MovedPostgres, under_moved_clocks

REGIONS = ("china", "singapore", "seoul", "frankfurt", "silicon_valley")
RUNS, APART, SLOTS, CHANGED, RETRIES = 96, timedelta(minutes=15), 10, 0.01, 3
AHEAD = timedelta(hours=1)
GAP = timedelta(minutes=40)
MODULE = "tests.cluster.day"
ROOT = Path(__file__).resolve().parents[2]

App = tuple[str, int]


@dataclass(frozen=True)
class Events:
    """What happens in which run; the month ends in the middle. A shorter day has less of each."""

    runs: int = RUNS

    def _at(self, run: int) -> int:
        return run * self.runs // RUNS

    @property
    def region_down(self) -> range:
        return range(self._at(20), self._at(26))

    @property
    def all_down(self) -> range:
        return range(self._at(40), self._at(43))

    @property
    def killed(self) -> int:
        return self._at(55)

    @property
    def jumped(self) -> int:
        return self._at(70)

    @property
    def unsealed(self) -> range:
        """Rows with a time to come are sealed when it has come."""
        return range(self.jumped, self.jumped + AHEAD // APART)


def first_of_month() -> datetime:
    """The newest one that lies more than two weeks back by the machine's clock."""
    # Under a moved clock it is read from the environment, as it was before.
    given = os.environ.setdefault("IM_ATTR_AUDIT_TEST_MONTH", f"{datetime.now(UTC):%Y-%m-%d}")
    today = datetime.fromisoformat(given).replace(tzinfo=UTC)
    return (today - timedelta(days=14)).replace(day=1)


@dataclass
class Measured:
    """One run, in seconds and bytes."""

    run: int
    state: str
    changes: int
    seconds: dict[str, float]
    polls: int
    table_bytes: int
    database_bytes: int
    load: float


@dataclass
class Good:
    """One good poll of an app: when its request arrived, and how many failed before it."""

    run: int
    arrived: datetime
    failed_before: int


@dataclass
class World:
    """What polls, records and answers, and what is known to be true."""

    apps: list[App]
    clocks: Clocks
    server: MovedPostgres
    vendor: Any
    writer: Any
    owner: Any
    reader: Any
    oracles: dict[App, Any]
    goods: dict[App, list[Good]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[App, int] = field(default_factory=lambda: defaultdict(int))
    events: list[dict[str, Any]] = field(default_factory=list)
    changes: int = 0
    judged_poll: int = 0
    judged_request: int = 0


class Day:
    """The day, run by run."""

    def __init__(self, world: World, events: Events, seal: Any, random_: random.Random) -> None:
        from im_attr_audit import tasks

        self.world, self.events, self.seal = world, events, seal
        self._random, self._tasks = random_, tasks
        self.measured: list[Measured] = []
        self.states: dict[int, dict[App, dict[int, str]]] = {}

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
            states = self._sync_all(instances, run_id, at, kill=number == self.events.killed)
        with timed(seconds, "publish and report"):
            state = self._end(instances, run_id, states)
        with timed(seconds, "seal"):
            sealed = self._is_sealed()
        assert sealed == (number not in self.events.unsealed), number
        changes, polls = self._judge(run_id, number, ahead=ahead)
        expected_failure = number in self.events.region_down or number in self.events.all_down
        assert (state == "failed") == expected_failure, (number, state, states)
        table, database = self._sizes()
        load = os.getloadavg()[0]
        return Measured(number, state, changes, seconds, polls, table, database, load)

    def _is_sealed(self) -> bool:
        from im_attr_audit.record.sealing import SealingRefused

        try:
            self.seal()
        except SealingRefused as refused:
            if refused.findings:
                raise
            return False
        return True

    def _change(self) -> None:
        """Another name in one slot of 1 % of the apps."""
        for app in self._random.sample(
            self.world.apps, max(1, round(len(self.world.apps) * CHANGED))
        ):
            slot = self._random.randrange(SLOTS)
            name = f"name {self._random.randrange(10**6)}" if self._random.random() < 0.9 else None
            self.world.vendor.set_name(*app, slot, name)

    def _break(self, number: int) -> None:
        vendor = self.world.vendor
        if number in (self.events.region_down.start, self.events.region_down.stop):
            vendor.set_failing("seoul", number == self.events.region_down.start)
        if number == self.events.all_down.start:
            vendor.fault("drop", times=None)
        if number == self.events.all_down.stop:
            vendor.clear_faults()

    def _sync_all(
        self, instances: Sequence[Mapping[str, Any]], run_id: str, at: datetime, *, kill: bool
    ) -> dict[str, str]:
        """The mapped tasks one after another, each tried as often as the DAG tries it."""
        states = {}
        for place, instance in enumerate(instances):
            middle = kill and place == len(instances) // 2
            killer = self._kill_after(len(instance["conn_ids"]) // 2) if middle else None
            states[f"sync {place}"] = self._sync(instance, run_id, at)
            if killer is not None:
                killer.join()
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

    def _kill_after(self, answers: int) -> threading.Thread:
        """Kill the server in the middle of the polls of a task; start it again."""
        world, seen = self.world, self._newest_request()

        def kill() -> None:
            while self._newest_request() < seen + answers:
                time.sleep(0.01)
            world.server.kill()
            world.server.start()

        thread = threading.Thread(target=kill)
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

        world, tasks = self.world, self._tasks

        def after(_: str) -> list[Any]:
            return [SimpleNamespace(source_dag_id=tasks.DAG_ID, extra=e) for e in world.events]

        def add(_: Any, *, extra: dict[str, Any]) -> None:
            world.events.append(extra)

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

        world = self.world
        requests = self._requests()
        with world.owner.connect() as connection:
            polls = connection.execute(
                text("select * from attr_audit.poll where poll_id > :last order by poll_id"),
                {"last": world.judged_poll},
            ).all()
            rows = connection.execute(
                text(
                    "select * from attr_audit.change where poll_id > :last "
                    "order by region, sdk_app_id, seq"
                ),
                {"last": world.judged_poll},
            ).all()
        changes = defaultdict(list)
        for row in rows:
            changes[row.poll_id].append(row)
        of_app: dict[App, list[Any]] = defaultdict(list)
        for poll in polls:
            assert poll.dag_run_id == run_id
            of_app[poll.region, poll.sdk_app_id].append(poll)
        assert of_app.keys() == set(world.apps), f"run {number} left apps out"
        for app, mine in of_app.items():
            self._judge_app(app, number, mine, requests[app], changes, ahead)
        assert not changes, "changes of polls that were not expected"
        assert sum(e["changes"] + e["baselines"] for e in world.events) == world.changes
        world.judged_poll = max(poll.poll_id for poll in polls)
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

        world, shift = self.world, timedelta(seconds=ahead)
        left = len(requests)
        for poll in polls:
            sent, ended = poll.requested_at, poll.responded_at or poll.requested_at
            mine = [r for r in requests if sent <= r.arrived_at + shift <= ended]
            left -= len(mine)
            reads = reads_of(mine)
            # Seen about once in millions of polls: no connection could be made.
            hung_up = poll.reads > len(reads) and "TLS" in (poll.error_info or "")
            outcome, expected = world.oracles[app].take(
                poll, reads, run=poll.dag_run_id, hung_up=hung_up
            )
            assert poll.outcome == outcome, (number, poll, mine)
            recorded = changes.pop(poll.poll_id, [])
            assert len(recorded) == len(expected), (number, recorded, expected)
            for change, wanted in zip(recorded, expected, strict=True):
                assert_recorded(change, wanted, right=not ahead)
                world.changes += 1
            if outcome == "ok" and not ahead:
                good = Good(number, mine[-1].arrived_at, world.failed.pop(app, 0))
                world.goods[app].append(good)
            elif outcome != "ok":
                world.failed[app] += 1
        # Only a server that was killed makes a poll that is not recorded.
        assert left == 0 or number == self.events.killed, (number, app, left)

    def _sizes(self) -> tuple[int, int]:
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
        truth = {
            (region, number, slot, name)
            for region, number in self.world.apps
            for slot, (name, _) in self.world.oracles[region, number].names.items()
        }
        assert {tuple(row) for row in rows} == truth
        assert len(rows) == len(truth)
        for app in random.Random(19).sample(self.world.apps, min(50, len(self.world.apps))):
            names = self.world.vendor.truth(*app).names
            assert names == {s: name for s, (name, _) in self.world.oracles[app].names.items()}

    def check_gaps(self, begin: datetime, end: datetime) -> int:
        """The gaps are those that the vendor's log shows; how many."""
        from sqlalchemy import text

        expected = {
            app: [
                (one.arrived, other.arrived, other.failed_before)
                for one, other in pairwise(goods)
                if other.arrived - one.arrived > GAP
            ]
            for app, goods in self.world.goods.items()
        }
        found: dict[App, list[Any]] = defaultdict(list)
        with self.world.reader.connect() as connection:
            for row in connection.execute(
                text("select * from attr_audit.gaps(:lo, :hi, :gap) order by gap_from"),
                {"lo": begin, "hi": end, "gap": GAP},
            ):
                found[row.region, row.sdk_app_id].append(row)
        for app in self.world.apps:
            assert len(found[app]) == len(expected[app]), (app, found[app], expected[app])
            for row, (before, after, failed) in zip(found[app], expected[app], strict=True):
                # Sent at the one, arrived at the other; what came back is on record.
                assert timedelta(0) <= before - row.gap_from < timedelta(minutes=1), (row, before)
                assert timedelta(0) <= after - row.gap_to < timedelta(minutes=1), (row, after)
                assert row.polls_failed == failed, (row, failed)
        return sum(map(len, expected.values()))

    def answers(self, begin: datetime, end: datetime) -> dict[str, list[str]]:
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
                        text(f"select * from attr_audit.{question}"), {"lo": begin, "hi": end}
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


class Turns:
    """Heavy programs of one machine take turns by a lock file, here of some minutes each."""

    MINUTES = 8

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: Any = None
        self._since = 0.0

    def take(self) -> None:
        """It is our turn from here on: still, or once the others have had theirs."""
        if self._path is None:
            return
        if self._file is not None and time.monotonic() - self._since > 60 * self.MINUTES:
            self._file.close()
            self._file = None
            time.sleep(1)
        if self._file is None:
            self._file = self._path.open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()


def apps_of(count: int) -> list[App]:
    return [(REGIONS[i % len(REGIONS)], 1_400_000_001 + i) for i in range(count)]


def connections_in_files(vendor: Any, apps: Sequence[App], folder: Path) -> list[str]:
    """Every app's connection, as a volume of files; their ids."""
    template = {region: vendor.connection_json(*next(a for a in apps if a[0] == region))
                for region in {region for region, _ in apps}}  # fmt: skip
    found = {}
    for region, number in apps:
        fields = template[region]
        extra = {**fields["extra"], "sdk_app_id": number}
        found[f"{region}_{number}"] = {**fields, "password": key_of(number), "extra": extra}
    ids = list(found)
    folder.mkdir()
    for begin in range(0, len(ids), 1_000):
        part = {name: found[name] for name in ids[begin : begin + 1_000]}
        (folder / f"{begin}.json").write_text(json.dumps(part))
    return ids


def key_of(number: int) -> str:
    return f"{number:064x}"


def live(count: int, runs: int, folder: Path, clocks: Clocks, lock: Path | None) -> dict[str, Any]:
    """The whole day; its figures. Raises AssertionError where the record is not exact."""
    from unittest import mock

    from im_attr_audit import settings
    from im_attr_audit.evidence.note import new_signer
    from im_attr_audit.evidence.witnesses import open_witness
    from im_attr_audit.record.engine import create_audit_engine
    from im_attr_audit.record.fold import fold_old_polls
    from im_attr_audit.record.seal_verify import check_seals
    from im_attr_audit.record.sealing import make_checkpoint
    from im_attr_audit.record.verify import check_database
    from sqlalchemy.engine import make_url

    from simulator.control import Simulator
    from simulator.records import NewApp
    from tests.conftest import OWNER, READER, SEALER, WRITER, make_template
    from tests.oracle import AppOracle

    apps, month = apps_of(count), first_of_month()
    begin = month - runs // 2 * APART
    names = {slot: f"attribute {slot}" for slot in range(SLOTS)}
    turns = Turns(lock)
    turns.take()
    server = MovedPostgres(folder / "postgres", settings={"max_wal_size": "1GB"})
    server.clock = clocks.database
    with contextlib.ExitStack() as stack:
        stack.callback(server.destroy)
        clocks.set(begin - timedelta(minutes=5))
        server.start()
        name = make_template(server)
        vendor = stack.enter_context(
            Simulator.start(folder / "vendor", regions=REGIONS, lasting=False)
        )
        apart = abs(server.time() - datetime.now(UTC))
        assert apart < timedelta(seconds=1), f"the clocks are {apart} apart"
        vendor.add_apps(
            NewApp(*app, names, key=key_of(app[1]), settings={"rate_limit": None}) for app in apps
        )
        ids = connections_in_files(vendor, apps, folder / "connections")
        engines = {
            role: create_audit_engine(make_url(server.url(name, role)))
            for role in (OWNER, WRITER, READER, SEALER)
        }
        stack.enter_context(mock.patch("im_attr_audit.tasks.Variable.get", listing(ids)))
        stack.enter_context(
            mock.patch.dict(
                os.environ,
                {
                    "AIRFLOW_CONN_IM_ATTR_AUDIT_DB": server.url(name, WRITER, driver="postgres"),
                    settings.CONFIRM_SECONDS.name: "0.05",
                },
            )
        )
        world = World(apps, clocks, server, vendor, engines[WRITER], engines[OWNER],
                      engines[READER], {app: AppOracle() for app in apps})  # fmt: skip
        signer, witness = new_signer("example.com/audit"), open_witness(f"file:{folder / 'seals'}")
        (folder / "seals").mkdir()
        day = Day(
            world,
            Events(runs),
            lambda: make_checkpoint(engines[SEALER], signer, [witness]),
            random.Random(19),
        )
        for number in range(runs):
            turns.take()
            measured = day.run(number, begin + number * APART)
            day.measured.append(measured)
            took = " ".join(f"{name} {value:.1f}" for name, value in measured.seconds.items())
            say(f"run {number}: {measured.state}, {measured.polls} polls, {measured.changes} "
                f"changes, {took} s, {measured.database_bytes / 1e6:.0f} MB")  # fmt: skip
        end = begin + (runs - 1) * APART
        turns.take()
        day.check_names()
        gaps = day.check_gaps(begin, end)
        heads = check_database(engines[OWNER])
        assert heads.findings == (), heads.findings[:5]
        _, sealed = check_seals(engines[SEALER], [witness], signer.verifier)
        assert sealed.findings == [], sealed.findings[:5]
        say(f"record exact: {world.changes} changes, {gaps} gaps, {sealed.rows} sealed rows")
        turns.take()
        before = day.answers(begin, end)
        clocks.set(month + timedelta(days=8))
        day.seal()
        sizes, began = day._sizes(), time.monotonic()
        [folded] = fold_old_polls(server.url(name))
        seconds = time.monotonic() - began
        after = day.answers(begin, end)
        assert {n: a for n, a in before.items() if a != after[n]} == {}
        assert check_database(engines[OWNER]).findings == ()
        _, checked = check_seals(engines[SEALER], [witness], signer.verifier)
        assert checked.findings == [], checked.findings[:5]
        left = day._sizes()
        say(
            f"folded {folded.polls} polls into {folded.spans} spans in {seconds:.1f} s: "
            f"{sizes[0] / 1e6:.0f} MB of poll before, {left[0] / 1e6:.0f} MB after"
        )
        turns.take()
        measured = day.run(runs, month + timedelta(days=8, minutes=15))
        assert measured.state == "success"
    return {
        "apps": count,
        "runs": [vars(each) for each in day.measured],
        "changes": world.changes,
        "gaps": gaps,
        "sealed_rows": sealed.rows,
        "fold": {"polls": folded.polls, "spans": folded.spans, "kept": folded.kept,
                 "seconds": seconds, "poll_bytes": [sizes[0], left[0]],
                 "database_bytes": [sizes[1], left[1]]},
    }  # fmt: skip


def listing(ids: Sequence[str]) -> Any:
    from im_attr_audit import settings

    text = json.dumps(ids)
    return lambda key, default=None: text if key == settings.CONN_IDS else default


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Live the day; write the figures where they are asked for."""
    parser = argparse.ArgumentParser(prog="make test-day", description=__doc__)
    parser.add_argument("--apps", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--lock", type=Path, help="a file that heavy programs lock in turn")
    parser.add_argument("--figures", type=Path, help="where the figures are written")
    parser.add_argument("--folder", type=Path, help="an empty folder for everything else")
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
    try:
        figures = live(given.apps, given.runs, folder, clocks, given.lock)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if given.figures:
        given.figures.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
