"""Where the day of `tests.cluster.day` happens: apps, clocks, two servers, what is known."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cluster.moved_clock import Clocks, MovedPostgres

REGIONS = ("china", "singapore", "seoul", "frankfurt", "silicon_valley")
RUNS, APART, SLOTS = 96, timedelta(minutes=15), 10
AHEAD = timedelta(hours=1)
GAP = timedelta(minutes=40)

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
    def failed_over(self) -> int:
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
class Kept:
    """What is known to be true after so many runs, all of it: a day can be continued from it."""

    apps: list[App]
    runs: int
    month: datetime
    key: str
    #: What the vendor shows, set by nobody but the day.
    names: dict[App, dict[int, str]]
    oracles: dict[App, Any]
    random_: random.Random
    measured: list[Measured] = field(default_factory=list)
    #: When the request of the newest good poll arrived.
    good: dict[App, datetime] = field(default_factory=dict)
    #: Arrivals of two good polls in a row, and how many failed between them.
    gaps: dict[App, list[tuple[datetime, datetime, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failed: dict[App, int] = field(default_factory=lambda: defaultdict(int))
    events: list[dict[str, Any]] = field(default_factory=list)
    changes: int = 0
    judged_poll: int = 0
    pair: dict[str, Any] | None = None

    @property
    def begin(self) -> datetime:
        return self.month - self.runs // 2 * APART

    @property
    def end(self) -> datetime:
        return self.begin + (self.runs - 1) * APART


def new_day(count: int, runs: int) -> Kept:
    """A day that has not begun."""
    from im_attr_audit.evidence.note import new_signer

    from tests.oracle import AppOracle

    apps = [(REGIONS[i % len(REGIONS)], 1_400_000_001 + i) for i in range(count)]
    names = {slot: f"attribute {slot}" for slot in range(SLOTS)}
    return Kept(
        apps,
        runs,
        first_of_month(),
        new_signer("example.com/audit").secret_text(),
        {app: dict(names) for app in apps},
        {app: AppOracle() for app in apps},
        random.Random(19),
    )


@dataclass
class World:
    """What polls, records and answers, and what is known to be true."""

    kept: Kept
    clocks: Clocks
    pair: Any
    vendor: Any
    writer: Any
    owner: Any
    reader: Any
    sealer: Any
    signer: Any
    witness: Any

    def seal(self) -> None:
        from im_attr_audit.record.seals.sealing import make_checkpoint

        make_checkpoint(self.sealer, self.signer, [self.witness])

    def keep(self, file: Path) -> None:
        """Write down what is known, for a day that is stopped and continued."""
        self.kept.pair = self.pair.state()
        new = file.with_suffix(".new")
        new.write_bytes(pickle.dumps(self.kept))
        new.replace(file)


@contextlib.contextmanager
def opened(kept: Kept, folder: Path, clocks: Clocks, *, lasting: bool) -> Iterator[World]:
    """The world of a new day, or of one that is continued; in the end it is deleted or stopped."""
    from im_attr_audit import settings
    from im_attr_audit.evidence.note import read_signer
    from im_attr_audit.evidence.witnesses import open_witness
    from im_attr_audit.record.engine import create_audit_engine
    from sqlalchemy.engine import make_url

    from simulator.control import Simulator
    from simulator.records import NewApp
    from tests.cluster.pair import SETTINGS, Pair
    from tests.conftest import READER, SEALER, WRITER

    # Servers whose clock is set forward by a quarter of an hour would give each other up.
    waits = {"wal_sender_timeout": "0", "wal_receiver_timeout": "0"}
    written = {"fsync": "on", "max_wal_size": "1GB"}

    def server(directory: Path) -> MovedPostgres:
        made = MovedPostgres(directory, settings={**SETTINGS, **waits, **written})
        made.clock = clocks.database
        return made

    clocks.set(kept.begin + len(kept.measured) * APART - timedelta(minutes=5))
    with contextlib.ExitStack() as stack:
        pair = Pair(folder, server, kept.pair)
        stack.callback(pair.stop if lasting else pair.destroy)
        vendor = stack.enter_context(
            Simulator.start(folder / "vendor", regions=REGIONS, lasting=False)
        )
        assert isinstance(pair.primary, MovedPostgres)
        apart = abs(pair.primary.time() - datetime.now(UTC))
        assert apart < timedelta(seconds=1), f"the clocks are {apart} apart"
        vendor.add_apps(
            NewApp(*app, names, key=key_of(app[1]), settings={"rate_limit": None})
            for app, names in kept.names.items()
        )
        ids = connections_in_files(vendor, kept.apps, folder / "connections")
        stack.enter_context(mock.patch("im_attr_audit.tasks.Variable.get", listing(ids)))
        changed = {
            "AIRFLOW_CONN_IM_ATTR_AUDIT_DB": json.dumps(pair.connection(WRITER, "read-write")),
            settings.CONFIRM_SECONDS.name: "0.05",
        }
        stack.enter_context(mock.patch.dict(os.environ, changed))
        writer, reader, sealer = (pair.engine(r, "read-write") for r in (WRITER, READER, SEALER))
        owner = create_audit_engine(make_url(pair.owner_url()))
        for engine in (writer, owner, reader, sealer):
            stack.callback(engine.dispose)
        (folder / "seals").mkdir(exist_ok=True)
        witness = open_witness(f"file:{folder / 'seals'}")
        signer = read_signer(kept.key)
        yield World(kept, clocks, pair, vendor, writer, owner, reader, sealer, signer, witness)


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
    folder.mkdir(exist_ok=True)
    for begin in range(0, len(ids), 1_000):
        part = {name: found[name] for name in ids[begin : begin + 1_000]}
        (folder / f"{begin}.json").write_text(json.dumps(part))
    return ids


def key_of(number: int) -> str:
    return f"{number:064x}"


def listing(ids: Sequence[str]) -> Any:
    from im_attr_audit import settings

    text = json.dumps(ids)
    return lambda key, default=None: text if key == settings.CONN_IDS else default
