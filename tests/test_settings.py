"""Settings: one table, parsed once; a wrong one is refused by name, in every process alike."""

from __future__ import annotations

import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException
from im_attr_audit import settings, tasks
from im_attr_audit.settings import BadSetting

from tests.conftest import AuditDb
from tests.operations import GUIDE, settings_table

ROOT = Path(__file__).resolve().parents[1]
#: Names of container images, which docker compose alone reads.
IMAGES = {"IM_ATTR_AUDIT_IMAGE", "IM_ATTR_AUDIT_DEMO_IMAGE"}
OTHERS = (":!*.md", ":!tests", ":!benchmarks", ":!bi")
IN_THE_ENVIRONMENT = {s.name for s in settings.SETTINGS if s.name.isupper()}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30", 30), ("5000000", 5_000_000), ("", 3600), (" 60 ", 60), ("1.5", 1.5)],
)
def test_the_limit_for_stale_apps_is_taken_as_it_is_written(given: str, seconds: float) -> None:
    environ = {"IM_ATTR_AUDIT_STALE_AFTER": given}
    assert settings.stale_after(environ) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "given", ["abc", "-1", "0", "nan", "inf", "1e99", "1_000", "٣٠", "40000000"]
)
def test_a_limit_that_is_not_a_number_within_its_bounds_is_refused_by_name(given: str) -> None:
    with pytest.raises(BadSetting, match="IM_ATTR_AUDIT_STALE_AFTER is") as refused:
        settings.stale_after({"IM_ATTR_AUDIT_STALE_AFTER": given})
    assert "set it to a number of seconds from 1 to 31622400." in str(refused.value)


def test_a_setting_that_is_not_set_has_the_default_of_the_table() -> None:
    assert settings.stale_after({}) == timedelta(hours=1)
    assert settings.CONFIRM_SECONDS.read({}) == 2
    assert settings.RETRY_SECONDS.read({}) == 30
    assert settings.schedule({}) == "*/15 * * * *"


@pytest.mark.parametrize("given", ["0 0 1 1 *", "@hourly"])
def test_a_schedule_is_a_cron_expression(given: str) -> None:
    assert settings.schedule({"IM_ATTR_AUDIT_SCHEDULE": given}) == given


@pytest.mark.parametrize(
    "given", ["15", "every hour", "* * * *", "*/15 * * * * *", "@once", "@continuous", "@bogus"]
)
def test_a_schedule_that_is_not_cron_is_refused_by_name(given: str) -> None:
    with pytest.raises(BadSetting, match="IM_ATTR_AUDIT_SCHEDULE is"):
        settings.schedule({"IM_ATTR_AUDIT_SCHEDULE": given})


@pytest.mark.parametrize("value", ['["a", "b"]', ["a", "b"]])
def test_the_list_of_connections_is_json_or_already_a_list(value: object) -> None:
    assert settings.parse_conn_ids(value) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is not set"),
        ("a, b", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("['a', 'b']", "is a Python list, not JSON: use double quotes"),
        ('{"a": 1}', "is not a list of texts"),
        ({"a": 1}, "is not a list of texts"),
        (("a",), "is not a list of texts"),
        ('"a"', "is not a list of texts"),
        (["a", 1], "is not a list of texts"),
        (["a", " "], "is not a list of texts"),
        (7, "is not a list of texts"),
        ([], "is an empty list"),
    ],
)
def test_another_shape_of_the_list_is_refused_with_what_to_write(value: object, why: str) -> None:
    with pytest.raises(BadSetting) as refused:
        settings.parse_conn_ids(value)
    assert f"The Variable im_attr_audit_conn_ids {why}." in str(refused.value)
    assert 'such as ["im_frankfurt"]' in str(refused.value)


def test_the_address_of_the_runbooks_is_optional_and_is_a_web_address() -> None:
    name = settings.RUNBOOKS_URL.name
    assert settings.runbooks_url({}) is None
    assert settings.runbooks_url({name: " "}) is None
    for good in ("https://git.example/a/runbooks.md", "http://127.0.0.1:8000/x?y=1"):
        assert settings.runbooks_url({name: good}) == good
    for bad in (
        "runbooks.md", "javascript:alert(1)", "https://x.example/a b", "https://x/#stale",
        "https://me:s3cret@git.example/r.md", 'https://x/"><b>', "https://", "https:///r.md",
    ):  # fmt: skip
        with pytest.raises(BadSetting, match=f"{name} is not .*begins with https://") as refused:
            settings.runbooks_url({name: bad})
        assert "s3cret" not in str(refused.value)


def test_the_guide_lists_the_settings_of_the_table() -> None:
    assert settings_table() in GUIDE.read_text(encoding="utf-8")


def test_every_environment_variable_of_ours_in_the_tree_is_in_the_table() -> None:
    names = set(
        re.findall(
            r"(?<![A-Z_])IM_ATTR_AUDIT_[A-Z_]+",
            subprocess.run(
                # bi/: what dbt and Grafana read there are their own, listed in docs/bi.md.
                ["git", "grep", "-hI", "IM_ATTR_AUDIT_", "--", *OTHERS],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout,
        )
    )
    assert names - IMAGES == IN_THE_ENVIRONMENT


def test_every_setting_of_a_task_can_be_set_in_compose() -> None:
    compose = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    # The declared names are in the DAG's folder, and no task gets the others.
    elsewhere = (
        settings.DECLARED_NAMES_FILE,
        settings.DATABASE_URL,
        settings.SEALER_URL,
        settings.STATE_DIR,
    )
    of_tasks = [
        each for each in settings.SETTINGS
        if each.form == "environment variable" and each not in elsewhere
    ]  # fmt: skip
    assert len(of_tasks) == 6
    for setting in of_tasks:
        default = setting.default or ""
        assert f"  {setting.name}: ${{{setting.name}:-{default}}}\n" in compose
        for path in (".env.example", "docs/compose.md"):
            assert setting.name in (ROOT / path).read_text(encoding="utf-8"), path


def test_a_task_fails_for_good_with_the_sentence_of_the_setting(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: "['a']")
    with pytest.raises(AirflowFailException, match="im_attr_audit_conn_ids is a Python list"):
        tasks.plan(None)
    monkeypatch.setenv("IM_ATTR_AUDIT_CONFIRM_SECONDS", "soon")
    with pytest.raises(AirflowFailException, match="IM_ATTR_AUDIT_CONFIRM_SECONDS is 'soon'"):
        tasks.sync([], {}, dag_run_id="run", begun_at=None, ti=None)
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", "abc")
    with pytest.raises(AirflowFailException, match="IM_ATTR_AUDIT_STALE_AFTER is 'abc'"):
        tasks.report([], dag_run_id="run", states={})
