"""The command `metrics`, and what `verify --result` leaves for Prometheus."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from im_attr_audit.commands import shared
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER

if TYPE_CHECKING:
    from im_attr_audit.record.gauges import Gauge


def add_metrics(commands: Any) -> None:
    """The parser of `metrics`."""
    metrics = commands.add_parser(
        "metrics",
        help="print the record's metrics for Prometheus, or serve them",
        description="Print what Prometheus scrapes: ages, failures, drift, violations and waiting "
        "alerts, by region and app group. Connects through the Airflow connection "
        f"{AUDIT_DB_READER}, or {AUDIT_DB}.",
    )
    metrics.add_argument(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        help="serve them at /metrics instead, until SIGTERM or Ctrl-C",
    )
    metrics.set_defaults(run=_metrics)


def _address(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError("write HOST:PORT, such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _metrics(given: argparse.Namespace) -> int:
    import signal

    from im_attr_audit.commands.exposition import exposition, served
    from im_attr_audit.record.gauges import PREFIX, read_gauges
    from im_attr_audit.settings import stale_after

    engine = shared.reader_engine()
    try:

        def read() -> list[Gauge]:
            return read_gauges(engine, stale_after())

        if given.listen is None:
            print(text := exposition(read), end="")
            return 0 if f"{PREFIX}up 1.0" in text else 2
        host, port = given.listen
        ending = {signal.SIGTERM, signal.SIGINT}
        # Before the server's threads are begun, which take the mask over.
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        with served(read, host, port) as port:
            print(f"Metrics at http://{host}:{port}/metrics", flush=True)
            signal.sigwait(ending)
        return 0
    finally:
        engine.dispose()


def write_result(file: Path, holds: bool, at: datetime) -> None:
    """Whether the record holds, and when that was checked, as metrics in a file.

    A reader never sees half of it.
    """
    from im_attr_audit.commands.exposition import verify_result

    making = file.with_name(f"{file.name}.making")
    making.write_text(verify_result(holds, at), encoding="utf-8")
    making.chmod(0o644)
    making.replace(file)
