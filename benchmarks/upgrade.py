"""How long an upgrade from the first revision to the newest takes, and who waits for it.

The record is written past the triggers; its hashes are made up, since no step of an upgrade reads
them. While `migrate` runs, one session records polls and changes and another one reads.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from im_attr_audit.record.upkeep.roles import READER, WRITER

from benchmarks.server import plain_url, postgres
from benchmarks.volume_fill import ANSWER, SLOTS
from benchmarks.world import REGIONS
from launch.postgres import EmbeddedPostgres

DATABASE = "bench_upgrade"
FIRST = "0001"
#: Changes of each app: its baselines, then one at every tenth poll.
CHANGES = 100
#: How long both sessions are watched before the upgrade, in seconds.
UNDISTURBED = 10

_SENT = "(cast(%(begin)s as timestamptz) + {k} * interval '1 hour' + i * interval '1 ms')"
_APP = "(%(regions)s)[1 + i %% 6], 1400000000 + i"
_APPS = f"""
insert into attr_audit.app (region, sdk_app_id, api, ok_api, conn_id, first_polled_at, first_ok_at,
                            last_polled_at, last_ok_at, last_poll_ended_at, last_outcome)
select {_APP}, 'all_member_push', 'all_member_push', 'im_' || i, {_SENT.format(k=0)},
       {_SENT.format(k=0)} + interval '0.1 s', {_SENT.format(k="%(last)s")},
       {_SENT.format(k="%(last)s")}, {_SENT.format(k="%(last)s")} + interval '0.1 s', 'ok'
  from generate_series(0, %(apps)s - 1) i
"""
# One poll in 200 fails, which is a gap of two hours.
_POLLS = f"""
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status)
select 'im_' || i, {_APP}, 'all_member_push', 'scheduled__' || k, 1, t, t, t + interval '0.1 s',
       case when fails then 'unavailable' else 'ok' end, 1, case when fails then 502 else 200 end
  from (select i, k, {_SENT.format(k="k")} as t,
               k > 0 and (i * 7919 + k * 104729) %% 200 = 0 as fails
          from generate_series(%(from)s, %(to)s) k, generate_series(0, %(apps)s - 1) i
         order by k, i) p
"""
_CHANGES = f"""
insert into attr_audit.change (region, sdk_app_id, seq, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, answer, poll_id, dag_run_id, recorded_at,
                               prior_ok_at, old_not_before, old_seen_at, prev_hash, row_hash)
select {_APP}, n + 1, n %% {SLOTS},
       case when n >= 2 * {SLOTS} then 'attribute ' || n %% {SLOTS} || ' version ' || n - {SLOTS}
            when n >= {SLOTS} then 'attribute ' || n %% {SLOTS} end,
       'attribute ' || n %% {SLOTS} || case when n >= {SLOTS} then ' version ' || n else '' end,
       n < {SLOTS}, sent - since, sent + interval '0.1 s', %(answer)s, k * %(apps)s + i + 1,
       'scheduled__' || k, sent + interval '1 s', sent - since, before - since_before,
       case when n >= {SLOTS} then before + interval '0.1 s' end,
       case when n > 0 then sha256(convert_to(i || ':' || n - 1, 'UTF8')) end,
       sha256(convert_to(i || ':' || n, 'UTF8'))
  from (select i, n, k, {_SENT.format(k="k")} as sent,
               {_SENT.format(k=f"greatest(k - {SLOTS} * 10, 0)")} as before,
               case when k > 0 then interval '1 hour' end as since,
               case when k > {SLOTS} * 10 then interval '1 hour' end as since_before
          from (select n, greatest(n - {SLOTS} + 1, 0) * 10 as k
                  from generate_series(0, {CHANGES} - 1) n) c,
               generate_series(0, %(apps)s - 1) i
         order by k, i, n) c;
insert into attr_audit.snapshot (region, sdk_app_id, slot, name, not_before, seen_at)
select region, sdk_app_id, slot, new_name, not_before, seen_at
  from attr_audit.change where seq > {CHANGES - SLOTS};
"""
_INDEXES = """
select indexname, replace(indexdef, ' ON ONLY ', ' ON ') from pg_indexes
 where schemaname = 'attr_audit' and tablename = 'poll' and indexname <> 'poll_pkey'
"""

_LOCK = """
select last_ok_at from attr_audit.app where region = %(region)s and sdk_app_id = %(app)s for update
"""
_POLL = """
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status)
select 'c', %(region)s, %(app)s, 'all_member_push', 'during', 1, t, t, t, 'ok', 1, 200
  from (select clock_timestamp() as t) now
returning poll_id, requested_at
"""
_CHANGE = """
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, poll_id, dag_run_id)
select region, sdk_app_id, slot, name, name || '!', false, %(before)s, %(at)s, %(poll)s, 'during'
  from attr_audit.snapshot
 where region = %(region)s and sdk_app_id = %(app)s and slot = 0
"""
_UPDATE = """
update attr_audit.app
   set last_polled_at = %(at)s, last_ok_at = %(at)s, last_poll_ended_at = %(at)s
 where region = %(region)s and sdk_app_id = %(app)s
"""
_READ = """
select (select count(*) from attr_audit.poll p where p.region = a.region
           and p.sdk_app_id = a.sdk_app_id and p.outcome = 'ok'
           and p.requested_at > now() - interval '1 day'),
       (select max(seq) from attr_audit.change c where c.region = a.region
           and c.sdk_app_id = a.sdk_app_id),
       (select string_agg(name, ',') from attr_audit.snapshot s where s.region = a.region
           and s.sdk_app_id = a.sdk_app_id)
  from attr_audit.app a
 where a.region = %(region)s and a.sdk_app_id = %(app)s
"""
_DIFFERENCE = """
select count(*) from (
    select distinct on (region, sdk_app_id, slot) region, sdk_app_id, slot, new_name
      from attr_audit.change order by region, sdk_app_id, slot, seq desc) c
  full join attr_audit.snapshot s using (region, sdk_app_id, slot)
 where c.new_name is distinct from s.name
"""


def _fill(server: EmbeddedPostgres, apps: int, polls: int) -> None:
    begin = datetime.now(UTC) - timedelta(hours=polls - 0.5)
    values = {
        "apps": apps,
        "begin": begin,
        "last": polls - 1,
        "regions": list(REGIONS),
        "answer": ANSWER,
    }
    with server.connect(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute("set role attr_audit_owner")
        cursor.execute(
            "select attr_audit.create_poll_partition(m::date) from generate_series("
            "date_trunc('month', cast(%s as timestamptz)), now(), '1 month') m",
            (begin,),
        )
        cursor.execute(_INDEXES)
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"drop index attr_audit.{name}")
        cursor.execute("reset role")
        cursor.execute("set session_replication_role = replica")
        cursor.execute(_APPS, values)
        for k in range(0, polls, 100):
            cursor.execute(_POLLS, {**values, "from": k, "to": min(k + 99, polls - 1)})
        cursor.execute(_CHANGES, values)
        cursor.execute("set role attr_audit_owner")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("reset role")
        cursor.execute("vacuum analyze")
        cursor.execute("checkpoint")


class _Session:
    """Somebody who does the same again and again; each time is taken."""

    def __init__(self, server: EmbeddedPostgres, role: str, do: Callable[[Any, int], None]) -> None:
        self._connection = psycopg2.connect(plain_url(server, DATABASE, role))
        self._do = do
        self._over = threading.Event()
        self.longest = 0.0
        self.times = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for number in itertools.count():
                if self._over.is_set():
                    break
                began = time.monotonic()
                with self._connection, self._connection.cursor() as cursor:
                    self._do(cursor, number)
                self.longest = max(self.longest, time.monotonic() - began)
                self.times += 1
        except BaseException as error:
            self.error = error

    def __enter__(self) -> _Session:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()
        if self.error is not None:
            raise self.error


@contextmanager
def _sessions(server: EmbeddedPostgres, apps: int) -> Iterator[tuple[_Session, _Session]]:
    """A writer, whose every tenth poll finds a change, and a reader; stopped at the end."""

    def app(number: int) -> dict[str, Any]:
        i = number * 7919 % apps
        return {"region": REGIONS[i % 6], "app": 1_400_000_000 + i}

    def write(cursor: Any, number: int) -> None:
        values = app(number)
        cursor.execute(_LOCK, values)
        [(before,)] = cursor.fetchall()
        cursor.execute(_POLL, values)
        [(poll, at)] = cursor.fetchall()
        values |= {"before": before, "poll": poll, "at": at}
        if number % 10 == 0:
            cursor.execute(_CHANGE, values)
        cursor.execute(_UPDATE, values)

    def read(cursor: Any, number: int) -> None:
        cursor.execute(_READ, app(number))
        cursor.fetchall()

    with _Session(server, WRITER, write) as writer, _Session(server, READER, read) as reader:
        yield writer, reader


def prepare(server: EmbeddedPostgres, apps: int, polls: int) -> None:
    """A database at the first revision, with so many polls of each app."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {DATABASE}")
    migrate(server.url(DATABASE), FIRST)
    for role in (WRITER, READER):
        server.ensure_role(role)
    _fill(server, apps, polls)


def upgraded(server: EmbeddedPostgres, apps: int, polls: int) -> dict[str, Any]:
    """Seconds of `migrate`, and the longest transaction of each session, before and during it."""
    with _sessions(server, apps) as (writer, reader):
        # Nothing ends this but time: the longest wait of so many seconds is what is measured.
        time.sleep(UNDISTURBED)
    before = {"writer": writer.longest, "reader": reader.longest}
    written = writer.times
    with _sessions(server, apps) as (writer, reader):
        began = time.monotonic()
        newest = migrate(server.url(DATABASE))
        taken = time.monotonic() - began
    written += writer.times
    with server.connect(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from attr_audit.poll")
        assert cursor.fetchone() == (apps * polls + written,), "a poll was lost"
        cursor.execute(_DIFFERENCE)
        assert cursor.fetchone() == (0,), "a change was lost"
    return {
        "polls": apps * polls,
        "changes": apps * CHANGES,
        "first": FIRST,
        "newest": newest,
        "steps": len(revisions()) - 1,
        "seconds": taken,
        "before": before,
        "during": {"writer": writer.longest, "reader": reader.longest},
        "times": {"writer": writer.times, "reader": reader.times},
    }


def measure(quick: bool) -> dict[str, Any]:
    """What `upgraded` gives of 10 million polls and a million changes."""
    apps, polls = (300, 1_000) if quick else (10_000, 1_000)
    with postgres() as server:
        prepare(server, apps, polls)
        return upgraded(server, apps, polls)


def render(figures: dict[str, Any]) -> str:
    """The page's section."""
    before, during, times = figures["before"], figures["during"], figures["times"]
    return (
        f"### Upgrading\n\nFrom revision {figures['first']} to {figures['newest']} "
        f"({figures['steps']} steps) with {figures['polls']:,} polls and {figures['changes']:,} "
        f"changes, while one session recorded polls and changes and another one read: "
        f"`migrate` took **{figures['seconds']:.0f} s**. The longest "
        "transaction of each session:\n\n"
        "| session | transactions during the upgrade | longest | "
        f"longest in the {UNDISTURBED} s before |\n"
        "|---|---:|---:|---:|\n"
        + "\n".join(
            f"| {who} | {times[who]:,} | {during[who]:.2f} s | {before[who]:.2f} s |"
            for who in ("writer", "reader")
        )
        + "\n\nEverything that was recorded in the meantime is there afterwards, each name once."
    )
