"""What kubernetes/ names is there: the settings, the commands, the Secrets that the docs list.

`make test-kubernetes` renders Airflow's chart with the values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from im_attr_audit import cli
from im_attr_audit.settings import SETTINGS

ROOT = Path(__file__).parents[1]
VALUES = yaml.safe_load((ROOT / "kubernetes" / "values.yaml").read_text(encoding="utf-8"))
JOBS = [
    job
    for name in ("jobs.yaml", "checkpoint.yaml")
    for job in yaml.safe_load_all((ROOT / "kubernetes" / name).read_text(encoding="utf-8"))
]
DOCS = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def find(tree: Any, key: str) -> list[Any]:
    """Every value under this key, wherever it stands."""
    if isinstance(tree, list):
        return [found for item in tree for found in find(item, key)]
    if isinstance(tree, dict):
        here = [tree[key]] if key in tree else []
        return here + [found for value in tree.values() for found in find(value, key)]
    return []


def test_each_environment_variable_is_a_setting_of_ours_or_of_airflow() -> None:
    ours = {setting.name for setting in SETTINGS}
    names = [
        variable["name"] for variables in find([VALUES, JOBS], "env") for variable in variables
    ]
    assert len(names) >= 10
    for name in names:
        assert name in ours or name.startswith("AIRFLOW"), name
        if name.startswith("AIRFLOW_CONN_"):
            assert name.removeprefix("AIRFLOW_CONN_").lower() in ours


def test_each_command_of_a_job_is_one_that_the_package_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = [args for args in find(JOBS, "args") if args[0] == "im-attr-audit"]
    assert len(commands) >= 2
    for _, command, *arguments in commands:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        explained = capsys.readouterr().out
        for option in arguments:
            assert not option.startswith("--") or option in explained, command


def test_the_docs_list_each_secret_and_key_that_is_used() -> None:
    used = {(ref["name"], ref["key"]) for ref in find([VALUES, JOBS], "secretKeyRef")}
    used |= {(source["name"], "") for source in find(VALUES, "secret") if "name" in source}
    used |= {(name, "") for name in find([VALUES, JOBS], "passwordSecretName")}
    used |= {(name, "") for name in find(JOBS, "secretName")}
    used |= {(name, "") for name in VALUES["data"].values()}
    rows = [row for row in DOCS.splitlines() if row.startswith("|")]
    assert len(used) >= 8
    for name, key in used:
        listed = [row for row in rows if f"`{name}`" in row]
        assert listed, name
        assert not key or f"`{key}`" in listed[0], name


def test_only_the_jobs_that_change_the_schema_get_the_owners_login() -> None:
    owners = {job["metadata"]["name"] for job in JOBS if "im-attr-audit-owner" in str(job)}
    assert owners == {"im-attr-audit-migrate", "im-attr-audit-retention", "im-attr-audit-fold"}
    assert "im-attr-audit-owner" not in str(VALUES)


def test_the_signing_key_is_mounted_where_nothing_of_airflow_runs() -> None:
    holders = {job["metadata"]["name"] for job in JOBS if "checkpoint-key" in str(job)}
    assert holders == {"im-attr-audit-checkpoint"}
    assert "checkpoint-key" not in str(VALUES)
    assert "sealer" not in str(VALUES)


def failing() -> dict[str, str]:
    """The pattern of job names in each alert rule on failed jobs, by the alert's name."""
    text = (ROOT / "bi" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    [group] = yaml.safe_load(text)["groups"]
    found = {}
    for rule in group["rules"]:
        if pattern := re.search(
            r'kube_job_failed\{condition="true", job_name=~"([^"]+)"\}', rule["expr"]
        ):
            found[rule["alert"]] = pattern[1]
    return found


def test_one_alert_rule_is_on_each_regular_job_and_the_docs_name_it() -> None:
    jobs = [job["metadata"]["name"] for job in JOBS if job["kind"] == "CronJob"]
    assert len(jobs) == 5
    covering: set[str] = set()
    for job in jobs:
        # Kubernetes adds the minute for which it starts a job.
        [alert] = [
            n for n, pattern in failing().items() if re.fullmatch(pattern, f"{job}-29406160")
        ]
        [row] = [line for line in DOCS.splitlines() if re.match(rf"\| .*`{job}`.* \|", line)]
        assert f"[{alert}](runbooks.md#{alert.lower()})" in row
        covering.add(alert)
    assert covering == set(failing())


def test_a_failed_job_whose_alert_needs_two_in_a_row_is_deleted_before_it_alerts_alone() -> None:
    text = (ROOT / "bi" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    [group] = yaml.safe_load(text)["groups"]
    waits = {rule["alert"]: rule.get("for", "0m") for rule in group["rules"]}
    for job in JOBS:
        if job["kind"] != "CronJob":
            continue
        name = job["metadata"]["name"]
        [alert] = [n for n, pattern in failing().items() if re.fullmatch(pattern, f"{name}-1")]
        kept = job["spec"]["jobTemplate"]["spec"].get("ttlSecondsAfterFinished")
        wait = int(waits[alert].removesuffix("m")) * 60
        if kept is None:
            assert wait == 0, name
            continue
        [minutes] = re.findall(r"^\*/(\d+) \* \* \* \*$", job["spec"]["schedule"])
        interval = int(minutes) * 60
        assert interval < kept < wait < interval + kept, name


def test_no_secret_stands_in_the_files() -> None:
    text = (ROOT / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?i)password:\s*\S|://[^/\s]*:[^/\s]*@", text)


def test_a_job_that_cannot_start_fails_in_the_end() -> None:
    """Otherwise it is never a failed one, and no alert says that it does not run."""
    regular = [job for job in JOBS if job["kind"] == "CronJob"]
    assert len(regular) == 5
    for job in regular:
        assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0, job["metadata"]
