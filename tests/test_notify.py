"""Alerts: what is sent, once each, to a real webhook; and what a failing messenger cannot break."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.secrets.environment_variables import EnvironmentVariablesBackend
from im_attr_audit import cli
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Rejected, Unavailable
from im_attr_audit.messages import notify
from im_attr_audit.messages.inert import inert_word
from im_attr_audit.messages.notify import Messenger, compose, send_waiting
from im_attr_audit.names import AttrName
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record import notifications as alerts
from im_attr_audit.record.notifications import Alert, Delivery, deliver, read_waiting, record_gaps
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.record.store import record_polls
from im_attr_audit.settings import BadSetting, stale_after
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from tests.airflow_process import ROOT, AirflowProcess
from tests.conftest import AuditDb
from tests.history import START, NamesLike, polled
from tests.test_dag import APPS, REGIONS, Audit
from tests.test_schema import months_before, refused, run
from tests.webhook import Webhook, webhook

SEX: NamesLike = {0: "sex", 1: "city"}
GENDER: NamesLike = {0: "gender", 1: "city"}
HOUR = timedelta(hours=1)
NOTIFY = "AIRFLOW_CONN_IM_ATTR_AUDIT_NOTIFY"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as it:
        yield it


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, hook: Webhook) -> Webhook:
    """The webhook, with the connection that leads to it."""
    monkeypatch.setenv(NOTIFY, hook.connection())
    return hook


@pytest.fixture
def db(audit_db: AuditDb) -> AuditDb:
    """An audit database with an app in Frankfurt whose baseline is recorded."""
    months_before(audit_db)
    record(audit_db, SEX, run_id="run 0", at=0)
    return audit_db


def record(db: AuditDb, names: NamesLike, *, run_id: str, at: float | datetime, **app: Any) -> None:
    record_polls(db.writer, [polled(names, names, at=at, **app)], dag_run_id=run_id, try_number=1)


def rewrite(db: AuditDb, *statements: str) -> None:
    """Change the record as only a superuser can, past every trigger."""
    with db.server.connect(db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        for statement in statements:
            cursor.execute(statement)


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


# What is sent ------------------------------------------------------------------------------------


def test_the_alert_of_a_rename_has_everything_that_matters(db: AuditDb, sent: Webhook) -> None:
    record(db, GENDER, run_id="run 1", at=900, app_group="shop")
    send_waiting(db.writer)
    [(title, body)] = sent.take()
    assert title == "Attribute names: 1 change in frankfurt"
    assert body.split("\n\n") == [
        'Group shop, app frankfurt/1400000001, slot 0: renamed "sex" → "gender", '
        "between 2026-11-01 00:00:02Z and 2026-11-01 00:15:00Z",
        "Affected: push conditions (AttrsAnd, AttrsOr) and everything that sets or reads users' "
        'attributes by the old name ("sex"). Fix them, but do not delete a condition: a push '
        "without conditions goes to everybody.\n"
        'Runbook: "Alert: change" in the runbooks of im-attr-audit',
    ]
    send_waiting(db.writer)
    assert sent.take() == []


def test_one_message_a_run_whatever_number_of_transactions_it_took(
    db: AuditDb, sent: Webhook
) -> None:
    record(db, SEX, run_id="run 0", at=0, region="seoul", sdk_app_id=2)
    record(db, GENDER, run_id="run 1", at=900)
    record(db, {0: "gender"}, run_id="run 1", at=900, region="seoul", sdk_app_id=2)
    record(db, SEX, run_id="run 2", at=1800)
    send_waiting(db.writer)
    first, second = sent.take()
    assert first[0] == "Attribute names: 3 changes in frankfurt, seoul"
    assert 'slot 1: removed "city"' in first[1]
    assert second[0] == "Attribute names: 1 change in frankfurt"
    assert 'renamed "gender" → "sex"' in second[1]


def test_a_baseline_is_not_an_alert(db: AuditDb, sent: Webhook) -> None:
    record(db, {0: ("sex", 1), 1: "city"}, run_id="run 1", at=900)  # a type first learned
    record(db, GENDER, run_id="run 2", at=1800, api="timpush")  # another source
    assert read_waiting(db.writer, most=9) == []
    send_waiting(db.writer)
    assert sent.take() == []


def test_what_endangers_nothing_does_not_say_that_it_does(db: AuditDb, sent: Webhook) -> None:
    record(db, {0: "sex", 1: "city", 2: "level"}, run_id="run 1", at=900)
    send_waiting(db.writer)
    [(_, body)] = sent.take()
    assert 'slot 2: added "level"' in body
    assert "Affected" not in body


def test_a_stale_app_is_one_alert_and_its_return_another(db: AuditDb, sent: Webhook) -> None:
    since = ago(minutes=61)
    record(db, SEX, run_id="run 0", at=since)
    for number in (1, 2, 3):
        record_gaps(db.writer, dag_run_id=f"run {number}", stale_after=HOUR)
        send_waiting(db.writer)
    [(title, body)] = sent.take()
    assert title == "Attribute names: 1 app stale in frankfurt"
    seen = since + timedelta(seconds=2)
    assert body.startswith(
        "Group default, app frankfurt/1400000001 (connection im_frankfurt_1400000001): "
        f"last good poll {seen:%Y-%m-%d %H:%M:%S}Z"
    )
    again = ago(minutes=1)
    record(db, SEX, run_id="run 4", at=again)
    for number in (4, 5):
        record_gaps(db.writer, dag_run_id=f"run {number}", stale_after=HOUR)
        send_waiting(db.writer)
    [(title, body)] = sent.take()
    assert title == "Attribute names: 1 app no longer stale in frankfurt"
    until = again + timedelta(seconds=2)
    assert f"between {seen:%Y-%m-%d %H:%M:%S}Z and {until:%Y-%m-%d %H:%M:%S}Z" in body
    # The next gap is a new one.
    record_gaps(db.writer, dag_run_id="run 6", stale_after=timedelta(seconds=30))
    send_waiting(db.writer)
    assert [title for title, _ in sent.take()] == ["Attribute names: 1 app stale in frankfurt"]


def test_an_app_without_a_good_poll_counts_from_its_first_poll(db: AuditDb, sent: Webhook) -> None:
    for at in (ago(minutes=90), ago(minutes=5)):
        poll = polled(at=at, region="seoul", sdk_app_id=2, failure=Unavailable("no answer"))
        record_polls(db.writer, [poll], dag_run_id="run 1", try_number=1)
    record(db, SEX, run_id="run 1", at=ago(minutes=5))
    record_gaps(db.writer, dag_run_id="run 1", stale_after=timedelta(hours=2))
    assert read_waiting(db.writer, most=9) == []
    record_gaps(db.writer, dag_run_id="run 1", stale_after=HOUR)
    send_waiting(db.writer)
    [(title, body)] = sent.take()
    assert title == "Attribute names: 1 app stale in seoul"
    assert "no good poll since the first poll" in body
    assert f"Newest poll: unavailable. {OUTCOMES['unavailable'].advice}" in body


def test_an_app_is_stale_by_its_good_polls_whatever_time_its_row_claims(
    db: AuditDb, sent: Webhook
) -> None:
    rewrite(db, "update attr_audit.app set last_ok_at = '2099-01-01Z'")
    record_gaps(db.writer, dag_run_id="run 1", stale_after=HOUR)
    send_waiting(db.writer)
    [(title, body)] = sent.take()
    assert title == "Attribute names: 1 app stale in frankfurt"
    assert "last good poll 2026-11-01 00:00:02Z. Not polled since: check that the DAG runs." in body


def test_a_stale_app_s_alert_has_outcome_code_and_advice(db: AuditDb, sent: Webhook) -> None:
    rejected = Rejected("no", http_status=200, error_code=70009, error_info="check failed")
    failed = polled(at=ago(minutes=1), failure=rejected)
    record_polls(db.writer, [failed], dag_run_id="run 1", try_number=1)
    record_gaps(db.writer, dag_run_id="run 1", stale_after=HOUR)
    send_waiting(db.writer)
    [(_, body)] = sent.take()
    assert "Newest poll: rejected 70009. " in body
    assert OUTCOMES["rejected"].advice in body


def test_a_retired_app_is_silent(db: AuditDb, sent: Webhook) -> None:
    retire_apps(db.writer, listed=[], unresolved=[])
    record_gaps(db.writer, dag_run_id="run 1", stale_after=HOUR)
    assert run(db.reader, "select * from attr_audit.notification") == []
    retire_apps(db.writer, listed=[AppKey("frankfurt", 1400000001)], unresolved=[])
    record_gaps(db.writer, dag_run_id="run 2", stale_after=HOUR)
    retire_apps(db.writer, listed=[], unresolved=[])  # before it could be sent
    send_waiting(db.writer)
    assert sent.take() == []


# Once each ---------------------------------------------------------------------------------------


def test_while_the_messenger_is_down_messages_wait_and_then_come_once_each(
    db: AuditDb, sent: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sent.status = 503
    for number, names in enumerate((GENDER, SEX, GENDER), 1):
        record(db, names, run_id=f"run {number}", at=900 * number)
        send_waiting(db.writer)
    assert sent.refused == 3  # one try a report, not one a message
    assert "It waits for the next run" in caplog.text
    assert "a-secret-token" not in caplog.text
    sent.status = 200
    send_waiting(db.writer)
    assert ['→ "gender"' in body for _, body in sent.take()] == [True, False, True]
    send_waiting(db.writer)
    assert sent.take() == []


def test_of_two_destinations_the_one_that_has_it_gets_it_no_second_time(
    db: AuditDb, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as other:
        monkeypatch.setenv(NOTIFY, hook.connection(other.url()))
        other.status = 500
        record(db, GENDER, run_id="run 1", at=900)
        send_waiting(db.writer)
        assert (len(hook.take()), other.refused) == (1, 1)
        other.status = 200
        send_waiting(db.writer)
        send_waiting(db.writer)
        assert (len(hook.take()), len(other.take())) == (0, 1)


@pytest.fixture
def other(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A second destination of the connection, which refuses everything at first."""
    with webhook() as it:
        monkeypatch.setenv(NOTIFY, hook.connection(it.url()))
        it.status = 500
        yield it


def test_what_waits_for_a_dead_destination_delays_no_alert_of_another_one(
    db: AuditDb, hook: Webhook, other: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MOST_MESSAGES", 2)
    for number in range(1, 6):
        record(db, {0: f"name {number}", 1: "city"}, run_id=f"run {number}", at=900 * number)
        send_waiting(db.writer)
        [(_, body)] = hook.take()
        assert f'→ "name {number}"' in body
    assert other.refused == 5  # one try a report
    other.status = 200
    counts, bodies = [], []
    for _ in range(4):
        send_waiting(db.writer)
        taken = other.take()
        counts.append(len(taken))
        bodies += [body for _, body in taken]
    assert counts == [2, 2, 1, 0]
    assert [f'→ "name {number}"' in body for number, body in enumerate(bodies, 1)] == [True] * 5
    assert hook.take() == []
    assert read_waiting(db.writer, most=9) == []


def test_a_destination_that_catches_up_takes_no_more_than_its_limit(
    db: AuditDb, hook: Webhook, other: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MOST_MESSAGES", 2)
    for number in range(1, 6):
        record(db, {0: f"name {number}", 1: "city"}, run_id=f"run {number}", at=900 * number)
        if number <= 3:
            send_waiting(db.writer)
    assert len(hook.take()) == 3
    other.status = 200
    # Two new ones for both, beside the three that wait for the other one.
    send_waiting(db.writer)
    assert (len(hook.take()), len(other.take())) == (2, 2)
    send_waiting(db.writer)
    assert [f'→ "name {number}"' in body for number, (_, body) in enumerate(other.take(), 3)] == [
        True,
        True,
    ]
    send_waiting(db.writer)
    send_waiting(db.writer)
    assert (len(hook.take()), len(other.take())) == (0, 1)


def test_what_waited_only_for_a_destination_that_was_removed_is_done(
    db: AuditDb, hook: Webhook, other: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, names in enumerate((GENDER, SEX), 1):
        record(db, names, run_id=f"run {number}", at=900 * number)
    send_waiting(db.writer)
    assert (len(hook.take()), other.refused) == (2, 1)
    monkeypatch.setenv(NOTIFY, hook.connection())
    send_waiting(db.writer)
    assert hook.take() == []
    assert read_waiting(db.writer, most=9) == []


def test_destinations_are_sent_a_message_at_the_same_time() -> None:
    """So that the time that several dead ones take is not lost to the others."""
    both = threading.Barrier(2)

    class Destination:
        asset = service_name = body_maxlen = None

        def __init__(self, address: str) -> None:
            self.address = address

        def url(self, *, privacy: bool) -> str:
            return f"{self.address}?{privacy}"

    class Apprise:
        NotifyFormat = SimpleNamespace(TEXT="text")

        def __init__(self, asset: None) -> None:
            assert asset is None

        def add(self, destination: Destination) -> None:
            assert destination.address

        def notify(self, **_: str) -> bool:
            both.wait(10)
            return True

    fake = SimpleNamespace(Apprise=Apprise, NotifyFormat=Apprise.NotifyFormat)
    messenger = Messenger([Destination("a"), Destination("b")], apprise=fake)
    assert messenger.send([FACT], frozenset()).complete
    assert [why_not for _, why_not in messenger.send_test()] == [None, None]


def test_two_reports_at_the_same_time_send_a_message_once(db: AuditDb) -> None:
    record(db, GENDER, run_id="run 1", at=900)
    [message] = read_waiting(db.writer, most=9)
    sending, go_on = threading.Event(), threading.Event()
    sent: list[str] = []

    def send(alerts_: list[Alert], sent_to: frozenset[str]) -> Delivery:
        sending.set()
        assert go_on.wait(10)
        sent.append(alerts_[0].kind)
        return Delivery(frozenset({"here"}), complete=True)

    first = threading.Thread(target=deliver, args=(db.writer, message, send))
    first.start()
    assert sending.wait(10)
    assert deliver(db.writer, message, send) is True  # the other one has it
    go_on.set()
    first.join()
    assert deliver(db.writer, message, send) is True
    assert sent == ["change"]
    assert read_waiting(db.writer, most=9) == []


KILLED_BETWEEN = """
import os, signal, sys
from im_attr_audit.messages import notify
from im_attr_audit.record.engine import create_audit_engine
from sqlalchemy.engine import make_url
send = notify.Messenger.send
def and_die(*args):
    send(*args)
    os.kill(os.getpid(), signal.SIGKILL)
notify.Messenger.send = and_die
notify.send_waiting(create_audit_engine(make_url(sys.argv[1])))
"""


def test_killed_between_sending_and_marking_it_is_sent_again(db: AuditDb, sent: Webhook) -> None:
    record(db, GENDER, run_id="run 1", at=900)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BETWEEN, db.url("attr_audit_writer")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(sent.take()) == 1
    send_waiting(db.writer)
    assert len(sent.take()) == 1
    send_waiting(db.writer)
    assert sent.take() == []


def test_without_a_connection_nothing_is_sent_and_old_news_is_not_sent_later(
    db: AuditDb, sent: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = os.environ[NOTIFY]
    monkeypatch.delenv(NOTIFY)
    record(db, GENDER, run_id="run 1", at=900)
    send_waiting(db.writer)
    run(
        db.owner,
        "update attr_audit.notification set created_at = created_at - :d",
        d=alerts.EXPIRE_AFTER,
    )
    record(db, SEX, run_id="run 2", at=1800)
    monkeypatch.setenv(NOTIFY, connection)
    send_waiting(db.writer)
    [(_, body)] = sent.take()
    assert 'renamed "gender" → "sex"' in body
    assert run(
        db.reader, "select dag_run_id from attr_audit.notification where sent_at is null"
    ) == [("run 1",)]


def test_a_report_sends_no_more_than_a_messenger_takes_in_a_minute(
    db: AuditDb, sent: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MOST_MESSAGES", 2)
    for number, names in enumerate((GENDER, SEX, GENDER), 1):
        record(db, names, run_id=f"run {number}", at=900 * number)
    counts = []
    for _ in range(3):
        send_waiting(db.writer)
        counts.append(len(sent.take()))
    assert counts == [2, 1, 0]


# What a messenger cannot spoil -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        ({"config": [{"path": "nonsense://a-secret-token"}]}, "no address that Apprise knows"),
        ({"config": "not json a-secret-token"}, "no config that Apprise can read"),
        ({}, "no config that Apprise can read"),
        ({"config": {"path": "json://127.0.0.1:1/a-secret-token"}}, "did not accept a message"),
    ],
)
def test_a_bad_connection_is_a_warning_without_its_secrets(
    db: AuditDb,
    connection: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(NOTIFY, json.dumps({"conn_type": "apprise", "extra": connection}))
    record(db, GENDER, run_id="run 1", at=900)
    send_waiting(db.writer)
    assert said in caplog.text
    assert "a-secret-token" not in caplog.text
    assert len(read_waiting(db.writer, most=9)) == 1


def test_a_messenger_whose_answer_never_ends_is_given_up(hook: Webhook) -> None:
    import apprise

    hook.trickles = True
    asset = apprise.AppriseAsset(async_mode=False)
    gathered = apprise.Apprise(hook.url(), asset=asset)
    kept_mute = threading.Event()
    messenger = Messenger(gathered.find(), apprise=apprise, deadline=0.5, keep_muted=kept_mute.set)
    assert messenger.send([FACT], frozenset()) == Delivery(frozenset(), complete=False)
    assert not messenger.can_send(frozenset())
    assert kept_mute.is_set()  # it may still log its address


def test_the_command_sends_every_destination_a_test_alert(
    sent: Webhook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    assert cli.main(["notify", "--test"]) == 0
    assert "destination 1 (JSON): sent" in capsys.readouterr().out
    [(title, body)] = sent.take()
    assert title == "Attribute names: test alert"
    assert body.split("\n") == [
        "This is a test of the connection im_attr_audit_notify. No action is needed.",
        "Page: https://airflow.example.com/im-attr-audit/",
    ]


def test_the_command_reports_each_destination_that_did_not_take_the_test_alert(
    hook: Webhook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTIFY, hook.connection("json://127.0.0.1:1/another-secret"))
    assert cli.main(["notify", "--test"]) == 2
    printed = capsys.readouterr()
    assert "destination 1 (JSON): sent" in printed.out
    assert "destination 2 (JSON): not sent: it could not be reached, or refused" in printed.err
    assert "secret" not in printed.out + printed.err
    assert len(hook.take()) == 1


def test_the_command_reports_that_no_alerts_are_sent_without_a_connection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NOTIFY, raising=False)
    backends = [EnvironmentVariablesBackend()]
    monkeypatch.setattr("airflow.configuration.ensure_secrets_loaded", lambda: backends)
    assert cli.main(["notify", "--test"]) == 2
    assert "does not have the connection im_attr_audit_notify" in capsys.readouterr().err


LOADED = """
import os, sys
from im_attr_audit.messages.notify import send_waiting
from im_attr_audit.record.engine import create_audit_engine
from sqlalchemy import text
from sqlalchemy.engine import make_url
engine = create_audit_engine(make_url(sys.argv[1]))
def loads():
    send_waiting(engine)
    return "apprise" in sys.modules
nothing_to_send = loads()
with engine.begin() as connection:
    connection.execute(text(
        "insert into attr_audit.notification (kind, region, sdk_app_id, gap_from) "
        "values ('stale', 'frankfurt', 1400000001, now())"
    ))
where = os.environ.pop("AIRFLOW_CONN_IM_ATTR_AUDIT_NOTIFY")
nobody_to_send_it_to = loads()
os.environ["AIRFLOW_CONN_IM_ATTR_AUDIT_NOTIFY"] = where
print(nothing_to_send, nobody_to_send_it_to, loads())
"""


def test_apprise_is_loaded_only_where_something_is_to_be_sent(db: AuditDb, sent: Webhook) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, db.url("attr_audit_writer")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False False True"
    assert len(sent.take()) == 1


# What a name cannot do ---------------------------------------------------------------------------

FACT = Alert(
    notification_id=1,
    kind="change",
    region="frankfurt",
    sdk_app_id=20000004,
    app_group="shop",
    dag_run_id="run",
    conn_id="im_frankfurt",
    slot=2,
    change="renamed",
    old=AttrName("old"),
    new=AttrName("new"),
    not_before=START,
    seen_at=START,
)


@pytest.mark.parametrize(
    "name", ["会员等级", "Membership level", "signup_channel", "v1.2 (R&D) 100%!"]
)
def test_an_ordinary_name_is_shown_as_it_is(name: str) -> None:
    assert inert_word(name) == f'"{name}"'


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<!channel>", r"\u003c!channel\u003e"),
        ("<@U123>@all @here", r"\u003c\u0040U123\u003e\u0040all \u0040here"),
        ('<at user_id="all"></at>', r"\u003cat user_id=\"all\"\u003e\u003c/at\u003e"),
        ("[pay](https://evil.example/x)", r"\u005bpay\u005d(https\u003a//evil\u002eexample/x)"),
        ("evil.com", r"evil\u002ecom"),
        ("https://1.2.3.4/", r"https\u003a//1.2.3.4/"),
        ("*b* _i_ __u__", None),
        ("~s~ `c`", None),
        ("&lt;img&gt; &#60;", r"\u0026lt;img\u0026gt; \u0026#60;"),
        ("a|b", r"a\u007cb"),
        ("a\nb\x1b[31m\u202e\u2028", None),
        ("\uff20all", r"\uff20all"),
        ("\\u0040all", r"\\u0040all"),
    ],
)
def test_a_name_cannot_act_on_a_messenger(name: str, shown: str | None) -> None:
    inert = inert_word(name)
    if shown is not None:
        assert inert == f'"{shown}"'
    assert not set(inert) & set("<>@*`[]~|\n\x1b\u202e\u2028\uff20")
    assert "_i_" not in inert
    assert "__" not in inert
    # And nothing is lost: JSON gives the name back.
    assert json.loads(inert.replace("\\x1b", "\\u001b")) == name


def test_a_region_or_group_of_the_operators_own_is_as_inert_as_a_name() -> None:
    from dataclasses import replace

    title, body = compose([replace(FACT, region="<!here>", app_group="@all")])
    assert "<" not in title + body
    assert "@" not in title + body


def test_an_alert_links_to_the_change_on_the_page_and_to_the_run() -> None:
    from dataclasses import replace

    change = replace(FACT, seq=3, dag_run_id="scheduled__2026-11-01T00:15:00+00:00")
    stale = replace(change, kind="stale", seq=None, gap_from=START)
    run_link = (
        "Run: https://airflow.example/dags/im_attr_name_audit/runs/"
        "scheduled__2026-11-01T00%3A15%3A00%2B00%3A00"
    )
    for alert, page in (
        (change, "changes?seq=3&app=frankfurt%2F20000004"),
        (stale, "health?app=frankfurt%2F20000004"),
    ):
        _, body = compose([alert], base_url="https://airflow.example")
        assert f"\nPage: https://airflow.example/im-attr-audit/{page}\n" in body
        assert body.endswith(run_link)
        assert f'Runbook: "Alert: {alert.kind}" in the runbooks of im-attr-audit' in body
        assert "https://" not in compose([alert])[1]
        _, body = compose([alert], runbooks_url="https://git.example/runbooks.md")
        assert body.endswith(f"Runbook: https://git.example/runbooks.md#alert-{alert.kind}")


@pytest.mark.parametrize("base_url", ["", "https://airflow.example"])
@pytest.mark.parametrize("limit", [2048, 3500])
@pytest.mark.parametrize("number", [1, 7, 1000])
def test_a_message_fits_whatever_the_names_are(limit: int, number: int, base_url: str) -> None:
    from dataclasses import replace

    alerts_ = [
        replace(
            FACT,
            region="\U0001f600" * 90 + str(n),
            app_group="\U0001f600" * 90,
            old=AttrName("\U0001f600" * 256),
            new=AttrName("@" * 1024),
        )
        for n in range(number)
    ]
    title, body = compose(alerts_, limit=limit, base_url=base_url)
    assert len(title.encode()) + len(body.encode()) <= limit
    shown = body.count("slot 2")
    assert shown >= 1
    assert (f"… and {number - shown} more" in body) == (shown < number)


# Who may what ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "insert into attr_audit.notification (kind, region, sdk_app_id, change_id) "
        "values ('change', 'frankfurt', 1400000001, 1)",
        "insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, created_at) "
        "values ('stale', 'frankfurt', 1400000001, now(), now())",
        "update attr_audit.notification set region = 'seoul'",
        "update attr_audit.notification set created_at = now()",
        "delete from attr_audit.notification",
        "truncate attr_audit.notification",
    ],
)
def test_the_writer_cannot_rewrite_an_alert(db: AuditDb, statement: str) -> None:
    record(db, GENDER, run_id="run 1", at=900)
    assert "permission denied" in refused(db.writer, statement)


def test_what_was_sent_stays_sent(db: AuditDb, sent: Webhook) -> None:
    record(db, GENDER, run_id="run 1", at=900)
    send_waiting(db.writer)
    assert "was sent at" in refused(db.writer, "update attr_audit.notification set sent_at = null")


def test_the_reader_reads_the_alerts_and_marks_nothing(db: AuditDb) -> None:
    record(db, GENDER, run_id="run 1", at=900)
    assert run(db.reader, "select kind, sent_at from attr_audit.notification") == [("change", None)]
    mark = "update attr_audit.notification set sent_at = now()"
    assert "permission denied" in refused(db.reader, mark)


def test_a_change_that_is_rolled_back_takes_its_news_with_it(db: AuditDb) -> None:
    with db.writer.connect() as connection:
        from sqlalchemy import text

        from tests.test_schema import CHANGE

        values = {"slot": 0, "old": "sex", "new": "x", "type": None, "baseline": False}
        values |= {"before": "2026-11-01T00:00:02Z", "seen": "2026-11-01T00:30:00Z"}
        connection.execute(text(CHANGE), values)
        count = text("select count(*) from attr_audit.notification")
        assert connection.execute(count).scalar_one() == 1
        connection.rollback()
        assert connection.execute(count).scalar_one() == 0
    with pytest.raises(DBAPIError):
        record(db, {1001: "x"}, run_id="run 1", at=900)
    assert run(db.reader, "select * from attr_audit.notification") == []


# Through the DAG ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowProcess]:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database airflow_of_test_notify")
    home: Path = tmp_path_factory.mktemp("airflow")
    process = AirflowProcess(
        home,
        postgres.url("airflow_of_test_notify"),
        AIRFLOW__LOGGING__LOGGING_LEVEL="DEBUG",
    )
    yield process
    process.stop()


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator.start(
        tmp_path_factory.mktemp("simulator"), regions=REGIONS, lasting=False
    ) as it:
        yield it


@pytest.fixture
def audit(
    airflow: AirflowProcess, vendor: Simulator, audit_db: AuditDb, hook: Webhook
) -> Iterator[Audit]:
    audit = Audit(airflow, vendor, audit_db)
    audit.environment[NOTIFY] = hook.connection()
    audit.targets("im_seoul", "im_frankfurt")
    yield audit
    # Where Airflow runs tasks in-process, as here, its own debug log quotes what it is to mask.
    log = airflow.log_path.read_text(errors="replace").splitlines()
    assert [line for line in log if "a-secret-token" in line and "MaskSecret(" not in line] == []


def test_runs_of_the_dag_alert_changes_once_after_the_messenger_was_down(
    audit: Audit, hook: Webhook
) -> None:
    audit.run()
    audit.vendor.set_name("frankfurt", APPS["frankfurt"], 0, "level 1")
    assert audit.run().state == "success"
    [(title, body)] = hook.take()
    assert title == "Attribute names: 1 change in frankfurt"
    assert 'slot 0: renamed "sex" → "level 1"' in body
    hook.status = 500
    for number in (2, 3, 4):
        audit.vendor.set_name("frankfurt", APPS["frankfurt"], 0, f"level {number}")
        run = audit.run()
        assert run.state == "success"  # the messenger is not part of the record
        assert "did not accept a message" in run.log
    hook.status = 200
    audit.run()
    bodies = [body for _, body in hook.take()]
    assert [f'→ "level {n}"' in body for n, body in enumerate(bodies, 2)] == [True] * 3


def test_runs_of_the_dag_alert_that_an_app_is_stale_and_that_it_is_back(
    audit: Audit, hook: Webhook
) -> None:
    audit.run()
    rewrite(
        audit.db,
        "update attr_audit.app set first_ok_at = first_ok_at - interval '2 hours', "
        "last_ok_at = last_ok_at - interval '2 hours' where region = 'seoul'",
        "update attr_audit.poll set requested_at = requested_at - interval '2 hours', "
        "last_requested_at = last_requested_at - interval '2 hours' where region = 'seoul'",
    )
    audit.vendor.fault("raw", region="seoul", body="<html>", times=None)
    for _ in range(2):
        assert audit.run().state == "failed"  # and sends its alerts before it fails
    [(title, body)] = hook.take()
    assert title == "Attribute names: 1 app stale in seoul"
    assert f"app seoul/{APPS['seoul']} (connection im_seoul): last good poll" in body
    audit.vendor.clear_faults()
    for _ in range(2):
        assert audit.run().state == "success"
    [(title, body)] = hook.take()
    assert title == "Attribute names: 1 app no longer stale in seoul"


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan", "1e99"])
def test_a_limit_that_is_none_is_refused_by_name(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", given)
    with pytest.raises(BadSetting, match="IM_ATTR_AUDIT_STALE_AFTER is"):
        stale_after()
