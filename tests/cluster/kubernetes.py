"""Airflow's official chart rendered with our values, and our jobs, against Kubernetes' schemas.

`make test-kubernetes`. The machine's own: `helm`, `kubernetes-validate` (PyPI), and the chart in a
folder that IM_ATTR_AUDIT_TEST_CHART names. What was tried is in docs/kubernetes.md.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VALUES = ROOT / "kubernetes" / "values.yaml"
JOBS = ROOT / "kubernetes" / "jobs.yaml"
#: Only what runs Airflow may have these.
CONTROL_ONLY = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__FERNET_KEY"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chart = os.environ["IM_ATTR_AUDIT_TEST_CHART"]
    command = [
        "helm",
        "template",
        "airflow",
        chart,
        "--namespace",
        "airflow",
        "--values",
        str(VALUES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    file = tmp_path_factory.mktemp("chart") / "rendered.yaml"
    file.write_text(done.stdout, encoding="utf-8")
    return file


def containers(file: Path) -> dict[str, dict[str, Any]]:
    """Every container by `object/container`, init containers included."""
    found = {}
    for item in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        pod = ((item or {}).get("spec") or {}).get("template", {}).get("spec") or {}
        for container in (pod.get("initContainers") or []) + pod.get("containers", []):
            found[f"{item['metadata']['name']}/{container['name']}"] = container
    return found


def variables(container: dict[str, Any]) -> set[str]:
    return {variable["name"] for variable in container.get("env") or []}


def test_each_object_fits_the_schemas_of_kubernetes(rendered: Path) -> None:
    command = ["kubernetes-validate", "--strict", "-k", "1.34", str(rendered), str(JOBS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workers_get_the_keys_and_nothing_of_airflows_own_database(rendered: Path) -> None:
    found = containers(rendered)
    worker = found["airflow-worker/worker"]
    mounted = {mount["mountPath"] for mount in worker["volumeMounts"]}
    assert "/etc/im-attr-audit/connections" in mounted
    assert not variables(worker) & (CONTROL_ONLY | {"AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER"})


def test_what_runs_airflow_gets_its_database_and_no_key(rendered: Path) -> None:
    found = containers(rendered)
    for name in ("api-server", "scheduler", "dag-processor"):
        container = found[f"airflow-{name}/{name}"]
        assert variables(container) >= CONTROL_ONLY, name
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/etc/im-attr-audit/connections" not in mounted, name
