"""Compare and record: our store beside hand-written SQL, in one process, round by round.

And what the chain costs in it, what checking it costs, and what is written.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.rules import Poll, needs_confirmation
from im_attr_audit.record.store import record_polls, record_unchanged
from im_attr_audit.record.upkeep.roles import WRITER
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from benchmarks import floor
from benchmarks.measure import Side, in_turn, ratio, seconds
from benchmarks.server import fresh, plain_url, settle
from benchmarks.world import SLOTS, State, World
from launch.postgres import EmbeddedPostgres

OURS, FLOOR = "bench_ours", "bench_floor"
#: All columns of all changes in the chains' order, as text: the least that a checker must be given.
READ = "copy (select * from attr_audit.change order by region, sdk_app_id, seq) to stdout"


def ours(engine: Engine, polls: Sequence[Poll], run: str) -> None:
    """What sync_apps does once the vendor has answered; the confirming read says the same."""
    unlike = record_unchanged(engine, polls, dag_run_id=run, try_number=1)
    rest = []
    for poll in polls:
        app = poll.app
        if app is not None and app in unlike:
            if needs_confirmation(unlike[app], poll.reads[0].answer.names):
                poll = _read_again(poll)
            rest.append(poll)
    record_polls(engine, rest, dag_run_id=run, try_number=1, as_read=unlike)


def _read_again(poll: Poll) -> Poll:
    [first] = poll.reads
    sent = poll.requested_at + timedelta(seconds=2)
    done = sent + timedelta(milliseconds=80)
    second = replace(first, requested_at=sent, responded_at=done)
    return replace(poll, sent=2, reads=(first, second), last_requested_at=sent, responded_at=done)


def check(server: EmbeddedPostgres, name: str, world: World) -> None:
    """Replaying what was recorded gives exactly the truth, or no time counts."""
    replay = """
        select region, sdk_app_id, slot, new_name from (
            select distinct on (region, sdk_app_id, slot) region, sdk_app_id, slot, new_name
              from attr_audit.change order by region, sdk_app_id, slot, seq desc) newest
         where new_name is not null"""
    with server.connect(name) as connection, connection.cursor() as cursor:
        for source in (replay, "select region, sdk_app_id, slot, name from attr_audit.snapshot"):
            cursor.execute(source)
            found: State = {}
            for region, app, slot, name_ in cursor.fetchall():
                found.setdefault((region, app), {})[slot] = name_
            assert found == world.state, "what was recorded is not what was true"
        cursor.execute("select count(*) from attr_audit.change where not is_baseline")
        assert cursor.fetchone() == (world.changes_so_far,)
        cursor.execute("select bool_and(ok) from attr_audit.verify_chain()")
        assert cursor.fetchone() == (True,)
        cursor.execute("select count(*) from attr_audit.poll")
        assert cursor.fetchone() == (len(world.apps) * (world.poll + 1),)


@contextlib.contextmanager
def _both(server: EmbeddedPostgres) -> Iterator[tuple[Engine, Any]]:
    fresh(server, OURS)
    fresh(server, FLOOR)
    engine = create_audit_engine(make_url(server.url(OURS, WRITER)))
    connection = psycopg2.connect(plain_url(server, FLOOR, WRITER))
    try:
        yield engine, connection
    finally:
        connection.close()
        engine.dispose()


def measure(
    server: EmbeddedPostgres, apps: int, rounds: int, *, changes: int | None = None
) -> dict[str, Any]:
    """Medians of a baseline, of polls with changes and of polls without, on both sides."""
    world = World(apps, changes=changes)
    state: dict[str, Any] = {}
    with _both(server) as (engine, connection):
        sides = [
            Side("ours", lambda: ours(engine, state["polls"], state["run"])),
            Side("floor", lambda: floor.record(connection, state["polls"], state["run"])),
        ]

        def poll() -> None:
            state["polls"] = world.polls()
            state["run"] = f"scheduled__2026-11-01T00:00:00.{world.poll:06}+00:00"

        def polls(count: int, changes: int | None) -> dict[str, list[float]]:
            times: dict[str, list[float]] = {side.name: [] for side in sides}
            for number in range(count):
                world.advance(changes=changes)
                poll()
                for side in sides if number % 2 else reversed(sides):
                    times[side.name].append(seconds(side.run))
            return times

        poll()
        first = in_turn(sides, 1)
        for name in (OURS, FLOOR):
            settle(server, name)
        polls(1, None)  # connections, plans and caches are warm afterwards
        changed = polls(rounds, None)
        nothing = polls(rounds, 0)
        for name in (OURS, FLOOR):
            check(server, name, world)
    return {
        "apps": apps,
        "rounds": rounds,
        "changes": world.changes_per_poll,
        "first": {"seconds": {k: v[0] for k, v in first.items()}, **_ratio(first)},
        "changed": {"seconds": _medians(changed), **_ratio(changed)},
        "nothing": {"seconds": _medians(nothing), **_ratio(nothing)},
        "nothing_to_changed_floor": ratio(nothing["ours"], changed["floor"]),
    }


def _medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def _ratio(times: dict[str, list[float]]) -> dict[str, float]:
    return {"ratio": ratio(times["ours"], times["floor"])}


_BULK = """
insert into attr_audit.change (region, sdk_app_id, slot, new_name, is_baseline, seen_at, answer,
                               poll_id, dag_run_id{more})
select 'frankfurt', i, s, 'attribute ' || s || ' of app ' || i, true, now(), '{{…}}', i,
       'bulk'{values}
  from generate_series(1, {apps}) i, generate_series(0, 9) s
"""
_THEIR_POLLS = """
insert into attr_audit.poll (poll_id, conn_id, region, sdk_app_id, dag_run_id, requested_at,
                             responded_at, outcome) overriding system value
select i, 'c', 'frankfurt', i, 'bulk', now(), now(), 'ok' from generate_series(1, {apps}) i
"""
_NO_CHAIN = """
alter table attr_audit.change disable trigger user;
alter table attr_audit.change alter recorded_at set default now(),
      alter row_hash set default sha256('')"""
_LESS = {
    "with everything": "",
    "without alerts": "alter table attr_audit.change disable trigger note_changes",
    "also without the snapshot": "alter table attr_audit.change disable trigger note_changes; "
    "alter table attr_audit.change disable trigger apply_changes",
    "also without the polls": "alter table attr_audit.change disable trigger note_changes; "
    "alter table attr_audit.change disable trigger apply_changes; "
    "alter table attr_audit.change disable trigger refuse_unfounded_changes",
    "also without the chain": _NO_CHAIN,
}


def chain(server: EmbeddedPostgres, rounds: int, apps: int = 10_000) -> dict[str, Any]:
    """Microseconds per change in a bulk of 100,000: complete, then with parts switched off."""
    fresh(server, OURS)
    found: dict[str, list[float]] = {name: [] for name in _LESS}
    with server.connect(OURS) as connection, connection.cursor() as cursor:
        cursor.execute(
            "insert into attr_audit.app (region, sdk_app_id, api, conn_id, first_polled_at, "
            "last_polled_at, last_outcome) select 'frankfurt', i, 'all_member_push', 'c', now(), "
            f"now(), 'ok' from generate_series(1, {apps}) i"
        )
        cursor.execute("analyze attr_audit.app")
        for _ in range(rounds):
            for name, less in _LESS.items():
                bare = less == _NO_CHAIN
                bulk = _BULK.format(
                    apps=apps, more=", seq" if bare else "", values=", s + 1" if bare else ""
                )
                cursor.execute("begin")
                cursor.execute(_THEIR_POLLS.format(apps=apps))
                cursor.execute(less or "select")
                taken = seconds(functools.partial(cursor.execute, bulk))
                cursor.execute("rollback")
                cursor.execute("vacuum attr_audit.change, attr_audit.snapshot")
                found[name].append(taken / (apps * SLOTS) * 1e6)
    return {name: statistics.median(values) for name, values in found.items()}


def verifying(server: EmbeddedPostgres, rounds: int, changes: int = 1_000_000) -> dict[str, Any]:
    """Changes per second that verify_chain() and `im-attr-audit verify` check, of 10,000 apps."""
    fresh(server, OURS)
    engine = create_audit_engine(make_url(server.url(OURS, WRITER)))
    # Every slot of every app at every poll: what is measured is not how fast the record is filled.
    world = World(10_000, changes=min(100_000, changes // 3))
    # A poll that is recorded an hour after it was made is a finding.
    world.begin = datetime.now(UTC) - timedelta(minutes=45)
    ours(engine, world.polls(), "poll 0")
    while len(world.apps) * SLOTS + world.changes_so_far < changes:
        world.advance()
        ours(engine, world.polls(), f"poll {world.poll}")
    settle(server, OURS)
    times: dict[str, list[float]] = {"verify_chain": [], "command": [], "read": []}
    with server.connect(OURS) as connection, connection.cursor() as cursor:
        for _ in range(rounds):
            taken = seconds(lambda: cursor.execute("select * from attr_audit.verify_chain()"))
            times["verify_chain"].append(taken)
            times["command"].append(seconds(lambda: _assert_sound(engine, changes)))
            times["read"].append(seconds(lambda: cursor.copy_expert(READ, _Dropped())))
    engine.dispose()
    return {
        "changes": changes,
        "apps": len(world.apps),
        "processes": min(len(os.sched_getaffinity(0)), 4),
        **{name: changes / statistics.median(values) for name, values in times.items()},
    }


class _Dropped:
    """Where the server's rows go when only the server is measured."""

    def write(self, row: bytes) -> int:
        return len(row)


def _assert_sound(engine: Engine, changes: int) -> None:
    checked = check_database(engine)
    assert (checked.rows, checked.findings) == (changes, ())
