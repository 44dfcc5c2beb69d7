"""Where declared names are read, and what a run does with a document that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from im_attr_audit import tasks
from im_attr_audit.tasks import declarations
from im_attr_audit.tasks.declarations import Document, Place, find_document

from tests.conftest import AuditDb
from tests.test_views import run

SHOP = "groups:\n  shop:\n    names: {0: sex}\n"


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The Variables that are defined; outside a task there is nobody to ask."""
    defined: dict[str, Any] = {}
    monkeypatch.setattr(declarations, "_variable", lambda: defined.get("declared"))
    return defined


def test_the_variable_counts_then_the_file_of_the_environment_then_the_dags_folder(
    variable: dict[str, Any], tmp_path: Path
) -> None:
    place, environ = Place(tmp_path), {"IM_ATTR_AUDIT_DECLARED_NAMES": "names/other.yaml"}
    assert find_document(place, {}) == Document("none")
    default = tmp_path / "declared_names.yaml"
    default.write_text(SHOP, encoding="utf-8")
    assert find_document(place, {}) == Document(str(default), SHOP)
    with pytest.raises(FileNotFoundError):  # not the same as nothing declared
        find_document(place, environ)
    other = tmp_path / "names" / "other.yaml"
    other.parent.mkdir()
    other.write_bytes(b"\xef\xbb\xbfgroups: {}")
    assert find_document(place, environ) == Document(str(other), "groups: {}")
    variable["declared"] = {"groups": {}}  # a secrets backend may give it parsed
    assert find_document(place, environ) == Document(
        "Variable im_attr_audit_declared_names", '{"groups": {}}'
    )


def test_the_revision_is_the_bundles_version_of_a_file_that_is_part_of_it(
    variable: dict[str, Any], tmp_path: Path
) -> None:
    bundle = SimpleNamespace(version="4f2c", path=tmp_path / "bundle")
    dags = tmp_path / "bundle" / "dags"
    dags.mkdir(parents=True)
    for folder in (dags, tmp_path):
        (folder / "declared_names.yaml").write_text(SHOP, encoding="utf-8")
    assert find_document(Place(dags, bundle), {}).revision == "4f2c"
    outside = {"IM_ATTR_AUDIT_DECLARED_NAMES": str(tmp_path / "declared_names.yaml")}
    assert find_document(Place(dags, bundle), outside).revision is None
    bundle.version = None
    assert find_document(Place(dags, bundle), {}).revision is None


def test_a_refused_document_fails_the_report_and_the_last_valid_one_stays_in_force(
    audit_db: AuditDb,
    variable: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("im_attr_audit.tasks.Variable.get", lambda *_, **__: json.dumps(["app"]))
    fields = {"region": "seoul", "sdk_app_id": 20000000}
    connection = {"conn_type": "tencent_im", "login": "a", "password": "k" * 64, "extra": fields}
    monkeypatch.setenv("AIRFLOW_CONN_APP", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", audit_db.writer_connection)
    recorded = "select source, document ->> 'groups' <> '{}' from declaration order by 1"

    def plan() -> None:
        assert len(tasks.plan(None, dag_run_id="run", dag_folder=tmp_path)) == 1

    def declare_again() -> dict[str, int]:
        return tasks.declare_again("run", tmp_path, None)

    def report() -> None:
        tasks.report([], dag_run_id="run", states={}, dag_folder=tmp_path)

    plan()
    report()
    assert run(audit_db.reader, recorded) == []  # nothing declared: nothing changes
    variable["declared"] = SHOP
    plan()
    with monkeypatch.context() as patched:
        patched.setattr(declarations, "parse", None)  # an unchanged text is not parsed again
        plan()
    known = [("Variable im_attr_audit_declared_names", True)]
    assert run(audit_db.reader, recorded) == known
    variable["declared"] = SHOP + "    more: 1\n"
    # Polls continue; one more instance of `sync` is red, and the run with it.
    _, again = tasks.plan(None, dag_run_id="run", dag_folder=tmp_path)
    assert again == {"label": "declared names", "conn_ids": [], "problems": {}}
    assert 'im_attr_audit_declared_names, line 4: group "shop": unknown key "more"' in caplog.text
    with pytest.raises(AirflowFailException, match="declared names were refused"):
        declare_again()
    with pytest.raises(AirflowFailException, match="declared names were refused"):
        report()
    assert run(audit_db.reader, recorded) == known
    variable["declared"] = SHOP
    assert declare_again() == {}  # cleared once the document is right
    del variable["declared"]
    report()  # cleared once the document is gone: nothing is declared any longer
    assert run(audit_db.reader, recorded) == [*known, ("none", False)]
