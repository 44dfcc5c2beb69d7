"""Alerts of violations: what they say, and that each is sent once, to a real webhook."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from im_attr_audit import tasks
from im_attr_audit.messages.notify import compose, send_waiting
from im_attr_audit.record.notifications import Alert, record_violations

from tests.conftest import AuditDb
from tests.history import START
from tests.test_declarations import declare
from tests.test_notify import hook as hook
from tests.test_notify import record
from tests.test_notify import sent as sent
from tests.test_schema import refused, run
from tests.webhook import Webhook

SHOP = "groups: {shop: {names: {0: sex, 1: city}}}"
VIOLATION = Alert(
    notification_id=1,
    kind="violation",
    region="frankfurt",
    sdk_app_id=20000004,
    app_group="shop",
    dag_run_id="run",
    conn_id="im_frankfurt",
    slot=2,
    gap_from=START,
    violation="different",
    declared_name="@all",
    actual_name="<b>",
)


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def test_a_violation_begins_and_ends_with_one_alert_each(
    audit_db: AuditDb, sent: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)

    def report(run_id: str) -> list[tuple[str, str]]:
        for _ in range(2):  # cleared, and run again
            tasks.report([], dag_run_id=run_id, states={})
        return [each for each in sent.take() if "violation" in each[0]]

    record(audit_db, {0: "sex", 1: "City", 5: "x"}, run_id="1", at=ago(minutes=3), app_group="shop")
    assert report("1") == []  # nothing is declared
    declare(audit_db, SHOP)
    [(title, body)] = report("2")
    assert title == "Attribute names: 2 violations in frankfurt"
    first, second, end = body.split("\n\n")
    assert first.startswith(
        'Group shop, app frankfurt/1400000001, slot 1: "City", declared "city", since '
    )
    assert 'slot 5: "x", declared to be unused, since ' in second
    assert end.startswith("Restore the declared name at the vendor, or change the declaration")
    record(audit_db, {0: "sex", 1: "city", 5: "x"}, run_id="3", at=ago(minutes=1), app_group="shop")
    declare(audit_db, SHOP.replace("}}}", "}, other_slots: allowed}}"))
    [(title, body)] = report("3")
    assert title == "Attribute names: 2 violations over in frankfurt"
    assert 'slot 1: "city", as declared. It was a violation from ' in body
    assert 'slot 5: "x", not declared. It was a violation from ' in body
    assert report("4") == []


def test_a_violation_that_ended_and_began_again_between_two_reports_is_both(
    audit_db: AuditDb, sent: Webhook
) -> None:
    def report() -> list[str]:
        record_violations(audit_db.writer, dag_run_id="run")
        send_waiting(audit_db.writer)
        return [title for title, _ in sent.take() if "violation" in title]

    run(audit_db.owner, "alter table attr_audit.declaration disable trigger accept_declaration")
    run(
        audit_db.owner,
        "insert into attr_audit.declaration (recorded_at, source, digest, document) values "
        "(now() - interval '1 hour', 'test', '', "
        '\'{"groups": {"default": {"names": {"0": "sex", "1": "city"}}}}\')',
    )
    record(audit_db, {0: "Sex", 1: "city"}, run_id="1", at=ago(minutes=30))
    assert report() == ["Attribute names: 1 violation in frankfurt"]
    record(audit_db, {0: "sex", 1: "city"}, run_id="2", at=ago(minutes=20))
    record(audit_db, {0: "SEX", 1: "city"}, run_id="3", at=ago(minutes=10))
    both = ["Attribute names: 1 violation over in frankfurt"]
    assert sorted(report()) == ["Attribute names: 1 violation in frankfurt", *both]
    assert report() == []
    [[violation]] = run(
        audit_db.reader,
        "select violation from attr_audit.notification where kind = 'violation_over'",
    )
    assert violation is None  # it is not as declared now


def test_an_alert_of_a_violation_links_to_the_slot_and_its_names_are_inert() -> None:
    over = replace(VIOLATION, kind="violation_over", gap_to=START, violation=None)
    for alert in (VIOLATION, over):
        title, body = compose([alert], base_url="https://airflow.example")
        assert not set(title + body) & set("<>@")
        page = "im-attr-audit/changes?slot=2&app=frankfurt%2F20000004"
        assert f"\nPage: https://airflow.example/{page}\n" in body
        assert body.endswith("Run: https://airflow.example/dags/im_attr_name_audit/runs/run")
    assert "A slot that is in violation again has an alert of its own." in body


def test_the_writer_cannot_queue_an_alert_of_a_violation_itself(audit_db: AuditDb) -> None:
    statement = (
        "insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, slot) "
        "values ('violation', 'frankfurt', 1400000001, now(), 0)"
    )
    assert "permission denied" in refused(audit_db.writer, statement)
    assert "a_violation_has_its_slot" in refused(
        audit_db.writer, statement.replace(", slot)", ")").replace(", 0)", ")")
    )
