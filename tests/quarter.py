"""A scripted quarter: what docs/bi.md, sql/questions and bi/ are tested and shown on.

Hourly runs from 25 March to 2 July 2026 (UTC). `quarter` records them through the product's store.
`seen`, `rows` and `changes` derive from the script alone what a right record holds: they replay
what the polls saw. They use no SQL and none of the code that records or judges a poll. Of the
product they use plain values only: the key of an app, the outcome and code of a scripted failure.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Rejected, Unavailable
from im_attr_audit.evidence.note import new_signer
from im_attr_audit.evidence.witnesses import open_witness
from im_attr_audit.record.declarations import note_stale_after, record_declaration
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.seals.sealing import make_checkpoint
from im_attr_audit.record.store import record_polls
from psycopg2.extras import execute_values
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.history import NamesLike, polled
from tests.story import ScriptedRun, Story, date_rows, make_partitions, record


def day(month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    """A time of 2026 in UTC."""
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


BEGIN, END = day(3, 25), day(7, 2)

FRANKFURT = AppKey("frankfurt", 1400000001)
SINGAPORE = AppKey("singapore", 1400000002)
SEOUL = AppKey("seoul", 1400000003)
TOKYO = AppKey("tokyo", 1400000004)
LOYALTY = AppKey("frankfurt", 1400000011)
CHINA = AppKey("china", 1400000012)
JAKARTA = AppKey("jakarta", 1400000013)
MUMBAI = AppKey("mumbai", 1400000099)
SILICON_VALLEY = AppKey("silicon_valley", 1400000005)

_SHOP = {0: "sex", 1: "city", 2: "Membership level"}
_SHOP_TYPED = {0: ("sex", 0), 1: ("city", 0), 2: ("Membership level", 0)}
_LATIN, _CYRILLIC = "sex", "s\u0435x"

STORY = Story(
    begin=BEGIN,
    end=END,
    listed={
        **dict.fromkeys(
            (FRANKFURT, SINGAPORE, SEOUL, TOKYO, LOYALTY, CHINA, JAKARTA, SILICON_VALLEY),
            ((BEGIN, END),),
        ),
        MUMBAI: ((day(6, 14, 9), END),),  # its key is wrong for a day
    },
    answers={
        FRANKFURT: (
            (BEGIN, _SHOP),
            (day(5, 12, 8, 20), {**_SHOP, 2: "Tier"}),  # for 29 hours, within a campaign
            (day(5, 13, 13, 20), _SHOP),
            (day(6, 3, 10, 20), {**_SHOP, 2: "Tier"}),  # and once more, for 21 hours
            (day(6, 4, 7, 20), _SHOP),
            (day(6, 22, 14, 45), {**_SHOP, 0: _CYRILLIC}),
        ),
        SINGAPORE: ((BEGIN, _SHOP), (day(4, 20, 10, 40), {**_SHOP, 2: "membership level"})),
        SEOUL: (
            (BEGIN, _SHOP),
            (day(6, 8, 5, 50), {0: "sex", 1: "Membership level", 2: "city"}),  # to a lower slot
            (day(6, 8, 12, 50), _SHOP),
        ),
        TOKYO: ((BEGIN, _SHOP),),
        SILICON_VALLEY: (
            (BEGIN, _SHOP),
            (day(6, 15, 6, 40), {0: "sex", 1: "city"}),
            (day(6, 17), _SHOP_TYPED),  # another source, see apis: back in a baseline
            (day(6, 24, 9, 30), {**_SHOP_TYPED, 2: ("Membership level", 1)}),  # another type
        ),
        LOYALTY: (
            (BEGIN, {0: "tier", 1: "points"}),
            (day(5, 1), {0: ("tier", 0), 1: ("points", 0)}),  # another source, see apis
        ),
        CHINA: (
            (BEGIN, {0: "tier", 1: "points"}),
            (day(6, 2, 9, 30), {0: "tier", 3: "points"}),  # moved to another slot
        ),
        JAKARTA: (
            (BEGIN, {0: "tier", 1: "points"}),
            (day(5, 18, 11, 10), {0: "level", 1: "points"}),
        ),
        MUMBAI: ((BEGIN, {0: "coupon"}),),
    },
    groups={
        **dict.fromkeys((FRANKFURT, SINGAPORE, SEOUL, TOKYO, SILICON_VALLEY), ((BEGIN, "shop"),)),
        **dict.fromkeys((LOYALTY, CHINA), ((BEGIN, "loyalty"),)),
        JAKARTA: ((BEGIN, "loyalty"), (day(6, 10), "coupons")),
        MUMBAI: ((BEGIN, "coupons"),),
    },
    apis={
        LOYALTY: ((BEGIN, "all_member_push"), (day(5, 1), "timpush")),
        SILICON_VALLEY: ((BEGIN, "all_member_push"), (day(6, 17), "timpush")),
    },
    failures=(
        (SEOUL, day(5, 6, 3), day(5, 6, 15), Unavailable("HTTP 502", http_status=502)),
        (
            MUMBAI,
            day(6, 14, 9),
            day(6, 15, 9),
            Rejected("not an administrator", http_status=200, error_code=90009),
        ),
        (SINGAPORE, day(6, 30, 18), END, Unavailable("no answer within 10 s")),
    ),
)

#: A second poll of a run, sent just before the first one had its answer: it is `late`. It sees the
#: names, and records nothing.
LATE, LATE_AT = TOKYO, day(5, 20, 10) + timedelta(seconds=0.05)

#: The campaigns of `shop` and `loyalty` go by these names.
DECLARED = """
groups:
  shop: {names: {0: sex, 1: city, 2: Membership level}}
  loyalty: {names: {0: tier, 1: points}}
"""
DECLARED_AT = day(5, 25)
SEALED_AT = (END, END + timedelta(hours=1))


# Recording it -----------------------------------------------------------------------------------


@functools.cache
def quarter(server: EmbeddedPostgres, template: str) -> str:
    """The name of a database in which the whole quarter is recorded; only to be read."""
    name = "scripted_quarter"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} template {template} strategy file_copy")
    make_partitions(server, name, *(day(month, 1) for month in range(3, 8)))
    writer = create_audit_engine(make_url(server.url(name, "attr_audit_writer")))
    for plain, runs in groupby(_marked(list(STORY.runs())), key=lambda marked: marked[0]):
        if plain:
            _insert_polls(server, name, [run for _, run in runs])
        else:
            for _, run in runs:
                record(writer, run)
    _record_late(writer)
    _declare(writer, server, name)
    writer.dispose()
    date_rows(server, name)
    _seal(server, name)
    return name


def _record_late(writer: Engine) -> None:
    """Recorded after everything else, by when newer polls of the app are known."""
    poll = polled(
        STORY.answer(LATE, LATE_AT),
        at=LATE_AT,
        region=LATE.region,
        sdk_app_id=LATE.sdk_app_id,
        app_group=STORY.group(LATE, LATE_AT),
    )
    record_polls(writer, [poll], dag_run_id="manual__2026-05-20", try_number=1)


def _declare(writer: Engine, server: EmbeddedPostgres, name: str) -> None:
    """`DECLARED` is in force from `DECLARED_AT`; only singapore's last good poll is too old.

    As the tasks do it, then dated as it would have been. What is stale goes by the present.
    """
    document = parse(DECLARED, "").declaration
    record_declaration(
        writer, document, source="a file", revision=None, text_digest=None, dag_run_id="scheduled"
    )
    note_stale_after(writer, datetime.now(UTC) - day(7, 1))
    with server.connect(name) as owner, owner.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.declaration set recorded_at = %s", (DECLARED_AT,))
        cursor.execute("update attr_audit_internal.declared_term set from_at = %s", (DECLARED_AT,))


def _seal(server: EmbeddedPostgres, name: str) -> None:
    """Everything is sealed at the end, and the idle hour after it.

    A poll has to be recorded before its seal: otherwise sealing refuses its date as false.
    """
    with server.connect(name) as owner, owner.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.poll set recorded_at = requested_at + interval '3 s'")
    sealer = create_audit_engine(make_url(server.url(name, "attr_audit_sealer")))
    signer = new_signer("example.com/audit")
    with tempfile.TemporaryDirectory() as folder:
        witness = open_witness(f"file:{folder}")
        for at in SEALED_AT:
            make_checkpoint(sealer, signer, [witness], now=lambda at=at: at)  # type: ignore[misc]
    sealer.dispose()
    with server.connect(name) as owner, owner.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        for n, at in enumerate(SEALED_AT):
            cursor.execute("update attr_audit.seal set sealed_at = %s where n = %s", (at, n))


def _marked(runs: list[ScriptedRun]) -> Iterator[tuple[bool, ScriptedRun]]:
    """Each run, and whether nothing happens in it nor in those beside it: most of them.

    Those are inserted as polls only. `record` then sees the run before anything happens, so that
    what it knows of the apps is what it would know had it recorded every run.
    """

    seen_in = [
        [
            (poll.app, poll.app_group, poll.api, [read.answer.names for read in poll.reads])
            for poll in run.polls
        ]
        for run in runs
    ]
    for number, run in enumerate(runs):
        here = seen_in[number]
        beside = seen_in[max(number - 1, 0) : number + 2]
        yield (len(beside) == 3 and beside == [here] * 3 and all(len(p[3]) == 1 for p in here)), run


def _insert_polls(server: EmbeddedPostgres, name: str, runs: list[ScriptedRun]) -> None:
    rows = [
        (poll.conn_id, *(poll.app or ()), poll.api, run.dag_run_id, *[poll.requested_at] * 3)
        for run in runs
        for poll in run.polls
    ]
    with server.connect(name, "attr_audit_writer") as writer, writer.cursor() as cursor:
        execute_values(cursor, _INSERT_POLLS, rows, _POLL, 1000)
        cursor.execute(
            _SEEN, {"at": runs[-1].time, "apps": [app.address for app in runs[-1].listed]}
        )


_INSERT_POLLS = """
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status)
values %s
"""
_SEEN = """
update attr_audit.app
   set last_polled_at = %(at)s, last_ok_at = %(at)s,
       last_poll_ended_at = %(at)s::timestamptz + interval '0.1 s'
 where region || '/' || sdk_app_id = any(%(apps)s)
"""
_POLL = "(%s, %s, %s, %s, %s, 1, %s, %s, %s::timestamptz + interval '0.1 s', 'ok', 1, 200)"


# What is true -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One good poll: its first request and answer, its last request, and the names with types."""

    asked: datetime
    arrived: datetime
    confirmed: datetime
    names: dict[int, str]
    types: dict[int, int | None]
    api: str
    run: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row that a right record holds of a slot; ``not_before`` is null for a baseline."""

    app: AppKey
    seq: int
    slot: int
    old: str | None
    new: str | None
    not_before: datetime | None
    seen_at: datetime
    run: str


@dataclass(frozen=True, slots=True)
class Change(Row):
    """One that is not a baseline."""

    not_before: datetime

    @property
    def kind(self) -> str:
        if self.old == self.new:
            return "retyped"
        return "added" if self.old is None else "removed" if self.new is None else "renamed"

    @property
    def group(self) -> str:
        return STORY.group(self.app, self.seen_at)


_TOOK, _APART = timedelta(seconds=0.1), timedelta(seconds=2)


@functools.cache
def seen(app: AppKey) -> tuple[Seen, ...]:
    """The app's good polls in order. A poll that finds something new reads twice."""
    polls: list[Seen] = []
    before: NamesLike | None = None
    for time in STORY.times():
        if not STORY.is_listed(app, time) or STORY.failure(app, time):
            continue
        answer = STORY.answer(app, time)
        said = {slot: (n, None) if isinstance(n, str) else n for slot, n in answer.items()}
        polls.append(
            Seen(
                asked=time,
                arrived=time + _TOOK,
                confirmed=time if answer == before else time + _APART,
                names={slot: name for slot, (name, _) in said.items()},
                types={slot: type_ for slot, (_, type_) in said.items()},
                api=STORY.api(app, time),
                run=f"scheduled__{time.isoformat()}",
            )
        )
        before = answer
    return tuple(polls)


@functools.cache
def rows(app: AppKey) -> tuple[Row, ...]:
    """Every row of the app by seq, baselines included.

    A baseline: the app's first good poll, a poll of another API, a type that was not known before.
    The script never leaves out a type that is known of a name.
    """
    found: list[Row] = []
    one: Seen | None = None
    for other in seen(app):
        names, types = (one.names, one.types) if one else ({}, {})
        for slot in sorted(names.keys() | other.names.keys()):
            old, new = names.get(slot), other.names.get(slot)
            had, has = types.get(slot), other.types.get(slot)
            assert old != new or had is None or has is not None
            if (old, had) == (new, has):
                continue
            row = (app, len(found) + 1, slot, old, new)
            if one is None or one.api != other.api or (old == new and had is None):
                found.append(Row(*row, None, other.arrived, other.run))
            else:
                found.append(Change(*row, one.confirmed, other.arrived, other.run))
        one = other
    return tuple(found)


@functools.cache
def changes() -> tuple[Change, ...]:
    """Every change but the baselines, in the order of seen_at, app and slot."""
    found = [row for app in STORY.listed for row in rows(app) if isinstance(row, Change)]
    return tuple(sorted(found, key=lambda change: (change.seen_at, change.app, change.slot)))


def head_seq(app: AppKey) -> int:
    """The number of the app's last row in change."""
    return len(rows(app))


def failed(app: AppKey) -> list[datetime]:
    """When polls of the app failed."""
    return [t for t in STORY.times() if STORY.is_listed(app, t) and STORY.failure(app, t)]
