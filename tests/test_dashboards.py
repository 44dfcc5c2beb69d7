"""The dashboards of bi/ show what is so in the scripted quarter, and Grafana's files are valid.

Answers come from the script of tests/quarter.py and from no SQL. `make test-bi` shows the charts in
a real Superset. No Grafana can be installed here: its queries run as it sends them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import yaml
from im_attr_audit.apps import AppKey
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from launch.postgres import EmbeddedPostgres
from tests import dashboard_answers, grafana
from tests.conftest import READER, SEALER, fresh_audit_db
from tests.dashboard_answers import GRAFANA as GRAFANA_ANSWERS
from tests.dashboard_answers import SUPERSET as SUPERSET_ANSWERS
from tests.data_model import COMMAND, DBT_SOURCES, SUPERSET, Page
from tests.quarter import END, FRANKFURT, SINGAPORE, STORY, quarter, seen
from tests.quarter_answers import Q2
from tests.reading import comparable, rows
from tests.superset_charts import CHARTS, DATASETS, Chart, plain_sql


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, template: str) -> str:
    return quarter(postgres, template)


GROUPS = ({"shop", "loyalty", "coupons"}, {"shop"})


def table(
    postgres: EmbeddedPostgres, database: str, statement: str, zone: str = "America/New_York"
) -> list[dict[str, Any]]:
    """The rows by column."""
    with postgres.connect(database, READER) as connection, connection.cursor() as cursor:
        cursor.execute("select set_config('TimeZone', %s, false)", (zone,))
        cursor.execute(statement)
        assert cursor.description
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def same(given: list[dict[str, Any]], right: list[dict[str, Any]], *free: str) -> bool:
    """Whether the rows are the same, in any order; ``free`` columns are not compared."""

    def plain(rows: list[dict[str, Any]]) -> list[str]:
        columns = sorted(given[0].keys() - set(free))
        return sorted(
            str([str(row[c]) if "sdk_app_id" in c else instant(row[c]) for c in columns])
            for row in rows
        )

    def instant(value: Any) -> Any:
        return value.timestamp() if isinstance(value, datetime) else comparable(value)

    return len(given) > 0 and plain(given) == plain(right)


def test_bi_is_what_the_database_and_the_charts_say(
    postgres: EmbeddedPostgres, database: str
) -> None:
    page = Page(postgres, database)
    assert DBT_SOURCES.read_text(encoding="utf-8") == page.dbt_sources(), f"run `{COMMAND}`"
    files = {
        str(path.relative_to(SUPERSET)): path.read_text(encoding="utf-8")
        for path in SUPERSET.rglob("*.yaml")
    }
    assert files == page.superset(), f"run `{COMMAND}`"


def test_the_exposures_of_dbt_are_what_each_dashboard_reads() -> None:
    exposures = yaml.safe_load((DBT_SOURCES.parent / "exposures.yml").read_text(encoding="utf-8"))
    depends = {
        each["name"]: [re.findall(r"'(\w+)'", source)[1] for source in each["depends_on"]]
        for each in exposures["exposures"]
    }
    sources = yaml.safe_load(DBT_SOURCES.read_text(encoding="utf-8"))["sources"][0]["tables"]
    relations = {each["name"] for each in sources}

    def read(text: str) -> list[str]:
        return sorted(set(re.findall(r"attr_audit\.(\w+)", text)) & relations)

    assert depends == {
        "superset_dashboard": read(" ".join(dataset.source for dataset in DATASETS.values())),
        "grafana_dashboard": read(
            " ".join(str(each) for each in (grafana.DASHBOARD, grafana.RULES))
        ),
    }


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_a_chart_of_superset_shows_what_is_so(
    postgres: EmbeddedPostgres, database: str, chart: Chart
) -> None:
    for groups in GROUPS:
        where = f"app_group in ({', '.join(repr(group) for group in sorted(groups))})"
        if not DATASETS[chart.dataset].of_group:
            where = "true"
        if not chart.of_now:
            time = DATASETS[chart.dataset].time
            where += f" and {time} >= '2026-04-01Z' and {time} < '2026-07-01Z'"
        given = table(postgres, database, plain_sql(chart, where), "UTC")
        assert same(given, SUPERSET_ANSWERS[chart.title](groups)), given


def test_every_chart_of_grafana_has_an_answer() -> None:
    until_now = {"Oldest knowledge", "Names of slot $slot", "Where nobody looked"}
    assert grafana.PANELS.keys() == GRAFANA_ANSWERS.keys() | until_now


@pytest.mark.parametrize("title", GRAFANA_ANSWERS)
def test_a_chart_of_grafana_shows_what_is_so(
    postgres: EmbeddedPostgres, database: str, title: str
) -> None:
    for groups in GROUPS:
        right = GRAFANA_ANSWERS[title](groups)
        given = table(postgres, database, shown(title, groups))
        assert same(given, right, "age_hours", "head_hash"), given


def shown(title: str, groups: set[str] = GROUPS[0], slot: int = 2) -> str:
    [target] = grafana.PANELS[title]["targets"]
    # Grafana's time filter includes the end.
    return grafana.expanded(target["rawSql"], Q2[0], Q2[1] - _SECOND, groups, slot)


_SECOND = timedelta(seconds=1)


def test_grafana_shows_the_age_of_the_stalest_app(
    postgres: EmbeddedPostgres, database: str
) -> None:
    [row] = table(postgres, database, shown("Oldest knowledge"))
    age = datetime.now(UTC) - seen(SINGAPORE)[-1].confirmed
    assert row["seconds"] == pytest.approx(age.total_seconds(), abs=60)
    first = table(postgres, database, shown("Last good polls"))[0]
    assert first["region"] == SINGAPORE.region
    assert first["age_hours"] == pytest.approx(age.total_seconds() / 3600, abs=0.1)


@pytest.mark.parametrize("slot", [0, 2, 3])
def test_the_time_line_of_names_shows_each_name_and_what_is_unknown(
    postgres: EmbeddedPostgres, database: str, slot: int
) -> None:
    lines = table(postgres, database, shown("Names of slot $slot", slot=slot))
    values = set()
    for app in dashboard_answers.APPS:
        for at in between(*dashboard_answers.name_bounds(app, slot)):
            right = dashboard_answers.name_at(app, slot, at)
            assert last(lines, app, "name", at) == right, (app, at)
            values.add(right)
    assert {None, "(no name)"} < values if slot == 3 else {None, "(unknown)"} < values


def test_the_time_line_of_polls_shows_where_nobody_looked(
    postgres: EmbeddedPostgres, database: str
) -> None:
    lines = table(postgres, database, shown("Where nobody looked"))
    blind = 0
    for app in dashboard_answers.APPS:
        first = STORY.listed[app][0][0]
        for at in between(*dashboard_answers.gap_bounds(app)):
            right = "no good poll" if dashboard_answers.is_in_gap(app, at) else "polled"
            assert last(lines, app, "state", at) == (right if at > first else None), (app, at)
            blind += right == "no good poll"
    assert blind > 2


def between(*times: datetime) -> list[datetime]:
    """Instants of the quarter: the middle between neighbours, a tick before and after each."""
    cuts = sorted({*Q2, *(at for at in times if Q2[0] < at < Q2[1])})
    tick = timedelta(microseconds=1)
    found = []
    for one, other in pairwise(cuts):
        found += [one + tick, one + (other - one) / 2, other - tick]
    return found


def last(lines: list[dict[str, Any]], app: AppKey, column: str, at: datetime) -> Any:
    """The value of the app's last row by then: a time line shows it until the next one."""
    return next(
        (row[column] for row in reversed(lines) if row["app"] == app.address and row["time"] <= at),
        None,
    )


def test_a_row_that_is_not_of_a_seal_takes_no_dashboard_from_anybody(
    postgres: EmbeddedPostgres, template: str
) -> None:
    """The sealer's login can write one, and nobody can delete it."""
    panels = [each for panel in grafana.DASHBOARD["panels"] for each in panel.get("targets", [])]
    statements = [each["rawSql"] for each in panels if "attr_audit.seal" in each["rawSql"]]
    statements += [sql for sql in (DATASETS["seals"].sql,) if sql]
    assert len(statements) == 2
    with fresh_audit_db(postgres, template) as db:
        with postgres.connect(db.name, SEALER) as connection, connection.cursor() as cursor:
            for n, leaf in enumerate(["x", '["run-v1",0,1e999]', '["run-v1",2,"a","b"]']):
                cursor.execute(
                    "insert into attr_audit.seal (n, leaf, note, last_poll_id, last_change_id, "
                    "last_planned_id, marks) values (%s, %s, 'x', 0, 0, 0, '')",
                    (n, leaf),
                )
        for statement in statements:
            found = table(postgres, db.name, statement)
            assert [(row["closed_at"], row["polls"]) for row in found] == [(None, None)] * 3


def test_the_choices_of_grafana_are_those_of_the_record(
    postgres: EmbeddedPostgres, database: str
) -> None:
    choices = {each["name"]: each["query"] for each in grafana.DASHBOARD["templating"]["list"]}
    assert rows(postgres, database, choices["group"], "UTC") == [(g,) for g in sorted(GROUPS[0])]
    assert rows(postgres, database, choices["slot"], "UTC") == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize("title", grafana.RULES)
def test_an_alert_rule_finds_what_it_is_for(
    postgres: EmbeddedPostgres, database: str, title: str
) -> None:
    """As Grafana evaluates it: each row is an alert of its own if its number is over the bound."""
    question, threshold = (each["model"] for each in grafana.RULES[title]["data"])
    [bound] = threshold["conditions"][0]["evaluator"]["params"]
    given = table(postgres, database, question["rawSql"])
    for row in given:
        [_] = [value for value in row.values() if isinstance(value, float)]
        assert all(isinstance(value, str | float) for value in row.values())
    firing = [row for row in given if max(v for v in row.values() if isinstance(v, float)) > bound]
    fired = {(row.get("app_group"), row.get("region")) for row in firing}
    singapore = ("shop", "singapore")
    assert (
        fired
        == {
            "App without a good poll": {(STORY.group(a, END), a.region) for a in STORY.listed},
            "Attribute name changed": set(),
            "Apps of a group have different names": {(group, None) for group in GROUPS[0]},
            "Polls of an app fail": {singapore},
            "Chain of an app is not intact": set(),
        }[title]
    )


def test_an_alert_rule_fires_for_a_new_change_and_for_a_forged_row(
    postgres: EmbeddedPostgres, database: str
) -> None:
    with postgres.connect(database) as owner, owner.cursor() as cursor:
        owner.autocommit = False
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "update attr_audit.change set new_name = 'x', seen_at = now(), recorded_at = now() "
            "where seq = 6 and region = 'frankfurt'"
        )
        for title in ("Attribute name changed", "Chain of an app is not intact"):
            cursor.execute(grafana.RULES[title]["data"][0]["model"]["rawSql"])
            [row] = cursor.fetchall()
            assert FRANKFURT.region in row
            assert row[-1] == 1
        owner.rollback()


# The published schemas --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dashboard", [grafana.DASHBOARD, grafana.METRICS], ids=lambda each: each["uid"]
)
def test_a_dashboard_of_grafana_is_valid_by_the_published_schema(dashboard: dict[str, Any]) -> None:
    Draft7Validator(grafana.schema("dashboard")).validate(dashboard)
    for panel in dashboard["panels"]:
        published = grafana.schema(panel["type"].replace("-", ""))
        parts = {
            "Options": panel["options"],
            "FieldConfig": panel["fieldConfig"]["defaults"].get("custom", {}),
        }
        for part in parts.keys() & published["definitions"].keys():
            reference = {"$ref": f"#/definitions/{part}", **published}
            Draft7Validator(reference).validate(parts[part])


@pytest.mark.parametrize("title", grafana.RULES)
def test_an_alert_rule_is_valid_by_the_published_schema(title: str) -> None:
    """A file has the folder, the organisation and the group outside of its rules."""
    [(group, rule)] = [
        (group, rule)
        for group in grafana.ALERTS["groups"]
        for rule in group["rules"]
        if rule["title"] == title
    ]
    around = {
        "orgID": group["orgId"],
        "folderUID": group["folder"],
        "ruleGroup": group["name"],
    }
    alerting = grafana.schema("alerting")
    Draft7Validator({**alerting, "$ref": "#/definitions/Rule"}).validate({**rule, **around})
    question, threshold = rule["data"]
    assert rule["condition"] == threshold["refId"] == threshold["model"]["refId"]
    assert threshold["model"]["expression"] == question["refId"] == question["model"]["refId"]
    expression = {**grafana.schema("expr"), "$ref": "#/definitions/TypeThreshold"}
    Draft7Validator(expression).validate(threshold["model"])
    assert rule["execErrState"] == "Error"


def test_the_files_of_grafana_fit_each_other() -> None:
    source = grafana.provisioned("datasources")["datasources"][0]
    assert source["user"] == READER
    asked = {each["uid"] for each in _datasources(grafana.DASHBOARD)}
    asked |= {each["datasourceUid"] for rule in grafana.RULES.values() for each in rule["data"]}
    assert asked - {"__expr__"} == {source["uid"]}
    assert {each["type"] for each in _datasources(grafana.DASHBOARD)} == {source["type"]}
    metrics = grafana.provisioned("datasources", "im_attr_audit_prometheus")["datasources"][0]
    assert {(each["uid"], each["type"]) for each in _datasources(grafana.METRICS)} == {
        (metrics["uid"], metrics["type"])
    }
    assert metrics["uid"] != source["uid"]
    assert grafana.METRICS["uid"] != grafana.DASHBOARD["uid"]
    uids = [rule["uid"] for rule in grafana.RULES.values()]
    assert len(uids) == len(set(uids)) == 5
    rules = (grafana.PROVISIONING / "alerting" / "im_attr_audit.yaml").read_text(encoding="utf-8")
    assert "$" not in rules, "Grafana takes it for a variable of its environment"
    provider = grafana.provisioned("dashboards")["providers"][0]
    assert provider["folder"] == grafana.ALERTS["groups"][0]["folder"]


def _datasources(node: Any) -> Iterator[dict[str, str]]:
    if isinstance(node, dict):
        if isinstance(node.get("datasource"), dict):
            yield node["datasource"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _datasources(each)
