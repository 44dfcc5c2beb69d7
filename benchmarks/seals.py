"""Seals: what a checkpoint costs over new polls, and how fast `verify --checkpoints` reads."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.evidence.witnesses import Witness, open_witness
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.roles import SEALER, WRITER
from im_attr_audit.record.seal_checks import SealCheck
from im_attr_audit.record.seal_verify import check_seals
from im_attr_audit.record.sealing import make_checkpoint
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from benchmarks.measure import seconds
from benchmarks.record import ours
from benchmarks.server import fresh, postgres, settle
from benchmarks.world import World

_NAME = "bench_seals"
_APPS = 10_000


def measure(quick: bool) -> dict[str, Any]:
    """Seconds of a checkpoint, and rows a second, of 10,000 apps with a hundred changes a run."""
    runs, rounds = (2, 1) if quick else (8, 3)
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        fresh(server, _NAME)
        server.ensure_role(SEALER)
        writer = create_audit_engine(make_url(server.url(_NAME, WRITER)))
        sealer = create_audit_engine(make_url(server.url(_NAME, SEALER)))
        signer, witness = new_signer("example.com/bench"), open_witness(f"file:{folder}")
        world = World(_APPS, changes=100)
        # A poll that is recorded an hour after it was made is a finding.
        world.begin = datetime.now(UTC) - timedelta(minutes=45)
        ours(writer, world.polls(), "poll 0")
        make_checkpoint(sealer, signer, [witness])
        added, recording = [], []
        for number in range(1, runs + 1):
            world.advance()
            polls = world.polls()
            recording.append(seconds(functools.partial(ours, writer, polls, f"poll {number}")))
            # A checkpoint checks the whole record. What the new rows add is what is left.
            with_polls = seconds(lambda: make_checkpoint(sealer, signer, [witness]))
            idle = seconds(lambda: make_checkpoint(sealer, signer, [witness]))
            added.append(with_polls - idle)
        settle(server, _NAME)
        walls, processor, rows = _verify(sealer, signer, witness, rounds)
        writer.dispose()
        sealer.dispose()
    return {
        "apps": _APPS,
        "rows": rows,
        "recording": statistics.median(recording),
        "sealing": statistics.median(added),
        "rows_per_second": rows / statistics.median(walls),
        "rows_per_processor_second": rows / statistics.median(processor),
    }


def _verify(
    engine: Engine, signer: Signer, witness: Witness, rounds: int
) -> tuple[list[float], list[float], int]:
    """Seconds by the clock and on a processor, without the server's, and how many rows."""
    walls, processor, rows = [], [], 0
    for _ in range(rounds):
        began = time.process_time()
        found: list[SealCheck] = []
        walls.append(
            seconds(lambda: found.append(check_seals(engine, [witness], signer.verifier)[1]))  # noqa: B023
        )
        processor.append(time.process_time() - began)
        [check] = found
        assert check.findings == [], check.findings
        rows = check.rows
    return walls, processor, rows


def render(figures: Any) -> str:
    """The section of docs/performance.md."""
    return (
        f"### Seals\n\nOf {figures['apps']:,} apps, a checkpoint over as many new polls "
        f"takes **{figures['sealing']:.2f} s** more than one over none; recording them took "
        f"{figures['recording']:.2f} s. Of {figures['rows']:,} sealed rows, `verify --checkpoints` "
        f"checks **{figures['rows_per_second']:,.0f}** a second, and "
        f"{figures['rows_per_processor_second']:,.0f} for each second of its own processor time."
    )
