"""The audit's metrics through Airflow's own stats: StatsD, StatsD with tags, or OpenTelemetry.

A metric that cannot be sent is one line in the log. It fails no task and hides no result.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from im_attr_audit.errors import AttrAuditError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from im_attr_audit.record.gauges import Gauge
    from im_attr_audit.record.store import Recorded

log = logging.getLogger(__name__)

#: Airflow puts its own prefix before it, `airflow.` unless it is configured.
PREFIX = "im_attr_audit."
#: The longest that one query for a gauge may keep a run.
QUERY_SECONDS = 20


def send_polls(recorded: Sequence[Recorded]) -> None:
    """What a try of `sync` polled: polls, changes, and the time of each call to the vendor.

    Each call is one timing: a sum or mean per try would have no percentiles. For a
    task's 250 apps that is 250 datagrams, or one histogram.
    """
    with _one_line_if_it_fails():
        from airflow.sdk.observability import stats

        polls = Counter((poll.region or "unknown", poll.outcome) for poll in recorded)
        for (region, outcome), count in polls.items():
            tags = {"region": region, "outcome": outcome}
            stats.incr(PREFIX + "polls", count=count, tags=tags)
        changes: Counter[str] = Counter()
        for poll in recorded:
            if poll.region:
                changes[poll.region] += poll.changes
        for region, count in changes.items():
            stats.incr(PREFIX + "changes", count=count, tags={"region": region})
        for poll in recorded:
            tags = {"region": poll.region or "unknown", "outcome": poll.outcome}
            for call in poll.calls:
                stats.timing(PREFIX + "call_duration", call, tags=tags)


def send_gauges(engine: Engine) -> None:
    """What Prometheus reads of the record, as it is now; nothing is read where it goes nowhere."""
    with _one_line_if_it_fails():
        if (keeps_labels := _keeps_labels()) is None:
            return
        from im_attr_audit.record.gauges import read_gauges
        from im_attr_audit.settings import stale_after

        _send(read_gauges(engine, stale_after(), seconds=QUERY_SECONDS), keeps_labels)


def send_verify_result(holds: bool, at: datetime) -> None:
    """What `verify` found, and when; from a process that is not a task."""
    with _one_line_if_it_fails():
        if (keeps_labels := _keeps_labels()) is None:
            log.warning("Metrics were not sent: no [metrics] option of Airflow turns them on.")
            return
        from airflow.sdk.observability import stats
        from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

        from im_attr_audit.record.gauges import verify_gauges

        stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
        _send(verify_gauges(holds, at), keeps_labels)


def _send(gauges: Sequence[Gauge], keeps_labels: bool) -> None:
    """Without labels, each sample would replace the one before it: one number of all is sent."""
    from airflow.sdk.observability import stats

    from im_attr_audit.record import gauges as record

    for gauge in gauges:
        # `sync` counts what only grows. A gauge with that name would be another metric.
        if gauge.only_grows or gauge.misleads_when_old or not gauge.samples:
            continue
        name = PREFIX + gauge.name.removeprefix(record.PREFIX)
        if keeps_labels:
            for labels, value in gauge.samples:
                tags = dict(zip(gauge.labels, labels, strict=True))
                stats.gauge(name, value, tags=tags)
        else:
            stats.gauge(name, gauge.overall(value for _, value in gauge.samples))


def _keeps_labels() -> bool | None:
    """Whether what Airflow sends keeps its tags; None where it sends nothing.

    Where several are turned on, Airflow takes the first one in this order.
    """
    from airflow.sdk.configuration import conf

    if conf.getboolean("metrics", "statsd_datadog_enabled"):
        return bool(conf.getboolean("metrics", "statsd_datadog_metrics_tags", fallback=True))
    if conf.getboolean("metrics", "statsd_on"):
        return bool(conf.getboolean("metrics", "statsd_influxdb_enabled", fallback=False))
    return True if conf.getboolean("metrics", "otel_on") else None


@contextmanager
def _one_line_if_it_fails() -> Iterator[None]:
    try:
        yield
    except AttrAuditError as error:
        log.warning("Metrics were not sent: %s", error)
    except Exception as error:
        from im_attr_audit.messages.report import one_line

        cause = f"{type(error).__name__}: {one_line(str(error))}"
        log.warning("Metrics were not sent to Airflow's stats: %.300s", cause)
