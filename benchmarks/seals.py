"""Seals: what a checkpoint costs over new polls, and how fast `verify --checkpoints` reads."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.evidence.witnesses import Witness, open_witness
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.seals.checks import SealCheck
from im_attr_audit.record.seals.sealing import make_checkpoint
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.upkeep.roles import SEALER, WRITER
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from benchmarks.measure import seconds
from benchmarks.record import ours
from benchmarks.server import fresh, postgres, settle
from benchmarks.world import World
from launch.postgres import EmbeddedPostgres

_NAME = "bench_seals"
APPS = 10_000
#: So many more polls of every app, as a run of each records them where nothing changed. The last
#: ones are copied.
MORE = """
set session_replication_role = replica;
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             recorded_at, head_seq)
select p.conn_id, p.region, p.sdk_app_id, p.api, 'scheduled__' || now() || n, 1, now(), now(),
       now(), 'ok', 1, 200, now(), p.head_seq
  from generate_series(1, %s) n,
       (select * from attr_audit.poll where poll_id > (select max(poll_id) - %s
                                                         from attr_audit.poll)) p
"""


@dataclass(frozen=True)
class Bench:
    """A record with its log, whose first seal is of one poll of each of `APPS` apps."""

    server: EmbeddedPostgres
    name: str
    writer: Engine
    sealer: Engine
    signer: Signer
    witness: Witness
    folder: str
    world: World

    def add(self, runs: int) -> None:
        """Copy the newest poll of each app so many times."""
        with self.server.connect(self.name) as connection, connection.cursor() as cursor:
            cursor.execute(MORE, (runs, APPS))

    def seal(self) -> None:
        """One checkpoint."""
        make_checkpoint(self.sealer, self.signer, [self.witness])


@contextlib.contextmanager
def first_sealed(name: str) -> Iterator[Bench]:
    """A database of that name, for as long as it is needed."""
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        fresh(server, name)
        server.ensure_role(SEALER)
        writer = create_audit_engine(make_url(server.url(name, WRITER)))
        sealer = create_audit_engine(make_url(server.url(name, SEALER)))
        signer, witness = new_signer("example.com/bench"), open_witness(f"file:{folder}")
        world = World(APPS, changes=100)
        # A poll that is recorded an hour after it was made is a finding.
        world.begin = datetime.now(UTC) - timedelta(minutes=45)
        ours(writer, world.polls(), "poll 0")
        bench = Bench(server, name, writer, sealer, signer, witness, folder, world)
        bench.seal()
        yield bench
        writer.dispose()
        sealer.dispose()


def measure(quick: bool) -> dict[str, Any]:
    """Seconds of a checkpoint, and rows a second, of 10,000 apps with a hundred changes a run."""
    runs, rounds = (2, 1) if quick else (8, 3)
    with first_sealed(_NAME) as bench:
        sealing, recording = [], []
        for number in range(1, runs + 1):
            bench.world.advance()
            polls = bench.world.polls()
            recording.append(
                seconds(functools.partial(ours, bench.writer, polls, f"poll {number}"))
            )
            sealing.append(seconds(bench.seal))
        for _ in range(1 if quick else 20):
            bench.add(5)
            bench.seal()
        settle(bench.server, _NAME)
        walls, rows = _verify(bench.sealer, bench.signer, bench.witness, rounds)
    return {
        "apps": APPS,
        "rows": rows,
        "processors": os.cpu_count(),
        "recording": statistics.median(recording),
        "sealing": statistics.median(sealing),
        "rows_per_second": rows / statistics.median(walls),
    }


def _verify(
    engine: Engine, signer: Signer, witness: Witness, rounds: int
) -> tuple[list[float], int]:
    """Seconds by the clock, and how many rows."""
    walls, rows = [], 0
    for _ in range(rounds):
        found: list[SealCheck] = []
        walls.append(
            seconds(lambda: found.append(check_seals(engine, [witness], signer.verifier)[1]))  # noqa: B023
        )
        [check] = found
        assert check.findings == [], check.findings
        rows = check.rows
    return walls, rows


def render(figures: Any) -> str:
    """The section of docs/performance.md."""
    return (
        f"### Seals\n\nOf {figures['apps']:,} apps, a checkpoint over as many new polls "
        f"takes **{figures['sealing']:.2f} s** in all; recording them took "
        f"{figures['recording']:.2f} s. Of {figures['rows']:,} sealed rows, `verify --checkpoints` "
        f"checks **{figures['rows_per_second']:,.0f}** a second, with the server on the same "
        f"{figures['processors']} processors."
    )
