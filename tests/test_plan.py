"""`plan` where there are many apps: how they are split, and what Airflow's masker registers."""

from __future__ import annotations

import json
import os

import pytest
from im_attr_audit import tasks
from im_attr_audit.tasks import targets

from tests.conftest import AuditDb


def list_apps(
    db: AuditDb, monkeypatch: pytest.MonkeyPatch, number: int, **extra: object
) -> dict[str, str]:
    """Apps of one region, listed in the Variable; connection and key of each."""
    keys = {f"app_{app}": f"{app:064x}" for app in range(number)}
    for app, (conn_id, key) in enumerate(keys.items()):
        fields = {"region": "seoul", "sdk_app_id": 20000000 + app, **extra}
        connection = {"conn_type": "tencent_im", "login": "a", "password": key, "extra": fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    # Outside a task there is nobody to ask for a Variable.
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: json.dumps([*keys]))
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", db.writer_connection)
    return keys


@pytest.mark.parametrize(("timeout", "parts"), [(10, 1), (60, 3)])
def test_apps_that_may_hang_for_long_are_split_so_that_a_task_can_end(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, timeout: int, parts: int
) -> None:
    keys = list_apps(audit_db, monkeypatch, 200, timeout=timeout)
    instances = tasks.plan(None)
    assert len(instances) == parts
    assert [conn_id for each in instances for conn_id in each["conn_ids"]] == [*keys]


def test_connections_that_named_one_app_are_polled_once_they_are_fixed(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clearing `sync` is enough: `plan` does not run again."""
    list_apps(audit_db, monkeypatch, 3)
    right = os.environ["AIRFLOW_CONN_APP_1"]
    monkeypatch.setenv("AIRFLOW_CONN_APP_1", os.environ["AIRFLOW_CONN_APP_0"])
    [instance] = tasks.plan(None)
    assert instance["problems"].keys() == {"app_0", "app_1"}
    listed = ["app_0", "app_1", "app_2"]

    def still(listed: list[str]) -> dict[str, str]:
        return targets.still_misconfigured(instance["problems"], listed, masked=False)

    assert still(listed) == instance["problems"]
    monkeypatch.setenv("AIRFLOW_CONN_APP_1", right)
    assert still(listed) == {}
    # It names another app now, which is polled by its own connection.
    monkeypatch.setenv("AIRFLOW_CONN_APP_1", os.environ["AIRFLOW_CONN_APP_2"])
    assert "app_1, app_2. Keep one" in still(listed)["app_1"]
    # It is not listed any more: to poll it would be to poll its app twice.
    assert "clear the whole run" in still(["app_0", "app_2"])["app_1"]


@pytest.mark.parametrize("more", [0, 1])
def test_airflows_masker_gets_a_few_keys_and_not_many(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    keys = list_apps(audit_db, monkeypatch, tasks.MASKED_AT_MOST + more)
    masked: set[object] = set()
    monkeypatch.setattr("airflow.sdk.execution_time.context.mask_secret", masked.add)
    monkeypatch.setattr("im_attr_audit.hook.mask_secret", masked.add)

    [instance] = tasks.plan(None)

    assert instance["conn_ids"] == [*keys]
    assert masked & set(keys.values()) == (set() if more else set(keys.values()))


@pytest.mark.parametrize("more", [0, 1])
def test_the_supervisor_is_told_of_few_connections_and_not_of_many(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Each message to it waits for its answer."""
    keys = list_apps(audit_db, monkeypatch, tasks.MASKED_AT_MOST + more)
    masked: list[object] = []
    monkeypatch.setattr("airflow.sdk.log.mask_secret", lambda secret, *_: masked.append(secret))

    [instance] = tasks.plan(None)

    assert instance["conn_ids"] == [*keys]
    extras = [each for each in masked if isinstance(each, dict) and "sdk_app_id" in each]
    assert len(extras) == (0 if more else len(keys))
