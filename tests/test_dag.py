"""The DAG as Airflow runs it: its shape, its labels, its colours, its events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from tests.airflow_process import AirflowProcess, Ended
from tests.conftest import AuditDb

REGIONS = ("china", "seoul", "frankfurt")
APPS = {"china": 1400000001, "seoul": 1400000002, "frankfurt": 1400000003}
NAMES = {0: "sex", 1: "city"}


@pytest.fixture(scope="module")
def airflow(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowProcess]:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database airflow_of_test_dag")
    home = tmp_path_factory.mktemp("airflow")
    process = AirflowProcess(home, postgres.url("airflow_of_test_dag"))
    yield process
    process.stop()


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator.start(
        tmp_path_factory.mktemp("simulator"), regions=REGIONS, lasting=False
    ) as it:
        yield it


class Audit:
    """One audit database, three apps at the simulator, and runs of the DAG over them."""

    def __init__(self, airflow: AirflowProcess, vendor: Simulator, db: AuditDb) -> None:
        self.airflow, self.vendor, self.db = airflow, vendor, db
        vendor.reset()
        for region, app in APPS.items():
            vendor.add_app(region, app, NAMES)
        self.environment: dict[str, str | None] = {
            f"AIRFLOW_CONN_IM_{region.upper()}": json.dumps(vendor.connection_json(region, app))
            for region, app in APPS.items()
        }
        self.environment["AIRFLOW_CONN_IM_ATTR_AUDIT_DB"] = db.writer_connection
        self.targets("im_china", "im_seoul", "im_frankfurt")

    def targets(self, *conn_ids: str) -> None:
        """Set the Variable."""
        self.environment["AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS"] = json.dumps(conn_ids)

    def connection(self, conn_id: str, region: str, **more: Any) -> None:
        """Define one more connection."""
        wanted = self.vendor.connection_json(region, APPS[region]) | more
        self.environment[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(wanted)

    def run(self, conf: Any = None) -> Ended:
        return self.airflow.run(self.environment, conf)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.db.reader.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def outcomes(self, run: Ended) -> dict[str, list[str]]:
        """conn_id → the outcomes of its polls in the run, in order."""
        found: dict[str, list[str]] = {}
        with self.db.reader.connect() as connection:
            for conn_id, outcome in connection.execute(
                text(
                    "select conn_id, outcome from attr_audit.poll where dag_run_id = :run "
                    "order by poll_id"
                ),
                {"run": run.run_id},
            ):
                found.setdefault(conn_id, []).append(outcome)
        return found


@pytest.fixture
def audit(airflow: AirflowProcess, vendor: Simulator, audit_db: AuditDb) -> Audit:
    return Audit(airflow, vendor, audit_db)


SNAPSHOT = "select region, slot, name from attr_audit.snapshot order by 1, 2"


def test_the_dag_has_the_shape_that_others_rely_on(airflow: AirflowProcess) -> None:
    dag = airflow.describe()
    assert dag["dag_id"] == "im_attr_name_audit"
    assert dag["timetable"]["__var"]["expression"] == "*/15 * * * *"
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False)
    tasks = {task["__var"]["task_id"]: task["__var"] for task in dag["tasks"]}
    assert {name: sorted(task.get("downstream_task_ids", [])) for name, task in tasks.items()} == {
        "plan": ["report", "sync"],
        "sync": ["publish", "report"],
        "publish": ["report"],
        "report": [],
    }
    assert tasks["sync"]["_is_mapped"] is True
    assert tasks["publish"]["trigger_rule"] == tasks["report"]["trigger_rule"] == "all_done"
    assert tasks["report"].get("retries", 0) == 0


def test_a_rename_is_recorded_once_and_published(audit: Audit, postgres: EmbeddedPostgres) -> None:
    first = audit.run()
    assert first.states() == {
        "plan": "success",
        "china": "success",
        "frankfurt": "success",
        "seoul": "success",
        "publish": "success",
        "report": "success",
    }
    audit.vendor.set_name("frankfurt", APPS["frankfurt"], 0, "gender")
    second = audit.run()
    third = audit.run()
    assert (second.state, third.state) == ("success", "success")
    assert audit.query(
        "select region, seq, kind, old_name, new_name, not_before < seen_at, dag_run_id "
        "from attr_audit.change where not is_baseline"
    ) == [("frankfurt", 3, "renamed", "sex", "gender", True, second.run_id)]
    assert second.log.count("renamed") == 1
    assert "renamed" not in third.log

    with postgres.connect("airflow_of_test_dag") as connection, connection.cursor() as cursor:
        cursor.execute(
            "select e.extra from asset_event e join asset a on a.id = e.asset_id "
            "where a.name = 'im-attr-audit/changes' order by e.extra ->> 'region', e.id"
        )
        events = [extra for (extra,) in cursor.fetchall()]
    mine = [e for e in events if e["dag_run_id"] in (first.run_id, second.run_id, third.run_id)]
    assert [(e["region"], e["baselines"], e["changes"]) for e in mine] == [
        ("china", 2, 0),
        ("frankfurt", 2, 0),
        ("frankfurt", 0, 1),
        ("seoul", 2, 0),
    ]
    [(seq, row_hash)] = audit.query(
        "select head_seq, encode(head_hash, 'hex') from attr_audit.verify_chain() "
        "where region = 'frankfurt'"
    )
    assert mine[2]["chain_heads"] == {str(APPS["frankfurt"]): {"seq": seq, "hash": row_hash}}


def test_one_region_that_fails_and_one_wrong_key_stop_no_other(audit: Audit) -> None:
    audit.run()
    before = audit.query(SNAPSHOT)
    audit.vendor.set_name("frankfurt", APPS["frankfurt"], 0, "gender")
    audit.vendor.fault("bad_gateway", region="seoul", times=None)
    audit.connection("im_china", "china", password="a wrong key")
    run = audit.run()
    assert run.state == "failed"
    assert run.states() == {
        "plan": "success",
        "china": "failed",
        "frankfurt": "success",
        "seoul": "failed",
        "publish": "success",
        "report": "failed",
    }
    # A wrong key is not tried again, it nears the vendor's lock-out; a 502 is.
    assert audit.outcomes(run) == {
        "im_china": ["rejected"],
        "im_frankfurt": ["ok"],
        "im_seoul": ["unavailable"] * 4,
    }
    assert "connection im_china): rejected" in run.log
    assert "connection im_seoul): unavailable" in run.log
    after = dict.fromkeys(before) | {("frankfurt", 0, "gender"): None}
    del after["frankfurt", 0, "sex"]
    assert set(audit.query(SNAPSHOT)) == set(after)


def test_declared_names_reach_the_database_and_a_refused_document_fails_the_run_and_no_poll(
    audit: Audit, tmp_path: Path
) -> None:
    declared = "select source, dag_run_id from attr_audit.declaration"
    violations = (
        "select region, slot, violation, declared_name, actual_name from attr_audit.violations"
        " order by region"
    )
    path = tmp_path / "names.yaml"
    path.write_text("groups:\n  default:\n    names: {0: sex, 1: town}\n", encoding="utf-8")
    audit.environment["IM_ATTR_AUDIT_DECLARED_NAMES"] = str(path)
    first = audit.run()
    assert first.state == "success"
    recorded = [(str(path), first.run_id)]
    assert audit.query(declared) == recorded
    found = [(region, 1, "different", "town", "city") for region in sorted(REGIONS)]
    assert audit.query(violations) == found
    begun = "select count(*) from attr_audit.notification where kind = 'violation'"
    assert audit.query(begun) == [(3,)]

    audit.environment["AIRFLOW_VAR_IM_ATTR_AUDIT_DECLARED_NAMES"] = (
        "groups:\n  default: {name: 1}\n"
    )
    audit.vendor.set_name("seoul", APPS["seoul"], 1, "town")
    second = audit.run()
    assert second.state == "failed"
    states = second.states()
    assert (states.pop("report"), states.pop("declared names")) == ("failed", "failed")
    assert set(states.values()) == {"success"}
    assert audit.outcomes(second) == {f"im_{region}": ["ok"] for region in APPS}
    assert 'im_attr_audit_declared_names, line 2: group "default": unknown key "name"' in second.log
    assert audit.query(declared) == recorded
    assert audit.query(violations) == [each for each in found if each[0] != "seoul"]
    assert audit.query(f"{begun} or kind = 'violation_over'") == [(4,)]


def test_a_retry_polls_only_what_has_no_final_outcome(audit: Audit) -> None:
    audit.run()
    audit.connection("im_seoul_2", "seoul", login="administrator", password="wrong")
    audit.vendor.add_app("seoul", 1400000009, NAMES)
    second = audit.vendor.connection_json("seoul", 1400000009)
    audit.environment["AIRFLOW_CONN_IM_SEOUL_2"] = json.dumps(second)
    audit.targets("im_china", "im_seoul", "im_seoul_2")
    audit.vendor.fault("bad_gateway", region="seoul", app=1400000009, times=2)
    run = audit.run()
    assert run.state == "success"
    assert audit.outcomes(run) == {
        "im_china": ["ok"],
        "im_seoul": ["ok"],
        "im_seoul_2": ["unavailable", "unavailable", "ok"],
    }
    assert run.tasks["seoul"]["tries"] == 3


def test_a_target_that_is_missing_or_listed_twice_fails_by_name(audit: Audit) -> None:
    audit.connection("im_frankfurt_again", "frankfurt")
    audit.targets("im_china", "im_nowhere", "im_frankfurt", "im_frankfurt_again")
    run = audit.run()
    assert run.state == "failed"
    assert audit.outcomes(run) == {
        "im_china": ["ok"],
        "im_nowhere": ["misconfigured"],
        "im_frankfurt": ["misconfigured"],
        "im_frankfurt_again": ["misconfigured"],
    }
    assert "'im_nowhere'" in run.log
    assert "listed more than once" in run.log
    limited = audit.run({"conn_ids": ["im_frankfurt"]})
    assert audit.outcomes(limited) == {"im_frankfurt": ["misconfigured"]}


def test_a_run_limited_to_some_connections_retires_nothing(audit: Audit) -> None:
    audit.run()
    run = audit.run({"conn_ids": ["im_seoul"]})
    assert run.state == "success"
    assert audit.outcomes(run) == {"im_seoul": ["ok"]}
    assert audit.query("select count(*) from attr_audit.app where retired_at is not null") == [(0,)]


def test_an_app_no_longer_listed_is_retired_and_returns(audit: Audit) -> None:
    retired = "select region from attr_audit.app where retired_at is not null"
    audit.run()
    audit.targets("im_china", "im_seoul")
    audit.run()
    assert audit.query(retired) == [("frankfurt",)]
    # A connection that is listed but broken retires nobody: we just cannot look.
    audit.environment["AIRFLOW_CONN_IM_SEOUL"] = None
    assert audit.run().state == "failed"
    assert audit.query(retired) == [("frankfurt",)]
    audit.connection("im_seoul", "seoul")
    audit.targets("im_china", "im_seoul", "im_frankfurt")
    audit.run()
    assert audit.query(retired) == []
    assert audit.query("select count(*) from attr_audit.change where not is_baseline") == [(0,)]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is not set"),
        ("not json", "is not JSON"),
        ('{"a": 1}', "is not a list of texts"),
        ("[]", "is an empty list"),
        ("[1]", "is not a list of texts"),
    ],
)
def test_a_variable_that_lists_nothing_fails_the_run_and_retires_nobody(
    audit: Audit, value: str | None, problem: str
) -> None:
    if value is None:
        audit.run()
    audit.environment["AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS"] = value
    run = audit.run()
    assert run.state == "failed"
    assert f"The Variable im_attr_audit_conn_ids {problem}. Set the Variable" in run.log
    assert audit.query("select count(*) from attr_audit.app where retired_at is not null") == [(0,)]


def test_verify_compares_the_record_with_the_asset_events(
    audit: Audit, postgres: EmbeddedPostgres
) -> None:
    with postgres.connect("airflow_of_test_dag") as connection, connection.cursor() as cursor:
        cursor.execute("truncate asset_event cascade")  # those of other tests' records
    audit.run()
    audit.vendor.set_name("seoul", APPS["seoul"], 1, "town")
    audit.run()
    code, output = audit.airflow.command(audit.environment, "verify")
    assert code == 0, output
    assert "7 changes of 3 apps checked" in output
    assert "`airflow db clean` removes older ones" in output
    with audit.db.owner.begin() as session:
        for statement in (
            "alter table attr_audit.change disable trigger user",
            "delete from attr_audit.change where region = 'seoul' and seq = 3",
            "update attr_audit.snapshot set name = 'city' where region = 'seoul' and slot = 1",
            "alter table attr_audit.change enable trigger user",
        ):
            session.execute(text(statement))
    code, output = audit.airflow.command(audit.environment, "verify")
    assert code == 1
    assert "NOT AS RECORDED  seoul/1400000002 seq 3: rows from here to seq 3" in output


def test_the_connection_form_has_a_region_dropdown_and_labelled_fields(
    airflow: AirflowProcess,
) -> None:
    form = airflow.connection_form("tencent_im")
    assert form["hook_name"] == "Tencent Cloud Chat app"
    standard = form["standard_fields"]
    assert standard["password"]["title"] == "Secret key"
    assert standard["login"]["title"] == "Administrator identifier"
    extra = form["extra_fields"]
    assert "frankfurt" in extra["region"]["schema"]["enum"]
    assert {"sdk_app_id", "app_group", "api", "ca_bundle", "timeout", "usersig_ttl"} <= set(extra)
    assert all(field["schema"]["title"] for field in extra.values())


def test_every_file_below_plugins_but_the_plugins_own_is_hidden_from_airflow() -> None:
    hidden = (Path(__file__).parents[1] / "plugins" / ".airflowignore").read_text()
    assert "im_attr_audit/" in hidden.splitlines()
