"""A scripted week, recorded through the store: what views, queries and docs are shown on.

Hourly runs from Wednesday 2026-10-28 to Tuesday 2026-11-03 (UTC), the clocks of New York going back
in the middle of it. Nothing in it is random, so every right answer can be written down.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Misconfigured, PollFailed, Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.rules import Poll
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.record.store import record_polls
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.history import NamesLike, names, polled

T = TypeVar("T")

BEGIN = datetime(2026, 10, 28, tzinfo=UTC)
END = datetime(2026, 11, 4, tzinfo=UTC)

FRANKFURT = AppKey("frankfurt", 1400000001)
SINGAPORE = AppKey("singapore", 1400000002)
SEOUL = AppKey("seoul", 1400000003)
LOYALTY = AppKey("frankfurt", 1400000011)
CHINA = AppKey("china", 1400000012)
JAKARTA = AppKey("jakarta", 1400000013)
MUMBAI = AppKey("mumbai", 1400000099)

GROUPS = {
    FRANKFURT: "shop",
    SINGAPORE: "shop",
    SEOUL: "shop",
    LOYALTY: "loyalty",
    CHINA: "loyalty",
    JAKARTA: "coupons",
    MUMBAI: "coupons",
}


def at(day: int, hour: int = 0, minute: int = 0, second: float = 0) -> datetime:
    """A time of the week: days 28 to 31 are October's, 1 to 4 November's."""
    month = 10 if day > 20 else 11
    return datetime(2026, month, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)


#: From when on an app is polled, and from when on no longer.
LISTED: Mapping[AppKey, tuple[tuple[datetime, datetime], ...]] = {
    FRANKFURT: ((BEGIN, END),),
    SINGAPORE: ((BEGIN, END),),
    SEOUL: ((at(31), END),),  # a region added later
    LOYALTY: ((BEGIN, END),),
    CHINA: ((BEGIN, at(29, 12)), (at(31, 12), END)),  # retired, and back
    JAKARTA: ((BEGIN, at(2, 12)),),  # retired for good
    MUMBAI: ((at(2), END),),  # refused from the first day on
}

#: What an app answers, from when on; truly, whether or not somebody looks.
ANSWERS: Mapping[AppKey, tuple[tuple[datetime, NamesLike], ...]] = {
    FRANKFURT: (
        (BEGIN, {0: "sex", 1: "city", 2: "Membership level"}),
        (at(29, 9, 30), {0: "sex", 1: "city", 2: "Tier"}),
        (at(1, 4, 30), {0: "sex", 1: "city", 2: "Tier", 3: "birthday"}),
        (at(2, 19, 30), {0: "sex", 1: "city", 2: "Tier"}),
    ),
    SINGAPORE: (
        (BEGIN, {0: "sex", 1: "city", 2: "Membership level"}),
        (at(29, 13, 30), {0: "sex", 1: "city", 2: "Tier"}),
        (at(30, 5, 30), {0: "sex", 1: "region", 2: "Tier"}),  # while nobody could look
    ),
    SEOUL: (
        (at(31), {0: "sex", 1: "city", 2: "Membership level"}),
        (at(1, 6, 30), {0: "", 1: "city", 2: "Membership level"}),  # an empty name is a name
        (at(1, 7, 30), {0: "gender", 1: "city", 2: "Membership level"}),
    ),
    LOYALTY: (
        (BEGIN, {0: "tier", 1: "points"}),
        (at(30), {0: ("tier", 0), 1: ("points balance", 0)}),  # another source, see API
        (at(3, 9, 30), {}),
        (at(3, 10, 30), {0: ("tier", 0), 1: ("points balance", 0)}),
    ),
    CHINA: (
        (BEGIN, {0: "tier", 1: "points"}),
        (at(30, 12), {0: "tier", 1: "credits"}),  # while it was not listed
    ),
    JAKARTA: ((BEGIN, {0: "coupon"}),),
}

#: Polls that fail, from when to when.
FAILURES: tuple[tuple[AppKey, datetime, datetime, PollFailed], ...] = (
    (SINGAPORE, at(30, 2), at(30, 9), Unavailable("HTTP 502", http_status=502)),
    (SEOUL, at(3, 18), END, Unavailable("no answer within 10 s")),
    (
        MUMBAI,
        at(2),
        END,
        Rejected("not an administrator", http_status=200, error_code=90009, error_info="no admin"),
    ),
)


@dataclass(frozen=True, slots=True)
class ScriptedRun:
    """One hourly run: its id, what it polled, and what the Variable listed."""

    dag_run_id: str
    time: datetime
    polls: tuple[Poll, ...]
    listed: tuple[AppKey, ...]


Spans = tuple[tuple[datetime, datetime], ...]
Failure = tuple[AppKey, datetime, datetime, PollFailed]


@dataclass(frozen=True)
class Story:
    """A script of hourly runs, and what it says is true at a time.

    ``listed``: from when on an app is polled, and from when on no longer. ``answers``: what it
    answers, truly, whether or not a poll sees it. ``groups`` and ``apis``: the same.
    """

    begin: datetime
    end: datetime
    listed: Mapping[AppKey, Spans]
    answers: Mapping[AppKey, tuple[tuple[datetime, NamesLike], ...]]
    groups: Mapping[AppKey, tuple[tuple[datetime, str], ...]]
    apis: Mapping[AppKey, tuple[tuple[datetime, str], ...]]
    failures: tuple[Failure, ...] = ()
    broken: Spans = ()

    def times(self) -> Iterator[datetime]:
        """When the runs are."""
        time = self.begin
        while time < self.end:
            yield time
            time += timedelta(hours=1)

    def is_listed(self, app: AppKey, time: datetime) -> bool:
        return any(begin <= time < end for begin, end in self.listed[app])

    def failure(self, app: AppKey, time: datetime) -> PollFailed | None:
        for failing, begin, end, failure in self.failures:
            if failing == app and begin <= time < end:
                return failure
        return None

    def answer(self, app: AppKey, time: datetime) -> NamesLike:
        return _since(self.answers[app], time)

    def group(self, app: AppKey, time: datetime) -> str:
        return _since(self.groups[app], time)

    def api(self, app: AppKey, time: datetime) -> str:
        return _since(self.apis.get(app, ()), time, "all_member_push")

    def runs(self) -> Iterator[ScriptedRun]:
        """The runs in order."""
        answered_before: dict[AppKey, Mapping[int, AttrName]] = {}
        for time in self.times():
            listed = tuple(app for app in self.listed if self.is_listed(app, time))
            polls = []
            for app in listed:
                failure = self.failure(app, time)
                answers: tuple[NamesLike, ...] = ()
                if failure is None:
                    answer = self.answer(app, time)
                    # A second read where the first says something new, as the sync does it.
                    differs = answered_before.get(app) != names(answer)
                    answers = (answer, answer) if differs else (answer,)
                    answered_before[app] = names(answer)
                polls.append(
                    polled(
                        *answers,
                        at=time,
                        region=app[0],
                        sdk_app_id=app[1],
                        app_group=self.group(app, time),
                        api=self.api(app, time),
                        failure=failure,
                    )
                )
            if any(begin <= time < end for begin, end in self.broken):
                polls.append(_broken_connection(time))
            yield ScriptedRun(f"scheduled__{time.isoformat()}", time, tuple(polls), listed)


def _since(dated: tuple[tuple[datetime, T], ...], time: datetime, default: T | None = None) -> T:
    """The last of the dated values that has begun."""
    begun = [value for since, value in dated if since <= time]
    found = begun[-1] if begun else default
    assert found is not None
    return found


WEEK = Story(
    begin=BEGIN,
    end=END,
    listed=LISTED,
    answers=ANSWERS,
    groups={app: ((BEGIN, group),) for app, group in GROUPS.items()},
    apis={LOYALTY: ((BEGIN, "all_member_push"), (at(30), "timpush"))},
    failures=FAILURES,
    broken=((at(3), at(3, 3)),),
)


def record(engine: Engine, run: ScriptedRun) -> None:
    """What plan and sync do of one run, as the writer."""
    retire_apps(engine, listed=run.listed, unresolved=())
    record_polls(engine, run.polls, dag_run_id=run.dag_run_id, try_number=1)


@functools.cache
def week(server: EmbeddedPostgres, template: str) -> str:
    """The name of a database in which the whole week is recorded; only to be read."""
    name = "scripted_week"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} template {template} strategy file_copy")
    make_partitions(server, name, BEGIN, END)
    writer = create_audit_engine(make_url(server.url(name, "attr_audit_writer")))
    for run in WEEK.runs():
        record(writer, run)
    writer.dispose()
    date_rows(server, name)
    return name


def date_rows(server: EmbeddedPostgres, name: str) -> None:
    """Date the rows as a real record's are, whenever the story is recorded."""
    owner = create_audit_engine(make_url(server.url(name)))
    with owner.begin() as transaction:
        transaction.execute(text(_AT_FIXED_TIMES))
        transaction.execute(text("analyze"))
    owner.dispose()


def make_partitions(server: EmbeddedPostgres, name: str, *days: datetime) -> None:
    """poll's partitions for the months of these days, which lie in the past."""
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute("set role attr_audit_owner")
        cursor.execute(
            "select attr_audit_internal.create_poll_partition(m) from unnest(%s::date[]) m",
            ([day.date() for day in days],),
        )


# The database stamps recorded_at with its own clock. For outputs that are the same every time, the
# week's rows are dated as they would have been, and the chain is formed again: what the owner
# of the tables could do to a real record, and what witnessed heads are for.
_AT_FIXED_TIMES = """
alter table attr_audit.change disable trigger user;
update attr_audit.change set recorded_at = seen_at + interval '3 seconds';
do $$
declare
    c    attr_audit.change;
    head record;
begin
    for c in select * from attr_audit.change order by region, sdk_app_id, seq loop
        select h.row_hash into head from attr_audit.change h
         where h.region = c.region and h.sdk_app_id = c.sdk_app_id and h.seq = c.seq - 1;
        c.prev_hash := head.row_hash;
        update attr_audit.change
           set prev_hash = c.prev_hash,
               row_hash = sha256(convert_to(attr_audit_internal.change_canonical(c), 'UTF8'))
         where change_id = c.change_id;
    end loop;
end $$;
alter table attr_audit.change enable trigger user;
"""


def _broken_connection(time: datetime) -> Poll:
    """A connection that does not identify its app."""
    return Poll(
        conn_id="im_tokyo",
        region=None,
        sdk_app_id=None,
        app_group=None,
        api=None,
        requested_at=time,
        failure=Misconfigured("Connection im_tokyo: extra region is missing. Set it."),
    )
