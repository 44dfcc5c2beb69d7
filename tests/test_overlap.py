"""Processes that sync the same apps at the same moment: nothing twice, nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.rules import Poll
from im_attr_audit.record.store import Recorded, record_polls
from im_attr_audit.tencent.target import Target
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from simulator.control import Simulator
from tests.children import Children, Work
from tests.conftest import WRITER, AuditDb
from tests.counts import count
from tests.history import polled
from tests.rig import Rig, app_of, assert_chains_hold, assert_changes_are_true

REGIONS = ("china", "frankfurt")
#: `make soak` lets two of them meet five hundred times.
TWO_AT_ONCE = 60
THREE_AT_ONCE = 10
FOUR_AT_ONCE = 60
_TITLE = "processes that synced the same apps at the same moment"


def overlap(rig: Rig, url: str, times: int, *, processes: int, seed: int) -> None:
    """So many processes at once, so many times; each time two names change and one app is new.

    With three of them each leaves one app out, so that they lock different apps.
    """
    chance = random.Random(seed)
    old: list[Target] = []
    with ExitStack() as stack:
        crowd = [stack.enter_context(Children()) for _ in range(processes)]
        for number in range(times):
            if number % 20 == 0:  # short histories are checked fast
                old = [rig.add_app(region, {0: "sex", 1: "city"}) for region in REGIONS]
                assert rig.outcomes(*old) == ["ok", "ok"]
            rig.set_names(old[0], {0: f"name {number}", 1: "city"})
            rig.set_names(old[1], {0: "sex"} if number % 2 else {0: "sex", 1: "city", 2: "more"})
            targets = [*old, rig.add_app(chance.choice(REGIONS), {0: f"new {number}"})]
            fields = {t.conn_id: rig.simulator.connection_json(*app_of(t)) for t in targets}
            work = Work(url=url, targets=fields, run=rig.new_run())
            for place, children in enumerate(crowd):
                mine = (
                    list(fields) if processes == 2 else [c for c in fields if c != [*fields][place]]
                )
                children.begin(
                    "sync",
                    replace(
                        work,
                        targets={conn_id: fields[conn_id] for conn_id in mine},
                        run=f"{work.run} of {place}",
                        delay=chance.choice([0.0, 0.0, chance.random() * 0.02]),
                    ),
                )
            ended = [children.end() for children in crowd]
            assert [each.error for each in ended] == [None] * processes
            for target in targets:
                came = [
                    each.outcomes[target.conn_id]
                    for each in ended
                    if each.outcomes.get(target.conn_id)
                ]
                assert set(came) <= {"ok", "late"}
                assert "ok" in came
                count(_TITLE, f"polls that ended {' and '.join(sorted(came))}")
            record = rig.record(*targets)
            for target in targets:
                assert_changes_are_true(record.changes_of(app_of(target)), rig.history(target))
    count(_TITLE, f"{processes} at once", times)
    assert_chains_hold(rig.engine)


def test_two_processes_at_once_record_each_change_once(
    audit_db: AuditDb, simulator: Simulator
) -> None:
    rig = Rig(simulator, audit_db.writer)
    overlap(rig, audit_db.url(WRITER), TWO_AT_ONCE, processes=2, seed=2)


def test_three_processes_with_different_apps_never_lock_each_other_out(
    audit_db: AuditDb, simulator: Simulator
) -> None:
    rig = Rig(simulator, audit_db.writer)
    overlap(rig, audit_db.url(WRITER), THREE_AT_ONCE, processes=3, seed=3)


def test_four_who_meet_the_same_new_app_never_lock_each_other_out(
    audit_db: AuditDb,
) -> None:
    """Each holds a known app while it meets one that is new, in the worst order of locks."""
    chance = random.Random(4)
    engines = [create_audit_engine(make_url(audit_db.url(WRITER))) for _ in range(4)]
    with ExitStack() as stack:
        for engine in engines:
            stack.callback(engine.dispose)
        crowd = stack.enter_context(ThreadPoolExecutor(len(engines)))
        for number in range(FOUR_AT_ONCE):
            at = datetime.now(UTC) - timedelta(seconds=10)
            polls = [
                polled({0: "sex"}, {0: "sex"}, at=at, region="a", sdk_app_id=number + 1),
                polled({0: "sex"}, {0: "sex"}, at=at, region="z", sdk_app_id=1),
            ]
            start = threading.Barrier(len(engines))

            def record(
                engine: Engine,
                delay: float,
                polls: list[Poll] = polls,
                start: threading.Barrier = start,
            ) -> list[Recorded]:
                start.wait()
                time.sleep(delay)
                return record_polls(engine, polls, dag_run_id="run", try_number=1)

            delays = [chance.random() * 0.006 for _ in engines]
            came = [r.outcome for rs in crowd.map(record, engines, delays) for r in rs]
            assert set(came) <= {"ok", "late"}
    count(_TITLE, "4 at once, in the database alone", FOUR_AT_ONCE)
