"""Fills a database with polls and changes, through the product's own triggers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from launch.postgres import EmbeddedPostgres

FIRST = "2026-10-01"
QUARTER = ("2026-08-01", "2026-11-01")
APPS_OF_THE_QUARTER = 6
SLOTS = 10


@dataclass(frozen=True)
class Size:
    """How much to fill in: hourly polls of every app, and changes spread evenly over the hours."""

    apps: int
    hours: int
    changes: int

    @property
    def changes_per_hour(self) -> int:
        return round((self.changes - self.apps * SLOTS) / (self.hours - 1))


# Poll number n of an app: when it is sent (every app at a moment of its own), and whether it fails.
_SENT = (
    "(cast(%(first)s as timestamptz) + {n} * cast(%(apart)s as interval)"
    " + a.sdk_app_id %% 60000 * interval '1 ms')"
)
_FAILS = "({n} > 0 and (a.sdk_app_id * 7919 + {n} * 104729) %% 200 = 0)"

_APPS = f"""
insert into attr_audit.app (region, sdk_app_id, app_group, api, first_polled_at, last_polled_at,
                            last_outcome, conn_id)
select a.region, a.sdk_app_id, a.app_group, 'all_member_push', {_SENT.format(n=0)},
       {_SENT.format(n=0)}, 'ok', 'im_' || a.sdk_app_id
  from (select (array['china', 'singapore', 'seoul', 'frankfurt', 'silicon_valley'])[1 + i %% 5]
               as region, 1400000000 + i as sdk_app_id, coalesce(%(group)s, 'group ' || i / 5)
               as app_group
          from generate_series(%(from)s, %(to)s) i) a
"""

POLLS = f"""
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_info, vendor_date)
select conn_id, region, sdk_app_id, api, %(run)s || n, 1, t, t, t + interval '0.1 s',
       case when fails then 'unavailable' else 'ok' end, 1, case when fails then 502 else 200 end,
       case when fails then 'HTTP 502' end, t
  from (select a.*, n, {_SENT.format(n="n")} as t, {_FAILS.format(n="n")} as fails
          from generate_series(%(n)s, %(last)s) n, attr_audit.app a
         where a.sdk_app_id between 1400000000 + %(from)s and 1400000000 + %(to)s) p
"""

# The columns of a change that its app's poll n gives.
_OF_POLL = """
  join attr_audit.poll q
    on q.region = p.region and q.sdk_app_id = p.sdk_app_id and q.requested_at = p.sent
   and q.requested_at between %(hour)s and cast(%(hour)s as timestamptz) + interval '1 hour'
"""
_BASELINES = f"""
insert into attr_audit.change (region, sdk_app_id, slot, new_name, is_baseline, seen_at, answer,
                               poll_id, dag_run_id)
select p.region, p.sdk_app_id, slot, 'attribute ' || slot, true, q.responded_at, %(answer)s,
       q.poll_id, q.dag_run_id
  from (select a.region, a.sdk_app_id, {_SENT.format(n=0)} as sent
          from attr_audit.app a
         where a.sdk_app_id between 1400000000 + %(from)s and 1400000000 + %(to)s) p
  {_OF_POLL}
 cross join generate_series(0, 9) slot
 order by p.region, p.sdk_app_id, slot;
update attr_audit.app a
   set first_ok_at = {_SENT.format(n=0)} + interval '0.1 s', last_ok_at = {_SENT.format(n=0)},
       ok_api = api
 where a.sdk_app_id between 1400000000 + %(from)s and 1400000000 + %(to)s;
"""
PICKED = """
create temporary table if not exists picked (
    region text, sdk_app_id bigint, slot smallint, sent timestamptz, sent_before timestamptz)
"""

CHANGES = f"""
truncate picked;
insert into picked
select a.region, a.sdk_app_id, r.slot, {_SENT.format(n="%(n)s")},
       case when {_FAILS.format(n="(%(n)s - 1)")} then {_SENT.format(n="(%(n)s - 2)")}
            else {_SENT.format(n="(%(n)s - 1)")} end
  from (select distinct 1400000000 + %(from)s
                        + floor(random() * (%(to)s - %(from)s + 1))::bigint as sdk_app_id,
               floor(random() * 10)::smallint as slot
          from generate_series(1, %(count)s)) r
  join attr_audit.app a using (sdk_app_id)
 where not {_FAILS.format(n="%(n)s")};
analyze picked;
update attr_audit.app a
   set last_ok_at = p.sent_before
  from picked p
 where a.region = p.region and a.sdk_app_id = p.sdk_app_id and a.last_ok_at < p.sent_before;
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, answer, poll_id, dag_run_id)
select p.region, p.sdk_app_id, p.slot, s.name,
       case when s.name is null or random() < 0.9
            then 'attribute ' || p.slot || ' version ' || %(n)s end,
       false, p.sent_before, q.responded_at, %(answer)s, q.poll_id, q.dag_run_id
  from picked p
  {_OF_POLL}
  left join attr_audit.snapshot s
    on s.region = p.region and s.sdk_app_id = p.sdk_app_id and s.slot = p.slot
 order by p.region, p.sdk_app_id, p.slot;
"""

_DONE = f"""
update attr_audit.app a
   set last_ok_at = {_SENT.format(n="l.n")}, last_polled_at = {_SENT.format(n="%(n)s")},
       last_poll_ended_at = {_SENT.format(n="%(n)s")} + interval '0.1 s',
       last_outcome = case when l.n = %(n)s then 'ok' else 'unavailable' end
  from (select b.region, b.sdk_app_id,
               case when {_FAILS.format(n="%(n)s").replace("a.", "b.")} then %(n)s - 1
                    else %(n)s end as n
          from attr_audit.app b) l
 where a.region = l.region and a.sdk_app_id = l.sdk_app_id
   and a.sdk_app_id between 1400000000 + %(from)s and 1400000000 + %(to)s
"""

ANSWER = (
    '{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"AttrNames":{'
    + ",".join(f'"{slot}":"attribute {slot} version 100"' for slot in range(SLOTS))
    + "}}"
)


@dataclass(frozen=True)
class Apps:
    """Some apps that are polled at the same times: numbers, first poll, time between, how often."""

    first_number: int
    last_number: int
    first: str
    apart: timedelta
    polls: int
    changes_per_poll: int
    group: str | None = None

    def values(self, n: int) -> dict[str, Any]:
        """What the statements need for poll n."""
        at = datetime.fromisoformat(f"{self.first}T00:00+00:00") + n * self.apart
        return {
            "from": self.first_number,
            "to": self.last_number,
            "first": f"{self.first} 00:00Z",
            "apart": self.apart,
            "group": self.group,
            "run": f"{self.group or 'scheduled'}__",
            "count": self.changes_per_poll,
            "answer": ANSWER,
            "n": n,
            "last": n,
            "hour": at.isoformat(),
        }


def all_apps(size: Size) -> list[Apps]:
    """Every app in hourly polls, and one group as `make run` polls it, over a quarter."""
    hourly = Apps(1, size.apps, FIRST, timedelta(hours=1), size.hours, size.changes_per_hour)
    numbers = (size.apps + 1, size.apps + APPS_OF_THE_QUARTER)
    quarter = Apps(*numbers, QUARTER[0], timedelta(minutes=15), 92 * 96, 1, group="quarter")
    return [hourly, quarter]


def fill(server: EmbeddedPostgres, database: str, size: Size) -> None:
    """The given number of polls and changes, through the triggers of the product."""
    with server.connect(database) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("select setseed(0.4)")
        # app.last_ok_at moves only for the apps that change: that would show gaps.
        cursor.execute("alter table attr_audit.app disable trigger note_gap")
        cursor.execute("set role attr_audit_owner")
        cursor.execute(
            "select attr_audit_internal.create_poll_partition(m::date) from generate_series("
            "date %s, now(), '1 month') m",
            (QUARTER[0],),
        )
        cursor.execute("reset role")
        for apps in all_apps(size):
            _fill_apps(cursor, apps)
        cursor.execute("alter table attr_audit.app enable trigger note_gap")
        cursor.execute(
            "delete from attr_audit_internal.noted_gap; delete from attr_audit_internal.gaps_noted"
        )
        with timed("vacuum, analyze"):
            cursor.execute("vacuum analyze")
        with timed("gaps"):
            cursor.execute("select attr_audit_internal.note_earlier_gaps()")
        cursor.execute("analyze attr_audit_internal.noted_gap")


def _fill_apps(cursor: Any, apps: Apps) -> None:
    cursor.execute(_APPS, apps.values(0))
    with timed(f"{apps.polls:,} polls each"):
        for n in range(0, apps.polls, 10):
            last = min(n + 9, apps.polls - 1)
            cursor.execute(POLLS, {**apps.values(n), "last": last})
    cursor.execute("analyze attr_audit.poll, attr_audit.app")
    cursor.execute(_BASELINES, apps.values(0))
    cursor.execute(PICKED)
    with timed("changes"):
        for n in range(1, apps.polls, 1 if apps.group is None else 24):
            cursor.execute(CHANGES, apps.values(n))
            if n % 20 == 0:  # what autovacuum would do in the meantime
                cursor.execute("vacuum attr_audit.snapshot, attr_audit.app")
    cursor.execute(_DONE, apps.values(apps.polls - 1))


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
