"""What a monitor reads: Prometheus' own parser, and a collector that speaks OTLP."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import environ
from pathlib import Path

import pytest
from im_attr_audit.commands.exposition import exposition, served, verify_result
from im_attr_audit.commands.metrics import write_result
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Unavailable
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.gauges import Gauge, read_gauges
from im_attr_audit.record.rules import Poll
from im_attr_audit.record.store import record_polls
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import AuditDb
from tests.history import NamesLike, polled

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(given: str) -> Samples:
    """Every sample by its name and labels, as Prometheus' parser reads the text."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(given)
        for sample in family.samples
    }


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


@pytest.fixture
def recorded(audit_db: AuditDb) -> AuditDb:
    """Two apps that disagree on slot 1, one of them seen two hours ago and not since."""
    now = datetime.now(UTC)
    old, new = now - timedelta(hours=2), now - timedelta(minutes=5)
    names: NamesLike = {0: "sex", 1: "city"}
    other: NamesLike = {0: "sex", 1: "home city"}
    down = Unavailable("HTTP 503", http_status=503)

    def frankfurt(*reads: NamesLike, at: datetime) -> Poll:
        return polled(*reads, at=at, region="frankfurt", sdk_app_id=1, app_group="shop")

    def seoul(*reads: NamesLike, at: datetime, failure: Unavailable | None = None) -> Poll:
        return polled(
            *reads, at=at, region="seoul", sdk_app_id=2, app_group="shop", failure=failure
        )

    first = [frankfurt(names, names, at=old), seoul(names, names, at=old)]
    record_polls(audit_db.writer, first, dag_run_id="run 1", try_number=1)
    second = [frankfurt(other, other, at=new), seoul(at=new, failure=down)]
    record_polls(audit_db.writer, second, dag_run_id="run 2", try_number=1)
    return audit_db


def read(db: AuditDb) -> list[Gauge]:
    return read_gauges(db.reader, timedelta(hours=1))


def test_prometheus_reads_what_is_stale_failed_changed_and_waiting(recorded: AuditDb) -> None:
    found = samples(exposition(lambda: read(recorded)))
    frankfurt = labels(region="frankfurt", app_group="shop")
    seoul = labels(region="seoul", app_group="shop")
    assert found["im_attr_audit_up", labels()] == 1
    assert found["im_attr_audit_apps", frankfurt] == found["im_attr_audit_apps", seoul] == 1
    assert found["im_attr_audit_stale_apps", frankfurt] == 0
    assert found["im_attr_audit_stale_apps", seoul] == 1
    assert 7190 < found["im_attr_audit_oldest_knowledge_seconds", seoul] < 7300
    ended = "im_attr_audit_apps_by_last_outcome"
    assert found[ended, labels(region="seoul", outcome="unavailable")] == 1
    assert found["im_attr_audit_polls_last_hour", labels(region="frankfurt", outcome="ok")] == 1
    assert ("im_attr_audit_polls_last_hour", labels(region="seoul", outcome="ok")) not in found
    assert found["im_attr_audit_changes_total", labels(region="frankfurt")] == 1
    assert found["im_attr_audit_changes_total", labels(region="seoul")] == 0
    assert found["im_attr_audit_drift_slots", labels(app_group="shop")] == 1
    assert found["im_attr_audit_unsent_alerts", labels()] == 1
    assert found["im_attr_audit_oldest_unsent_alert_seconds", labels()] >= 0
    assert 290 < found["im_attr_audit_last_poll_seconds", labels()] < 400


def test_prometheus_reads_violations_reviews_that_wait_and_the_age_of_the_last_seal(
    recorded: AuditDb,
) -> None:
    shop = labels(region="frankfurt", app_group="shop")
    different = labels(app_group="shop", violation="different")
    found = samples(exposition(lambda: read(recorded)))
    assert found["im_attr_audit_unreviewed_changes", shop] == 1
    assert found["im_attr_audit_violations", different] == 0
    assert ("im_attr_audit_last_seal_seconds", labels()) not in found

    document = parse("groups: {shop: {names: {0: sex, 1: city}}}", "").declaration
    record_declaration(
        recorded.writer, document, source="x", revision=None, text_digest=None, dag_run_id=None
    )
    with recorded.server.connect(recorded.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "insert into attr_audit.seal (origin, n, leaf, note, last_poll_id, last_change_id, "
            "last_planned_id, marks, sealed_at) "
            "values ('example.com/audit', 0, '[\"run-v1\",0]', 'x', 0, 0, 0, '', "
            "now() - interval '10 minutes'), ('example.com/audit', 1, 'x', 'x', 0, 0, 0, '', now())"
        )
    found = samples(exposition(lambda: read(recorded)))
    assert found["im_attr_audit_violations", different] == 1
    assert found["im_attr_audit_violations", labels(app_group="shop", violation="unknown")] == 2
    assert 600 <= found["im_attr_audit_last_seal_seconds", labels()] < 700


@pytest.mark.parametrize("holds", [True, False])
def test_prometheus_reads_what_verify_found_and_when(tmp_path: Path, holds: bool) -> None:
    file = tmp_path / "im-attr-audit.prom"
    at = datetime(2026, 11, 1, tzinfo=UTC)
    for each in (not holds, holds):
        write_result(file, each, at)
    assert samples(file.read_text()) == {
        ("im_attr_audit_verify_ok", labels()): float(holds),
        ("im_attr_audit_verify_last_run_timestamp_seconds", labels()): at.timestamp(),
    }
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


def test_an_alert_that_is_no_longer_sent_is_not_counted_as_unsent(recorded: AuditDb) -> None:
    with recorded.server.connect(recorded.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "update attr_audit.notification set created_at = now() - interval '73 hours'"
        )
        assert cursor.rowcount == 1
    found = samples(exposition(lambda: read(recorded)))
    assert found["im_attr_audit_unsent_alerts", labels()] == 0
    assert found["im_attr_audit_oldest_unsent_alert_seconds", labels()] == 0


def test_no_metric_has_a_label_of_one_app(recorded: AuditDb) -> None:
    allowed = {"region", "app_group", "outcome", "violation"}
    gauges = read(recorded)
    assert len(gauges) >= 10
    for gauge in gauges:
        assert set(gauge.labels) <= allowed, gauge.name


def test_each_alert_rule_is_on_a_metric_that_there_is(recorded: AuditDb) -> None:
    names = {gauge.name for gauge in read(recorded)} | {"im_attr_audit_up"}
    names |= {name for name, _ in samples(verify_result(True, datetime.now(UTC)))}
    rules = (Path(__file__).parents[1] / "bi" / "prometheus" / "alerts.yml").read_text("utf-8")
    used = set(re.findall(r"im_attr_audit_[a-z_]+", "".join(re.findall(r"expr: (.*)", rules))))
    assert len(used) >= 5
    assert used <= names


def test_a_record_that_cannot_be_read_is_down_and_shows_no_number(audit_db: AuditDb) -> None:
    with audit_db.owner.begin() as connection:
        connection.exec_driver_sql("revoke select on attr_audit.app from attr_audit_reader")
    try:
        assert samples(exposition(lambda: read(audit_db))) == {("im_attr_audit_up", labels()): 0}
    finally:
        with audit_db.owner.begin() as connection:
            connection.exec_driver_sql("grant select on attr_audit.app to attr_audit_reader")


def test_what_is_served_is_read_at_each_scrape(recorded: AuditDb) -> None:
    reads = []

    def counted() -> list[Gauge]:
        reads.append(1)
        return read(recorded)

    with served(counted, "127.0.0.1", 0) as port:
        for number in (1, 2):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            assert len(reads) == number
            assert samples(text)["im_attr_audit_up", labels()] == 1


@contextmanager
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """A simulated collector of OpenTelemetry's; gives its port and what it was sent."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, sent
        finally:
            server.shutdown()
            thread.join()


#: What Airflow's task runner does around a task, and the counting of one.
COUNTS = """
from airflow.configuration import conf
from airflow.sdk.execution_time import task_runner
from airflow.sdk.observability import stats
from im_attr_audit import tasks
from im_attr_audit.record.store import Recorded

stats.initialize(factory=task_runner.stats_utils.get_stats_factory(), export_legacy_names=True)
one = Recorded("im_a", "seoul", 1, "shop", "timpush", "ok", None, None)
tasks.count_polls([one, one, one._replace(outcome="unavailable"), one._replace(region=None)])
"""


def test_a_collector_of_otlp_is_told_the_polls_by_region_and_outcome() -> None:
    with collector() as (port, sent):
        settings = {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        }
        subprocess.run(
            [sys.executable, "-c", COUNTS], env={**environ, **settings}, check=True, timeout=120
        )
    counted = {}
    for body in sent:
        request = ExportMetricsServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name.endswith("im_attr_audit.polls"):
                        for point in metric.sum.data_points:
                            tags = {a.key: a.value.string_value for a in point.attributes}
                            value = point.as_int or int(point.as_double)
                            counted[tags["region"], tags["outcome"]] = value
    assert counted == {("seoul", "ok"): 2, ("seoul", "unavailable"): 1, ("?", "ok"): 1}
