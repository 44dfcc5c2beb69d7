"""The record's gauges in Prometheus' text form: printed once, or served to a scraper.

Where the database cannot be read there is ``im_attr_audit_up 0`` and nothing else: an old number
would report that nothing has changed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client import Gauge as PromGauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.gauges import PREFIX, Gauge, verify_gauges

log = logging.getLogger(__name__)

#: Gives the record's gauges; raises AttrAuditError where it cannot be read.
Read = Callable[[], Sequence[Gauge]]


class RecordCollector:
    """Reads the record each time it is scraped, one scrape at a time."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._one_at_a_time = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The metrics; `up` alone where the record cannot be read."""
        gauges: Sequence[Gauge] = ()
        up = False
        try:
            with self._one_at_a_time:
                gauges = self._read()
            up = True
        except AttrAuditError as error:
            log.error("%s", error)
        yield GaugeMetricFamily(
            PREFIX + "up", "Whether the record could be read just now.", value=float(up)
        )
        for gauge in gauges:
            family = CounterMetricFamily if gauge.only_grows else GaugeMetricFamily
            metric = family(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples:
                metric.add_metric(labels, value)
            yield metric


def exposition(read: Read) -> str:
    """All metrics in Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RecordCollector(read))
    return generate_latest(registry).decode("utf-8")


def verify_result(holds: bool, at: datetime) -> str:
    """What `verify` found, in Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    for gauge in verify_gauges(holds, at):
        [(_, value)] = gauge.samples
        PromGauge(gauge.name, gauge.help, registry=registry).set(value)
    return generate_latest(registry).decode("utf-8")


@contextmanager
def served(read: Read, host: str, port: int) -> Iterator[int]:
    """Serve them at ``/metrics`` until the block ends; gives the port. OSError: it is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RecordCollector(read))
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
