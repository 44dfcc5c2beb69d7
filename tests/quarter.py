"""A scripted quarter: what docs/bi.md, sql/questions and bi/ are tested and shown on.

Hourly runs from 25 March to 2 July 2026 (UTC). `Truth` derives from the script alone what a right
answer is: it replays what the polls saw and uses none of the product's code and no SQL.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Rejected, Unavailable
from im_attr_audit.evidence.note import new_signer
from im_attr_audit.evidence.witnesses import open_witness
from im_attr_audit.record.declarations import note_stale_after, record_declaration
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.seals.sealing import make_checkpoint
from psycopg2.extras import execute_values
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.history import NamesLike
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

_SHOP = {0: "sex", 1: "city", 2: "Membership level"}
_LATIN, _CYRILLIC = "sex", "s\u0435x"

STORY = Story(
    begin=BEGIN,
    end=END,
    listed={
        **dict.fromkeys(
            (FRANKFURT, SINGAPORE, SEOUL, TOKYO, LOYALTY, CHINA, JAKARTA), ((BEGIN, END),)
        ),
        MUMBAI: ((day(6, 14, 9), END),),  # its key is wrong for a day
    },
    answers={
        FRANKFURT: (
            (BEGIN, _SHOP),
            (day(5, 12, 8, 20), {**_SHOP, 2: "Tier"}),  # for 29 hours, within a campaign
            (day(5, 13, 13, 20), _SHOP),
            (day(6, 22, 14, 45), {**_SHOP, 0: _CYRILLIC}),
        ),
        SINGAPORE: ((BEGIN, _SHOP), (day(4, 20, 10, 40), {**_SHOP, 2: "membership level"})),
        SEOUL: ((BEGIN, _SHOP),),
        TOKYO: ((BEGIN, _SHOP),),
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
        **dict.fromkeys((FRANKFURT, SINGAPORE, SEOUL, TOKYO), ((BEGIN, "shop"),)),
        **dict.fromkeys((LOYALTY, CHINA), ((BEGIN, "loyalty"),)),
        JAKARTA: ((BEGIN, "loyalty"), (day(6, 10), "coupons")),
        MUMBAI: ((BEGIN, "coupons"),),
    },
    apis={LOYALTY: ((BEGIN, "all_member_push"), (day(5, 1), "timpush"))},
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
    _declare(writer, server, name)
    writer.dispose()
    date_rows(server, name)
    _seal(server, name)
    return name


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
    """One good poll: its first request and answer, its last request, and the names."""

    asked: datetime
    arrived: datetime
    confirmed: datetime
    names: dict[int, str]
    api: str
    run: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change that a right record holds; ``seq`` counts the baselines too."""

    app: AppKey
    seq: int
    slot: int
    old: str | None
    new: str | None
    not_before: datetime
    seen_at: datetime
    run: str

    @property
    def kind(self) -> str:
        return "added" if self.old is None else "removed" if self.new is None else "renamed"

    @property
    def group(self) -> str:
        return STORY.group(self.app, self.seen_at)


_TOOK, _APART = timedelta(seconds=0.1), timedelta(seconds=2)


def _plain(names: NamesLike) -> dict[int, str]:
    return {slot: said if isinstance(said, str) else said[0] for slot, said in names.items()}


@functools.cache
def seen(app: AppKey) -> tuple[Seen, ...]:
    """The app's good polls in order. A poll that finds something new reads twice."""
    polls: list[Seen] = []
    before: NamesLike | None = None
    for time in STORY.times():
        if not STORY.is_listed(app, time) or STORY.failure(app, time):
            continue
        answer = STORY.answer(app, time)
        confirmed = time if answer == before else time + _APART
        run = f"scheduled__{time.isoformat()}"
        api = STORY.api(app, time)
        polls.append(Seen(time, time + _TOOK, confirmed, _plain(answer), api, run))
        before = answer
    return tuple(polls)


@functools.cache
def changes() -> tuple[Change, ...]:
    """Every change but the baselines, in the order of seen_at, app and slot."""
    found = []
    for app in STORY.listed:
        seq = len(seen(app)[0].names)
        for one, other in pairwise(seen(app)):
            differing = [
                slot
                for slot in sorted(one.names.keys() | other.names.keys())
                if one.names.get(slot) != other.names.get(slot)
            ]
            if one.api != other.api:
                seq += len(other.names)  # every slot's type is new: a baseline each
                assert not differing
            for slot in differing:
                seq += 1
                old, new = one.names.get(slot), other.names.get(slot)
                found.append(
                    Change(app, seq, slot, old, new, one.confirmed, other.arrived, other.run)
                )
    return tuple(sorted(found, key=lambda change: (change.seen_at, change.app, change.slot)))


def head_seq(app: AppKey) -> int:
    """The number of the app's last row in change."""
    baselines = len(seen(app)[0].names) + (2 if app == LOYALTY else 0)
    return baselines + sum(change.app == app for change in changes())


def failed(app: AppKey) -> list[datetime]:
    """When polls of the app failed."""
    return [t for t in STORY.times() if STORY.is_listed(app, t) and STORY.failure(app, t)]
