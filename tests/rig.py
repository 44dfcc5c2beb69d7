"""A sync from end to end: the real simulator, a real Postgres, and what must hold afterwards.

`Rig` runs rounds and keeps the targets. `Record` is the record as an outsider reads it; its
`check` recomputes everything that the database promises (the chain, the order of bounds) from the
rows alone, in Python.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count as counter
from typing import Any

from im_attr_audit.apps import AppKey
from im_attr_audit.record.store import Recorded
from im_attr_audit.sync import sync_apps
from im_attr_audit.tencent.target import Target, Unresolved, target_from_connection
from sqlalchemy import Engine, text

from simulator.control import Simulator
from simulator.records import LogEntry, Truth

Slots = Mapping[int, str]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """The rows of some apps, as the reader sees them, in each app's own order."""

    changes: tuple[Any, ...]
    snapshot: tuple[Any, ...]
    polls: tuple[Any, ...]
    apps: tuple[Any, ...]

    @classmethod
    def read(cls, engine: Engine, apps: Iterable[AppKey] | None = None) -> Record:
        """Everything, or only what is recorded of these apps; at one moment."""
        where, values = "", {}
        if apps is not None:
            where = "where (region, sdk_app_id) in (select * from unnest(cast(:regions as text[]), "
            where += "cast(:ids as bigint[])))"
            pairs = list(apps)
            values = {"regions": [r for r, _ in pairs], "ids": [i for _, i in pairs]}

        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:

            def rows(table: str, order: str) -> tuple[Any, ...]:
                statement = text(f"select * from attr_audit.{table} {where} order by {order}")
                return tuple(connection.execute(statement, values))

            return cls(
                changes=rows("change", "region, sdk_app_id, seq"),
                snapshot=rows("snapshot", "region, sdk_app_id, slot"),
                polls=rows("poll", "poll_id"),
                apps=rows("app", "region, sdk_app_id"),
            )

    def changes_of(self, app: AppKey) -> list[Any]:
        """One app's changes by seq."""
        return [c for c in self.changes if (c.region, c.sdk_app_id) == app]

    def polls_of(self, app: AppKey) -> list[Any]:
        """One app's polls in the order in which they were recorded."""
        return [p for p in self.polls if (p.region, p.sdk_app_id) == app]

    def names_of(self, app: AppKey) -> dict[int, str]:
        """One app's names as the snapshot has them."""
        return {s.slot: s.name for s in self.snapshot if (s.region, s.sdk_app_id) == app}

    def check(self) -> None:
        """Everything that must hold of any record at any moment, whatever happened."""
        self.check_names_and_chain()
        self._check_bounds()
        self._check_polls()

    def check_names_and_chain(self) -> None:
        """What must hold even where the database's clock jumped."""
        self._check_replay()
        self._check_chain()

    def _check_replay(self) -> None:
        replayed: dict[tuple[str, int, int], tuple[Any, ...]] = {}
        for change in self.changes:
            place = (change.region, change.sdk_app_id, change.slot)
            before = replayed.pop(place, (None, None))
            assert before[:2] == (change.old_name, change.old_type), change
            if change.new_name is not None:
                new = (change.new_name, change.new_type, change.not_before, change.seen_at)
                replayed[place] = new
        snapshot = {
            (s.region, s.sdk_app_id, s.slot): (s.name, s.attr_type, s.not_before, s.seen_at)
            for s in self.snapshot
        }
        assert replayed == snapshot
        for app in self.apps:
            key = (app.region, app.sdk_app_id)
            of_app = [s for s in self.snapshot if (s.region, s.sdk_app_id) == key]
            digest = _sha256([[s.slot, s.name, s.attr_type] for s in of_app])
            known = None if app.snapshot_digest is None else bytes(app.snapshot_digest)
            assert known == (None if app.first_ok_at is None else digest)

    def _check_chain(self) -> None:
        heads: dict[AppKey, tuple[int, bytes | None]] = {}
        for c in self.changes:
            seq, head = heads.get(AppKey(c.region, c.sdk_app_id), (0, None))
            assert c.seq == seq + 1
            prev = None if c.prev_hash is None else bytes(c.prev_hash)
            assert prev == head
            canonical = [
                *(c.change_id, c.region, c.sdk_app_id, c.seq, c.slot, c.old_name, c.new_name),
                *(c.old_type, c.new_type, c.is_baseline, _us(c.not_before), _us(c.seen_at)),
                *(c.answer, c.poll_id, c.dag_run_id, _us(c.recorded_at), _us(c.prior_ok_at)),
                *(_us(c.old_not_before), _us(c.old_seen_at), head and head.hex()),
            ]
            assert bytes(c.row_hash) == _sha256(canonical)
            heads[AppKey(c.region, c.sdk_app_id)] = (c.seq, bytes(c.row_hash))

    def _check_bounds(self) -> None:
        last: dict[tuple[str, int, int], datetime] = {}
        for change in self.changes:
            place = (change.region, change.sdk_app_id, change.slot)
            assert change.not_before is None or change.not_before <= change.seen_at
            # The bounds of a slot's changes follow one another and never cross.
            if place in last:
                assert last[place] <= (change.not_before or change.seen_at), change
            last[place] = change.seen_at

    def _check_polls(self) -> None:
        good = {p.poll_id for p in self.polls if p.outcome == "ok"}
        assert {c.poll_id for c in self.changes} <= good
        ended: dict[AppKey, datetime] = {}
        for poll in self.polls:
            app = AppKey(poll.region, poll.sdk_app_id)
            asked_before_an_end = app in ended and poll.requested_at < ended[app]
            if poll.outcome in ("ok", "unstable", "late"):
                assert (poll.outcome == "late") == asked_before_an_end, poll
            if poll.responded_at is not None:
                ended[app] = max(poll.responded_at, ended.get(app, poll.responded_at))


def _us(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // timedelta(microseconds=1)


def _sha256(content: list[Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(", ", ": "))
    return hashlib.sha256(text.encode()).digest()


def assert_chains_hold(engine: Engine) -> int:
    """The database's own word on every chain; how many rows it looked at."""
    with engine.connect() as connection:
        rows = connection.execute(text("select * from attr_audit.verify_chain()")).all()
    assert all(row.ok for row in rows)
    return sum(row.rows_checked for row in rows)


class Rig:
    """One simulator, one audit database (which may be exchanged), and apps with fresh numbers."""

    _numbers = counter(1_400_000_001)
    _runs = counter(1)

    def __init__(self, simulator: Simulator, engine: Engine) -> None:
        self.simulator = simulator
        self.engine = engine

    def add_app(self, region: str, names: Slots, **settings: Any) -> Target:
        """A new app at the simulator, and the target that polls it."""
        number = next(self._numbers)
        settings.setdefault("rate_limit", None)
        self.simulator.add_app(region, number, names, **settings)
        return self.target(region, number)

    def target(self, region: str, sdk_app_id: int, **extra: Any) -> Target:
        """A target made from the connection as it is now."""
        return target_of(
            f"im_{region}_{sdk_app_id}", self.simulator.connection_json(region, sdk_app_id, **extra)
        )

    def set_names(self, target: Target, names: Slots, **more: Any) -> datetime:
        """Make these the app's true names."""
        return self.simulator.set_names(target.region, target.sdk_app_id, names, **more)

    def fault(self, target: Target, *faults: str | Mapping[str, Any], times: int = 1) -> None:
        """Let the app's next answers go wrong, one by one."""
        self.simulator.schedule(faults, region=target.region, app=target.sdk_app_id, times=times)

    @classmethod
    def new_run(cls) -> str:
        """The id of a run that is not over yet."""
        return f"run {next(cls._runs)}"

    def sync(
        self,
        *targets: Target | Unresolved,
        run: str | None = None,
        try_number: int = 1,
        confirm_seconds: float = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> list[Recorded]:
        """One round; in a run of its own unless said."""
        return sync_apps(
            self.engine,
            targets,
            dag_run_id=run or self.new_run(),
            try_number=try_number,
            confirm_seconds=confirm_seconds,
            sleep=sleep,
        )

    def outcomes(self, *targets: Target | Unresolved, **more: Any) -> list[str]:
        """One round; what came of each target, in their order."""
        found = {recorded.conn_id: recorded.outcome for recorded in self.sync(*targets, **more)}
        return [found[target.conn_id] for target in targets]

    def record(self, *targets: Target) -> Record:
        """What is recorded of these apps, checked."""
        record = Record.read(self.engine, [app_of(target) for target in targets])
        record.check()
        return record

    def record_as_it_is(self, *targets: Target) -> Record:
        """What is recorded of these apps, where a clock jumped: its times need not be in order."""
        return Record.read(self.engine, [app_of(target) for target in targets])

    def history(self, target: Target, api: str | None = None) -> list[Truth]:
        """What was true of an app over time."""
        return self.simulator.history(target.region, target.sdk_app_id, api=api or target.api)


def target_of(conn_id: str, connection: Mapping[str, Any]) -> Target:
    """The target that a connection in Airflow's JSON form describes."""
    return target_from_connection(
        conn_id,
        login=connection["login"],
        password=connection["password"],
        host=connection["host"],
        port=connection["port"],
        extra=connection["extra"],
    )


def app_of(target: Target) -> AppKey:
    """What identifies a target's app."""
    return AppKey(target.region, target.sdk_app_id)


def brief(changes: Iterable[Any]) -> list[tuple[int, str, str | None, str | None]]:
    """(slot, kind, old name, new name) of each change."""
    return [(c.slot, c.kind, c.old_name, c.new_name) for c in changes]


def true_time(history: Sequence[Truth], slot: int, shown: datetime) -> datetime:
    """Since when the slot had been as it was in the truth that began at ``shown``."""
    since = shown
    value: Any = None
    for truth in reversed([t for t in history if t.since <= shown]):
        now = (truth.names.get(slot), truth.types.get(slot))
        if truth.since == shown:
            value = now
        elif now != value:
            break
        since = truth.since
    return since


def assert_changes_are_true(changes: Sequence[Any], history: Sequence[Truth]) -> None:
    """Every transition of the truth is there once, none is false, and lies within its bounds.

    For an app that was polled between any two changes of its truth, so every change was polled.
    """
    expected = []
    before: Truth | None = None
    for truth in history:
        old = before.names if before else {}
        for slot in sorted(old.keys() | truth.names.keys()):
            if old.get(slot) != truth.names.get(slot):
                expected.append((slot, old.get(slot), truth.names.get(slot), truth.since))
        before = truth
    assert [(c.slot, c.old_name, c.new_name) for c in changes] == [e[:3] for e in expected]
    for change, (*_, at) in zip(changes, expected, strict=True):
        assert change.is_baseline or change.not_before <= at, (change, at)
        assert at <= change.seen_at, (change, at)


def answered_names(entries: Iterable[LogEntry]) -> list[dict[int, str] | None]:
    """What each of these requests was truly answered."""
    return [entry.names for entry in entries]
