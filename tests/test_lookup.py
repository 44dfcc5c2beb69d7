"""A secrets backend that fails is not a connection that is missing: every connection we read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.sdk.exceptions import AirflowException, AirflowFailException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from im_attr_audit import tasks
from im_attr_audit.errors import Misconfigured, SecretsUnavailable
from im_attr_audit.hook import TencentImHook
from im_attr_audit.lookup import ask_for_variable, find_connection
from im_attr_audit.messages import notify
from im_attr_audit.page.reader import CannotRead, connection_from_airflow
from im_attr_audit.settings import BadSetting
from im_attr_audit.tasks.targets import FAILING_AT_MOST, resolve
from im_attr_audit.tencent.target import Unresolved
from sqlalchemy import text

from simulator.control import Simulator
from tests.conftest import AuditDb

REGIONS = ("seoul",)
SECRET = "hvs.CAESIJ-a-token-of-the-backend"


class Store(BaseSecretsBackend):
    """A secrets backend of a deployment: it holds what a test puts in, and fails when asked to."""

    connections: ClassVar[dict[str, str]] = {}
    variables: ClassVar[dict[str, Any]] = {}
    #: How often a lookup fails from now on; -1: always.
    failing: ClassVar[int] = 0
    asked: ClassVar[int] = 0

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        self._answer_or_fail()
        return self.connections.get(conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> Any:
        self._answer_or_fail()
        return self.variables.get(key)

    def _answer_or_fail(self) -> None:
        Store.asked += 1
        if Store.failing:
            Store.failing -= 1
            raise ConnectionError(f"https://vault.example.com?token={SECRET}")


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
    """The backend, configured as a deployment configures one."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "tests.test_lookup.Store")
    Store.connections, Store.variables, Store.failing, Store.asked = {}, {}, 0, 0
    clear_secrets_backends_cache()
    yield Store
    clear_secrets_backends_cache()


@pytest.fixture
def listed(
    store: type[Store], audit_db: AuditDb, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> str:
    """One app that is listed, its connection in the backend; the writer's is in the environment."""
    simulator.reset()
    simulator.add_app("seoul", 7, {0: "sex"})
    store.connections["im_seoul"] = json.dumps(simulator.connection_json("seoul", 7))
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: '["im_seoul"]')
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    monkeypatch.setenv("IM_ATTR_AUDIT_CONFIRM_SECONDS", "0")
    return "im_seoul"


def sync(conn_id: str, *, run: str, try_number: int = 1) -> dict[str, int]:
    ti = SimpleNamespace(max_tries=3, try_number=try_number, task=SimpleNamespace(retries=3))
    return tasks.sync([conn_id], {}, dag_run_id=run, begun_at=None, ti=ti)


def polls(db: AuditDb) -> list[Any]:
    with db.reader.connect() as connection:
        return list(
            connection.execute(
                text(
                    "select region, sdk_app_id, api, outcome, error_info from attr_audit.poll "
                    "order by poll_id"
                )
            )
        )


# The lookup ------------------------------------------------------------------------------------


def test_what_no_backend_has_is_not_defined() -> None:
    assert find_connection("nowhere") is None
    assert ask_for_variable("nothing") is None


def test_a_backend_that_fails_is_named_and_its_text_is_not_quoted(store: type[Store]) -> None:
    store.failing = -1
    looks: list[Callable[[], Any]] = [
        lambda: find_connection("im_seoul"),
        lambda: ask_for_variable("a_variable"),
    ]
    for look in looks:
        with pytest.raises(SecretsUnavailable) as failed:
            look()
        assert "the secrets backend failed (Store: ConnectionError)" in str(failed.value)
        assert SECRET not in str(failed.value)


def test_a_failure_that_has_passed_is_not_a_failure(store: type[Store]) -> None:
    store.connections["im_seoul"] = "tencent-im://a:b@example.com"
    store.failing = 1
    assert find_connection("im_seoul") is not None


def test_a_connection_in_another_backend_is_found_while_one_fails(
    store: type[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_SEOUL", "tencent-im://a:b@example.com")
    store.failing = -1
    assert find_connection("im_seoul") is not None


def test_a_value_that_is_not_a_connection_is_reported_as_that(store: type[Store]) -> None:
    store.connections["im_seoul"] = f'{{"password": "{SECRET}"'
    with pytest.raises(BadSetting, match="im_seoul is defined, but its value") as refused:
        find_connection("im_seoul")
    assert SECRET not in str(refused.value)
    with pytest.raises(Misconfigured, match="im_seoul is defined, but its value"):
        TencentImHook("im_seoul").get_target()


@pytest.mark.parametrize(
    ("error", "is_down"),
    [
        (ErrorType.CONNECTION_NOT_FOUND, False),
        (ErrorType.API_SERVER_ERROR, True),
        (ErrorType.GENERIC_ERROR, True),
    ],
)
def test_an_api_server_that_is_down_is_not_one_that_has_no_connection(
    monkeypatch: pytest.MonkeyPatch, error: ErrorType, is_down: bool
) -> None:
    comms = SimpleNamespace(send=lambda _: ErrorResponse(error=error))
    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False
    )
    if not is_down:
        assert find_connection("im_seoul") is None
        return
    with pytest.raises(SecretsUnavailable, match=error.value):
        find_connection("im_seoul")


def test_a_failing_backend_is_not_asked_for_every_connection_of_many(store: type[Store]) -> None:
    store.failing = -1
    clock = iter(range(0, 10_000_000, int(FAILING_AT_MOST / 3)))
    found = resolve([f"im_{i}" for i in range(100)], masked=False, monotonic=lambda: next(clock))
    assert len(found) == 100
    assert all(isinstance(each, Unresolved) for each in found.values())
    assert store.asked < 10


# The audited apps ------------------------------------------------------------------------------


def test_what_is_known_of_a_connection_stays_known_while_its_backend_fails(
    store: type[Store], audit_db: AuditDb, listed: str
) -> None:
    assert sync(listed, run="before") == {"ok": 1}
    store.failing = -1
    [instance] = tasks.plan(None)
    assert (instance["label"], instance["conn_ids"]) == ("seoul", [listed])
    with pytest.raises(AirflowException, match="im_seoul unavailable") as failed:
        sync(listed, run="while it fails")
    assert not isinstance(failed.value, AirflowFailException)  # so that it is tried again
    [_, poll] = polls(audit_db)
    assert poll[:4] == ("seoul", 7, "all_member_push", "unavailable")
    assert "the secrets backend failed" in poll.error_info
    with audit_db.reader.connect() as connection:
        [app] = connection.execute(text("select last_outcome, retired_at from attr_audit.app"))
    assert tuple(app) == ("unavailable", None)
    store.failing = 0
    assert sync(listed, run="while it fails", try_number=2) == {"ok": 1}


def test_a_known_connection_that_was_deleted_is_misconfigured_with_its_app(
    store: type[Store], audit_db: AuditDb, listed: str
) -> None:
    assert sync(listed, run="before") == {"ok": 1}
    store.connections.clear()
    [instance] = tasks.plan(None)
    assert instance["label"] == "seoul"
    with pytest.raises(AirflowFailException, match="im_seoul misconfigured"):
        sync(listed, run="after")
    poll = polls(audit_db)[-1]
    assert (poll.region, poll.sdk_app_id, poll.outcome) == ("seoul", 7, "misconfigured")
    assert "is not defined" in poll.error_info


def test_a_known_connection_that_lost_its_sdk_app_id_is_misconfigured_with_its_app(
    store: type[Store], audit_db: AuditDb, listed: str
) -> None:
    assert sync(listed, run="before") == {"ok": 1}
    connection = json.loads(store.connections[listed])
    connection["extra"] |= {"sdk_app_id": "70O1"}
    store.connections[listed] = json.dumps(connection)
    with pytest.raises(AirflowFailException, match="im_seoul misconfigured"):
        sync(listed, run="after")
    poll = polls(audit_db)[-1]
    assert (poll.region, poll.sdk_app_id, poll.outcome) == ("seoul", 7, "misconfigured")
    assert "sdk_app_id" in poll.error_info


def test_a_connection_never_polled_is_tried_again_before_it_counts_as_misconfigured(
    store: type[Store], audit_db: AuditDb, listed: str
) -> None:
    store.failing = -1
    for number in (1, 2, 3):
        with pytest.raises(AirflowException, match="im_seoul unavailable") as failed:
            sync(listed, run="run", try_number=number)
        assert not isinstance(failed.value, AirflowFailException)
    assert polls(audit_db) == []
    with pytest.raises(AirflowFailException, match="im_seoul misconfigured"):
        sync(listed, run="run", try_number=4)
    [poll] = polls(audit_db)
    assert (poll.region, poll.outcome) == (None, "misconfigured")
    assert "the secrets backend failed" in poll.error_info
    store.failing = 0
    assert sync(listed, run="next") == {"ok": 1}


# The other connections, and the Variable -------------------------------------------------------


def test_a_variable_that_could_not_be_looked_up_is_not_called_unset(
    store: type[Store], audit_db: AuditDb, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "tests.test_lookup.Store")
    clear_secrets_backends_cache()
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    store.variables["im_attr_audit_conn_ids"] = ["im_seoul"]  # as a typed store returns it
    assert [i["conn_ids"] for i in tasks.plan(None)] == [["im_seoul"]]
    store.failing = -1
    with pytest.raises(AirflowException, match="the secrets backend failed") as failed:
        tasks.plan(None)
    assert not isinstance(failed.value, AirflowFailException)
    store.failing = 0
    store.variables.clear()
    with pytest.raises(AirflowFailException, match="im_attr_audit_conn_ids is not set"):
        tasks.plan(None)


def test_the_writers_connection_is_looked_up_again_by_a_retry(store: type[Store]) -> None:
    store.failing = -1
    with pytest.raises(AirflowException, match="the secrets backend failed") as failed:
        tasks.publish({}, {})
    assert not isinstance(failed.value, AirflowFailException)
    store.failing = 0
    with pytest.raises(AirflowFailException, match="im_attr_audit_db is not defined"):
        tasks.publish({}, {})


def test_the_page_does_not_read_as_the_writer_while_the_readers_backend_fails(
    store: type[Store], audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    assert connection_from_airflow() is not None
    store.failing = -1
    with pytest.raises(CannotRead) as refused:
        connection_from_airflow()
    assert refused.value.code == "secrets_unavailable"
    assert "im_attr_audit_db_reader could not be looked up" in refused.value.what


def test_alerts_wait_while_the_backend_of_their_connection_fails(
    store: type[Store], caplog: pytest.LogCaptureFixture
) -> None:
    store.failing = -1
    with caplog.at_level(logging.WARNING):
        assert notify._messenger(lambda: None) is None
    assert "Alerts not sent: the secrets backend failed" in caplog.text
    assert "They wait for the next run" in caplog.text
