"""SIGKILL wherever it hurts: the sync at named sites and between them, and Postgres itself.

Each case changes the truth, lets a sync be killed, checks the record that is left, and lets the
next run poll: then every true change is there once, none is false, and its bounds hold its time.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.tencent.target import Target
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from launch.processes import wait_until
from simulator.control import Simulator
from tests.children import Children, Ended, Strike, Work, named_passings
from tests.conftest import WRITER, AuditDb
from tests.counts import count, counted
from tests.rig import (
    Record,
    Rig,
    app_of,
    assert_chains_hold,
    assert_changes_are_true,
)

_NAMED = "SIGKILL of a sync at a named site"
_BETWEEN = "SIGKILL of a sync at a random instant, by the site it had passed last"
_POSTGRES = "SIGKILL of Postgres, by the site of the sync"
#: `make soak` kills a thousand of each.
RANDOM_INSTANTS = 40
EVERY_SITE = 1
MAY_BE_FEWER = (
    "connected to the vendor",
    "request sent",
    "before: the wait for the second read",
)
#: Where Postgres is killed under a sync, beside before it has anything to write.
WRITES = ("insert into poll and update app", "insert into change", "commit")
REGIONS = ("china", "frankfurt")


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as running:
        yield running


class Scene:
    """Five apps of which each case changes two, adds one, leaves one and lets one fail."""

    def __init__(self, rig: Rig, url: str, children: Children) -> None:
        self.rig, self.url, self.children = rig, url, children
        self.cases = 0
        self.targets: list[Target] = []

    def prepare(self, confirm_seconds: float = 0.0) -> tuple[Work, list[Target]]:
        """Change the truth; what the sync that is to be killed has to do."""
        rig, number = self.rig, self.cases
        self.cases += 1
        if number % 25 == 0:  # short histories are checked fast
            self.targets = [
                rig.add_app("china", {0: "sex", 1: "city"}),
                rig.add_app("china", {0: "sex", 1: "city"}),
                rig.add_app("frankfurt", {0: "unchanged"}),
                rig.add_app("frankfurt", {0: "sex"}),
            ]
            assert rig.outcomes(*self.targets) == ["ok"] * 4
        renamed, grown, _, failing = self.targets
        rig.set_names(renamed, {0: f"name {number}", 1: "city"})
        rig.set_names(grown, {0: "sex"} if number % 2 else {0: "sex", 1: "city", 2: "more"})
        rig.fault(failing, "bad_gateway")
        new = rig.add_app("frankfurt", {0: "sex", 3: f"new {number}"})
        targets = [*self.targets, new]
        work = Work(
            url=self.url,
            targets={
                t.conn_id: rig.simulator.connection_json(t.region, t.sdk_app_id) for t in targets
            },
            run=rig.new_run(),
            confirm_seconds=confirm_seconds,
            watch=True,
        )
        return work, targets

    def recorded(self, work: Work, targets: list[Target]) -> int:
        """How many of its two commits the sync has made, by a record that is sound."""
        record = Record.read(self.rig.engine, [app_of(target) for target in targets])
        record.check()
        polls = {poll.conn_id for poll in record.polls if poll.dag_run_id == work.run}
        # First the unchanged apps, then the rest; each completely or not at all.
        stages = [set(), {self.targets[2].conn_id}, {target.conn_id for target in targets}]
        return stages.index(polls)

    def assert_the_next_run_knows(self, targets: list[Target]) -> None:
        """One more run, and what is recorded is exactly what was true."""
        self.rig.simulator.clear_faults()
        assert self.rig.outcomes(*targets) == ["ok"] * len(targets)
        record = self.rig.record(*targets)
        for target in targets:
            assert_changes_are_true(record.changes_of(app_of(target)), self.rig.history(target))


@pytest.fixture
def scene(audit_db: AuditDb, simulator: Simulator, children: Children) -> Scene:
    return Scene(Rig(simulator, audit_db.writer), audit_db.url(WRITER), children)


def run_to_its_end(scene: Scene, confirm_seconds: float = 0.0) -> Ended:
    """A case in which nobody is killed: the sites it passes, and how long it takes."""
    work, targets = scene.prepare(confirm_seconds)
    ended = scene.children.wait(scene.children.fork(work))
    assert ended.error is None
    assert sorted(ended.outcomes.values()) == ["ok"] * 4 + ["unavailable"]
    assert scene.recorded(work, targets) == 2
    scene.assert_the_next_run_knows(targets)
    return ended


def kill_at_named_sites(scene: Scene, every_site: int) -> None:
    """Each passing of each site, so many times."""
    long_enough_to_wait = 0.3
    ended = run_to_its_end(scene, long_enough_to_wait)
    for site, passing in named_passings(ended.sites) * every_site:
        work, targets = scene.prepare(long_enough_to_wait if "wait" in site else 0.0)
        killed = scene.children.wait(scene.children.fork(work, Strike(site, passing)))
        recorded = scene.recorded(work, targets)
        assert recorded == killed.sites.count("after: commit")
        scene.assert_the_next_run_knows(targets)
        if killed.signal is None:
            # Fewer connections or requests were needed this time: one could be used twice, none
            # had to be made again.
            assert killed.sites.count(site) < passing
            assert site in MAY_BE_FEWER, site
        else:
            assert (killed.signal, killed.sites[-1]) == (signal.SIGKILL, site)
            count(_NAMED, site)


def kill_at_random_instants(scene: Scene, number: int, seed: int) -> None:
    """Until so many were killed under way."""
    chance = random.Random(seed)
    took = sorted(run_to_its_end(scene).seconds for _ in range(5))[2]
    killed = 0
    while killed < number:
        work, targets = scene.prepare()
        work = replace(work, kill_after=chance.random() * took)
        ended = scene.children.wait(scene.children.fork(work))
        recorded = scene.recorded(work, targets)
        made, begun = (ended.sites.count(f"{when}: commit") for when in ("after", "before"))
        assert made <= recorded <= begun
        scene.assert_the_next_run_knows(targets)
        if ended.signal == signal.SIGKILL:
            killed += 1
            count(_BETWEEN, ended.sites[-1] if ended.sites else "none yet")


def test_a_sync_killed_at_any_named_site_costs_nothing(scene: Scene) -> None:
    kill_at_named_sites(scene, EVERY_SITE)
    assert assert_chains_hold(scene.rig.engine) > 0


def test_a_sync_killed_at_any_instant_costs_nothing(scene: Scene) -> None:
    kill_at_random_instants(scene, RANDOM_INSTANTS, seed=1)
    assert assert_chains_hold(scene.rig.engine) > 0


def test_at_least_ninety_syncs_were_killed() -> None:
    if not (counted(_NAMED) and counted(_BETWEEN)):
        pytest.skip("only together with the tests that kill")
    assert counted(_NAMED).total() + counted(_BETWEEN).total() >= 90


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that keeps what it has committed, as in production."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    try:
        yield server
    finally:
        server.destroy()


def test_a_database_killed_under_a_sync_costs_nothing(
    own_postgres: EmbeddedPostgres, simulator: Simulator, children: Children
) -> None:
    server = own_postgres
    server.ensure_database("audit")
    migrate(server.url("audit"))
    server.ensure_role(WRITER)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"grant connect on database audit to {WRITER}")
    engine = create_audit_engine(make_url(server.url("audit", WRITER)))
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        scene = Scene(Rig(simulator, engine), server.url("audit", WRITER), children)
        passings = named_passings(run_to_its_end(scene).sites)
        writes = [(s, passing) for s, passing in passings if s.partition(": ")[2] in WRITES]
        for site, passing in [("after: a read", 1), *writes]:
            for whom in ("backend", "postmaster"):
                work, targets = scene.prepare()
                pid = server.pid if whom == "postmaster" else "backend"
                assert pid is not None
                ended = children.wait(children.fork(work, Strike(site, passing, pid)))
                assert ended.sites.count(site) >= passing
                committed = ended.sites.count("after: commit")
                assert committed == 2 or ended.error is not None
                # The postmaster restarts after a backend dies, not after its own death.
                server.start()
                assert wait_until(lambda: _answers(server), seconds=60)
                engine.dispose()
                assert scene.recorded(work, targets) >= committed, "what was committed is there"
                scene.assert_the_next_run_knows(targets)
                count(_POSTGRES, f"{whom}, {site} ({passing})")
        assert_chains_hold(engine)


def _answers(server: EmbeddedPostgres) -> bool:
    engine = create_audit_engine(make_url(server.url("audit", WRITER)))
    try:
        with engine.connect():
            return True
    except DBAPIError:
        return False
    finally:
        engine.dispose()
