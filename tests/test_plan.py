"""What `plan` costs where there are many apps: Airflow's masker is not told of each."""

from __future__ import annotations

import json

import pytest
from im_attr_audit import tasks

from tests.conftest import AuditDb


@pytest.mark.parametrize(("timeout", "parts"), [(10, 1), (60, 3)])
def test_apps_that_may_hang_for_long_are_split_so_that_a_task_can_end(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, timeout: int, parts: int
) -> None:
    apps = range(200)
    for app in apps:
        extra = {"region": "seoul", "sdk_app_id": 20000000 + app, "timeout": timeout}
        told = {"conn_type": "tencent_im", "login": "a", "password": "b" * 64, "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_APP_{app}", json.dumps(told))
    listed = json.dumps([f"app_{app}" for app in apps])
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: listed)
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    instances = tasks.plan(None)
    assert len(instances) == parts
    assert [conn_id for each in instances for conn_id in each["conn_ids"]] == json.loads(listed)


@pytest.mark.parametrize("more", [0, 1])
def test_airflows_masker_is_told_of_few_keys_and_not_of_many(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    apps = range(tasks.MASKED_AT_MOST + more)
    keys = {app: f"{app:064x}" for app in apps}
    for app, key in keys.items():
        extra = {"region": "seoul", "sdk_app_id": 20000000 + app}
        connection = {"conn_type": "tencent_im", "login": "a", "password": key, "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_APP_{app}", json.dumps(connection))
    listed = json.dumps([f"app_{app}" for app in apps])
    # Outside a task there is nobody to ask for a Variable.
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: listed)
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    told: set[object] = set()
    monkeypatch.setattr("airflow.sdk.execution_time.context.mask_secret", told.add)
    monkeypatch.setattr("im_attr_audit.hook.mask_secret", told.add)

    [instance] = tasks.plan(None)

    assert instance["conn_ids"] == [f"app_{app}" for app in apps]
    assert told & set(keys.values()) == (set() if more else set(keys.values()))
