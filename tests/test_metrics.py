"""What a monitor reads: Prometheus' own parser, and a collector that speaks OTLP."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import environ
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability import stats
from im_attr_audit import airflow_stats, tasks
from im_attr_audit.airflow_stats import send_gauges, send_polls
from im_attr_audit.commands.exposition import exposition, served, verify_result
from im_attr_audit.commands.metrics import write_result
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Unavailable
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.gauges import Gauge, read_gauges, verify_gauges
from im_attr_audit.record.rules import Poll, Read
from im_attr_audit.record.store import Recorded, record_polls
from im_attr_audit.record.upkeep.roles import WRITER
from im_attr_audit.tencent.answer import Answer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests import grafana
from tests.browser.large import Size, fill_record
from tests.conftest import AuditDb
from tests.history import NamesLike, polled

ANSWER = Answer({}, str, 200, None)
DOWN = Unavailable("HTTP 503", http_status=503)

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

    def frankfurt(*reads: NamesLike, at: datetime) -> Poll:
        return polled(*reads, at=at, region="frankfurt", sdk_app_id=1, app_group="shop")

    def seoul(*reads: NamesLike, at: datetime, failure: Unavailable | None = None) -> Poll:
        return polled(
            *reads, at=at, region="seoul", sdk_app_id=2, app_group="shop", failure=failure
        )

    first = [frankfurt(names, names, at=old), seoul(names, names, at=old)]
    record_polls(audit_db.writer, first, dag_run_id="run 1", try_number=1)
    second = [frankfurt(other, other, at=new), seoul(at=new, failure=DOWN)]
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


def test_changes_without_a_review_are_those_of_the_view(audit_db: AuditDb) -> None:
    """On a record with old and recent changes, declared and reviewed ones, and baselines."""
    fill_record(audit_db.server, audit_db.name, Size(24, 2_400, 1, 60))
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "insert into attr_audit.review (region, sdk_app_id, review_seq, seq, verdict, "
            "reviewer, reviewed_at, dag_run_id, recorded_at, row_hash) "
            "select region, sdk_app_id, 1, seq, 'expected', 'x', now(), 'r', now(), "
            "sha256('') from attr_audit.change where seq = 95"
        )
        cursor.execute("update attr_audit.app set retired_at = now() where sdk_app_id = 1003")
        cursor.execute(
            "update attr_audit_internal.declared_term set from_at = from_at - interval '1 year'"
        )
        cursor.execute(
            "select a.region, a.app_group, count(u.seq) from attr_audit.app a "
            "left join attr_audit.unreviewed_changes u on u.region = a.region "
            "and u.sdk_app_id = a.sdk_app_id and u.seen_at > now() - interval '30 days' "
            "where a.retired_at is null group by 1, 2"
        )
        right = {(region, group): number for region, group, number in cursor.fetchall()}
    [gauge] = [each for each in read(audit_db) if each.name.endswith("unreviewed_changes")]
    assert dict(gauge.samples) == right
    # Nine changes of each app are recent, one has a review. Half of the groups are declared.
    assert sum(right.values()) == 12 * 8


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


def test_the_dashboard_reads_metrics_that_there_are_by_labels_that_they_have(
    recorded: AuditDb,
) -> None:
    gauges = [*read(recorded), *verify_gauges(True, datetime.now(UTC))]
    label_sets = {gauge.name: set(gauge.labels) for gauge in gauges} | {"im_attr_audit_up": set()}
    used: set[str] = set()
    for panel in grafana.METRICS["panels"]:
        for query in panel["targets"]:
            names = set(re.findall(r"im_attr_audit_[a-z_]+", query["expr"]))
            assert names <= label_sets.keys(), panel["title"]
            wanted = set(re.findall(r"(\w+)=", query["expr"]))
            kept = {
                label
                for by in re.findall(r"by \(([^)]*)\)", query["expr"])
                for label in by.split(", ")
            }
            for name in names:
                assert wanted | kept <= label_sets[name], panel["title"]
            assert set(re.findall(r"{{(\w+)}}", query["legendFormat"])) == kept, panel["title"]
            used |= names
    assert label_sets.keys() - used == {"im_attr_audit_apps", "im_attr_audit_unseen_apps"}
    [group] = grafana.METRICS["templating"]["list"]
    assert group["definition"] == "label_values(im_attr_audit_apps, app_group)"
    assert "app_group" in label_sets["im_attr_audit_apps"]


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


#: What Airflow's task runner does around a task, and what a try of `sync` sends.
POLLS = """
from datetime import timedelta
from airflow.configuration import conf
from airflow.sdk.execution_time import task_runner
from airflow.sdk.observability import stats
from im_attr_audit.airflow_stats import send_polls
from im_attr_audit.record.store import Recorded

stats.initialize(factory=task_runner.stats_utils.get_stats_factory(), export_legacy_names=True)
calls = (timedelta(milliseconds=80), timedelta(milliseconds=120))
one = Recorded("im_a", "seoul", 1, "shop", "timpush", "ok", None, None, calls, 2)
send_polls([
    one,
    one._replace(calls=calls[:1], changes=1),
    one._replace(outcome="unavailable", calls=(timedelta(seconds=5),), changes=0),
    one._replace(region=None, outcome="misconfigured", calls=(), changes=0),
])
"""
#: What the task `report` sends of the record at the end.
GAUGES = """
import os
from airflow.sdk.execution_time import task_runner
from airflow.sdk.observability import stats
from sqlalchemy.engine import make_url
from im_attr_audit.airflow_stats import send_gauges
from im_attr_audit.record.engine import create_audit_engine

stats.initialize(factory=task_runner.stats_utils.get_stats_factory(), export_legacy_names=True)
send_gauges(create_audit_engine(make_url(os.environ["AUDIT_DB"])))
"""
#: What `verify --stats` sends.
VERIFIED = """
from datetime import UTC, datetime
from im_attr_audit.airflow_stats import send_verify_result

send_verify_result(True, datetime(2026, 11, 1, tzinfo=UTC))
"""

#: Airflow's StatsD client is not installed here: this one sends the same datagrams.
STATSD_CLIENT = """
import socket


class StatsClient:
    def __init__(self, host, port, prefix, ipv6):
        self._to, self._prefix = (host, port), prefix
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _send(self, name, value, kind):
        self._socket.sendto(f"{self._prefix}.{name}:{value}|{kind}".encode(), self._to)

    def incr(self, stat, count, rate):
        self._send(stat, count, "c")

    def gauge(self, stat, value, rate, delta):
        self._send(stat, value, "g")

    def timing(self, stat, delta):
        self._send(stat, delta.total_seconds() * 1000, "ms")

    def timer(self, stat, rate=1):
        return self  # of Airflow's own

    def start(self):
        pass

    def stop(self, send=True):
        pass
"""


def run_python(code: str, **settings: str) -> str:
    """What it logs; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, **settings},
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


Points = dict[tuple[str, frozenset[tuple[str, str]]], Any]


def by_otlp(code: str, **settings: str) -> Points:
    """Every point that a collector of OTLP gets: a number, or of a histogram count and sum."""
    with collector() as (port, sent):
        run_python(
            code,
            AIRFLOW__METRICS__OTEL_ON="True",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
            **settings,
        )
    found: Points = {}
    for body in sent:
        request = ExportMetricsServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    name = metric.name.removeprefix("airflow.im_attr_audit.")
                    for point in (*metric.sum.data_points, *metric.gauge.data_points):
                        value = point.as_int if point.HasField("as_int") else point.as_double
                        found[name, tags_of(point)] = value
                    for many in metric.exponential_histogram.data_points:
                        found[name, tags_of(many)] = (many.count, many.sum)
    return found


def tags_of(point: Any) -> frozenset[tuple[str, str]]:
    return labels(**{each.key: each.value.string_value for each in point.attributes})


def by_statsd(folder: Path, code: str, **settings: str) -> list[str]:
    """Every line that a StatsD server gets, without Airflow's prefix."""
    (folder / "statsd.py").write_text(STATSD_CLIENT, encoding="utf-8")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        run_python(
            code,
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(server.getsockname()[1]),
            PYTHONPATH=str(folder),
            **settings,
        )
        server.setblocking(False)
        lines = []
        with suppress(BlockingIOError):
            while True:
                lines.append(server.recv(4096).decode())
    prefix = "airflow.im_attr_audit."
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


OK = labels(region="seoul", outcome="ok")
UNAVAILABLE = labels(region="seoul", outcome="unavailable")


def test_otlp_gets_polls_changes_and_the_time_of_each_call() -> None:
    assert by_otlp(POLLS) == {
        ("polls", OK): 2,
        ("polls", UNAVAILABLE): 1,
        ("polls", labels(region="unknown", outcome="misconfigured")): 1,
        ("changes", labels(region="seoul")): 3,
        ("call_duration", OK): (3, 280),
        ("call_duration", UNAVAILABLE): (1, 5000),
    }


def test_statsd_without_tags_gets_counts_and_times_that_add_up(tmp_path: Path) -> None:
    lines = by_statsd(tmp_path, POLLS)
    kinds = {line.split(":")[0]: line.split("|")[1] for line in lines}
    assert kinds == {"polls": "c", "changes": "c", "call_duration": "ms"}

    def total(name: str) -> float:
        return sum(float(re.split("[:|]", x)[1]) for x in lines if x.startswith(f"{name}:"))

    assert (total("polls"), total("changes"), total("call_duration")) == (4, 3, 5280)
    assert len([line for line in lines if line.startswith("call_duration")]) == 4


def test_statsd_with_tags_of_influxdb_gets_them(tmp_path: Path) -> None:
    lines = by_statsd(tmp_path, POLLS, AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True")
    assert "polls,region=seoul,outcome=ok:2|c" in lines
    assert "changes,region=seoul:3|c" in lines
    assert "call_duration,region=seoul,outcome=ok:80.0|ms" in lines


#: What is not sent: `sync` counts changes, and the age of the newest poll is always short then.
NOT_SENT = {
    "changes_total",
    "last_poll_seconds",
    "apps_by_last_outcome",
    "polls_last_hour",
    "poll_seconds_last_hour",
}


def test_otlp_gets_the_gauges_that_prometheus_reads(recorded: AuditDb) -> None:
    sent = by_otlp(GAUGES, AUDIT_DB=recorded.url(WRITER))
    expected = {
        (
            gauge.name.removeprefix("im_attr_audit_"),
            labels(**dict(zip(gauge.labels, at, strict=True))),
        ): value
        for gauge in read(recorded)
        for at, value in gauge.samples
        if gauge.name.removeprefix("im_attr_audit_") not in NOT_SENT
    }
    assert sent.keys() == expected.keys()
    assert {name for name, _ in sent} >= {
        *("violations", "unreviewed_changes", "oldest_knowledge_seconds", "unsent_alerts"),
    }
    assert sent == pytest.approx(expected, abs=60)
    seoul = labels(region="seoul", app_group="shop")
    assert 7190 < sent["oldest_knowledge_seconds", seoul] < 7300


def test_statsd_without_tags_gets_one_true_number_of_each_gauge(
    recorded: AuditDb, tmp_path: Path
) -> None:
    lines = by_statsd(tmp_path, GAUGES, AUDIT_DB=recorded.url(WRITER))
    sent = {line.split(":")[0]: float(re.split("[:|]", line)[1]) for line in lines}
    assert len(sent) == len(lines)
    assert not sent.keys() & NOT_SENT
    assert (sent["apps"], sent["stale_apps"], sent["unreviewed_changes"]) == (2, 1, 1)
    assert 7190 < sent["oldest_knowledge_seconds"] < 7300


def test_what_verify_found_is_sent_as_well(tmp_path: Path) -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert by_otlp(VERIFIED) == {
        ("verify_ok", labels()): 1,
        ("verify_last_run_timestamp_seconds", labels()): at,
    }
    assert by_statsd(tmp_path, VERIFIED) == [
        "verify_ok:1.0|g",
        f"verify_last_run_timestamp_seconds:{at}|g",
    ]
    [line] = run_python(VERIFIED).splitlines()
    assert "Metrics were not sent: no [metrics] option of Airflow turns them on." in line


@pytest.fixture
def metrics_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")


def test_nothing_is_read_for_metrics_that_go_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    nothing_to_read_from: Any = None
    send_gauges(nothing_to_read_from)
    assert caplog.messages == []


@pytest.mark.usefixtures("metrics_on")
def test_gauges_that_cannot_be_read_or_sent_are_one_line_and_no_error(
    recorded: AuditDb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(stats, "gauge", refuse)
    monkeypatch.setattr(stats, "incr", refuse)
    send_gauges(recorded.writer)
    send_polls([Recorded("im_a", "seoul", 1, "shop", "timpush", "ok", None, None)])
    assert (
        caplog.messages
        == ["Metrics were not sent to Airflow's stats: OSError: no route\\nto host"] * 2
    )
    caplog.clear()

    monkeypatch.setattr(stats, "gauge", lambda *_, **__: pytest.fail("all of them or none"))
    monkeypatch.setattr(airflow_stats, "QUERY_SECONDS", 1)
    with recorded.owner.begin() as connection:
        connection.exec_driver_sql("lock table attr_audit.notification in access exclusive mode")
        send_gauges(recorded.writer)
    with recorded.owner.begin() as connection:
        connection.exec_driver_sql("revoke select on attr_audit.app from attr_audit_writer")
    send_gauges(recorded.writer)
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", "soon")
    send_gauges(recorded.writer)
    waited, refused, setting = caplog.messages
    assert waited.startswith("Metrics were not sent: The record cannot be read (QueryCanceled).")
    assert refused.startswith("Metrics were not sent: The record cannot be read (Insufficient")
    assert "IM_ATTR_AUDIT_STALE_AFTER" in setting


@pytest.mark.usefixtures("metrics_on")
def test_a_run_ends_as_it_would_where_its_metrics_cannot_be_sent(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(stats, "gauge", refuse)
    tasks.report([], dag_run_id="run", states={})
    with pytest.raises(AirflowFailException, match=r"^this run failed: im_a not polled$"):
        tasks.report([{"conn_ids": ["im_a"]}], dag_run_id="run", states={})
    assert sum("no route to host" in line for line in caplog.messages) == 2


def test_a_poll_counts_its_calls_without_the_wait_between_them() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)

    def later(seconds: float) -> datetime:
        return at + timedelta(seconds=seconds)

    first = Read(at, later(0.5), ANSWER)
    polls = {
        "one read": (Poll("a", "seoul", 1, "g", "timpush", at, at, later(0.5), 1, (first,)), [0.5]),
        "two reads": (
            Poll("a", "seoul", 1, "g", "timpush", at, later(30), later(31), 2,
                 (first, Read(later(30), later(31), ANSWER))),
            [0.5, 1],
        ),
        "the second failed": (
            Poll("a", "seoul", 1, "g", "timpush", at, later(30), later(35), 2, (first,), DOWN),
            [0.5, 5],
        ),
        "the second was never sent": (
            Poll("a", "seoul", 1, "g", "timpush", at, at, later(0.5), 1, (first,), DOWN),
            [0.5],
        ),
        "no time to trust": (Poll("a", "seoul", 1, "g", "timpush", at, at, at, 1, (), DOWN), []),
        "never sent": (Poll("a", None, None, None, None, at), []),
    }  # fmt: skip
    for name, (poll, seconds) in polls.items():
        assert [call.total_seconds() for call in poll.calls] == seconds, name


def test_changes_are_counted_where_they_are_recorded_and_baselines_are_not(
    audit_db: AuditDb,
) -> None:
    now = datetime.now(UTC)
    counts = []
    for minutes, names in ((9, {0: "a", 1: "b"}), (6, {0: "a", 1: "b"}), (3, {0: "x", 2: "c"})):
        poll = polled(
            names, names, at=now - timedelta(minutes=minutes), region="seoul", sdk_app_id=1
        )
        [one] = record_polls(audit_db.writer, [poll], dag_run_id=str(minutes), try_number=1)
        counts.append(one.changes)
        assert len(one.calls) == 2
    assert counts == [0, 0, 3]
