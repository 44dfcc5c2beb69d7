"""`make test-bi`: import what bi/ ships into the real tools, ask it all, compare with plain SQL."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.migrate import migrate
from psycopg2.extras import RealDictCursor
from sqlalchemy.engine import make_url

from launch.postgres import THROWAWAY, EmbeddedPostgres
from launch.state import ROOT
from tests.bi_tools import superset
from tests.bi_tools.compare import compare
from tests.bi_tools.dbt import Dbt
from tests.bi_tools.install import install, version
from tests.conftest import OWNER, READER, SEALER, WRITER
from tests.history import polled
from tests.quarter import END, TOKYO, quarter
from tests.superset_charts import CHARTS, DATASETS, Chart, plain_sql

PICTURE = ROOT / "docs" / "images" / "superset-dashboard.png"
_GROUP = "shop"
_SINCE = "2026-05-10"
_QUARTER = "2026-04-01 : 2026-07-01"


def main() -> None:
    programs = install()
    _say("versions", f"{version(programs, 'apache-superset')}, {version(programs, 'dbt-core')}")
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bi-") as directory:
        folder = Path(directory)
        server = EmbeddedPostgres(folder / "postgres", settings=THROWAWAY)
        server.start()
        try:
            server.ensure_database("migrated")
            migrate(server.url("migrated"))
            for role in (OWNER, WRITER, READER, SEALER):
                server.ensure_role(role)
            database = quarter(server, "migrated")
            with superset.running(programs, folder) as running:
                _superset(running, server, database)
            _dbt(Dbt(programs, folder, server, database))
        finally:
            server.destroy()
    print("Every answer is what plain SQL gives; what grows until now agrees within the tolerance.")


def _say(tool: str, text: str) -> None:
    print(f"{tool:<10}{text}", flush=True)


# Superset ---------------------------------------------------------------------------------------


def _superset(tool: superset.Superset, server: EmbeddedPostgres, database: str) -> None:
    address = f"postgresql+psycopg2://{READER}:XXXXXXXXXX@127.0.0.1:{server.port}/{database}"
    tool.import_dashboard(address, server.password(READER))
    [connected] = tool.all("database")
    listed = tool.relations(connected["id"])
    readable = {row["relname"] for row in _rows(server, database, _READABLE)}
    assert listed == readable, listed ^ readable
    _say("superset", f"imported; lists the {len(listed)} relations that the reader can read")

    datasets = {each["table_name"]: each["id"] for each in tool.all("dataset")}
    assert datasets.keys() == DATASETS.keys()
    for name, number in datasets.items():
        columns = [each["column_name"] for each in tool.one("dataset", number)["columns"]]
        query = {"columns": columns, "metrics": [], "orderby": [], "row_limit": 50_000}
        context = {"datasource": {"id": number, "type": "table"}, "queries": [query]}
        right = _rows(server, database, f"select * from {DATASETS[name].source}")
        assert sorted(columns) == sorted(right[0])
        _compare(f"dataset {name}", tool.query(context), right)

    charts = {each["slice_name"]: each["id"] for each in tool.all("chart")}
    assert charts.keys() == {chart.title for chart in CHARTS}
    for chart in CHARTS:
        _chart(tool, server, database, chart, charts[chart.title])

    errors = tool.picture("im-attr-audit", PICTURE, _QUARTER)
    assert not errors, errors
    _say("superset", f"picture of the dashboard: {PICTURE.relative_to(ROOT)}")


def _chart(
    tool: superset.Superset, server: EmbeddedPostgres, database: str, chart: Chart, number: int
) -> None:
    """As it is, and filtered as the dashboard's filters do it: nothing is dropped in silence."""
    context = json.loads(tool.one("chart", number)["query_context"])
    _compare(f"chart {chart.title}", tool.query(context), _rows(server, database, plain_sql(chart)))
    [query] = context["queries"]
    where = "true"
    if DATASETS[chart.dataset].of_group:
        query["filters"].append({"col": "app_group", "op": "IN", "val": [_GROUP]})
        where = f"app_group = '{_GROUP}'"
    if not chart.of_now:
        time = DATASETS[chart.dataset].time
        for each in query["filters"]:
            if each["op"] == "TEMPORAL_RANGE":
                each["val"] = f"{_SINCE} : "
        where += f" and {time} >= '{_SINCE}'"
    right = _rows(server, database, plain_sql(chart, where))
    _compare(f"chart {chart.title}, filtered", tool.query(context), right)


_READABLE = """
select relname from pg_class
 where relnamespace = 'attr_audit'::regnamespace and relkind in ('r', 'v', 'p')
   and has_table_privilege(oid, 'select')
"""


def _rows(server: EmbeddedPostgres, database: str, statement: str) -> list[dict[str, Any]]:
    with (
        server.connect(database, READER, options="-c timezone=UTC") as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        cursor.execute(statement)
        return [dict(row) for row in cursor.fetchall()]


def _compare(what: str, result: dict[str, Any], right: list[dict[str, Any]]) -> None:
    _say("superset", f"{what}: {compare(result['data'], right)}")


# dbt --------------------------------------------------------------------------------------------


def _dbt(tool: Dbt) -> None:
    tool.prepare()
    everything = tool.run("build", "--exclude", "every_app_is_fresh")
    assert set(everything.values()) <= {"success", "pass"}, everything
    _say("dbt", f"build: {len(everything)} models and tests, all pass")
    _copy_is_whole(tool, "first load")
    _reload_after_a_late_transaction(tool)
    _reload_after_a_rename(tool)
    _freshness(tool)


def _copy_is_whole(tool: Dbt, what: str) -> None:
    copied = _rows_of(tool, "select region, sdk_app_id, seq, row_hash from analytics.changes_copy")
    recorded = _rows_of(tool, "select region, sdk_app_id, seq, row_hash from attr_audit.changes")
    assert sorted(copied) == sorted(recorded)
    _say("dbt", f"changes_copy, {what}: {len(copied)} rows, as plain SQL")


def _reload_after_a_late_transaction(tool: Dbt) -> None:
    """As if two apps' changes had been committed after the load that took newer ones of others."""
    _execute(tool, "delete from analytics.changes_copy where region in ('china', 'jakarta')")
    [missed] = _rows_of(tool, _MISSED_BY_CHANGE_ID)
    assert missed[0] > 0, "a cursor by change_id would do as well, so this shows nothing"
    again = tool.run("build", "--select", "changes_copy")
    assert set(again.values()) <= {"success", "pass"}, again
    _copy_is_whole(tool, f"after a late transaction ({missed[0]} rows below the last change_id)")


_MISSED_BY_CHANGE_ID = """
select count(*) from attr_audit.changes
 where region in ('china', 'jakarta')
   and change_id < (select max(change_id) from attr_audit.changes join analytics.changes_copy
                     using (region, sdk_app_id, seq))
"""


def _reload_after_a_rename(tool: Dbt) -> None:
    """The copy has the new change alone; the dimension has closed the old name's row."""
    writer = create_audit_engine(make_url(tool.server.url(tool.database, WRITER)))
    names = {0: "sex", 1: "town", 2: "Membership level"}
    region, number = TOKYO
    poll = polled(names, names, at=END, region=region, sdk_app_id=number, app_group="shop")
    record_polls(writer, [poll], dag_run_id="late", try_number=1)
    writer.dispose()
    before = _rows_of(tool, "select * from analytics.changes_copy")
    assert set(tool.run("build", "--exclude", "every_app_is_fresh").values()) <= {"success", "pass"}
    after = _rows_of(tool, "select * from analytics.changes_copy")
    [new] = [row for row in after if row not in before]
    assert new[:3] == (*TOKYO, 4)
    assert len(after) == len(before) + 1
    _copy_is_whole(tool, "after a rename")
    spans = _rows_of(tool, _TOWN)
    assert [row[0] for row in spans] == ["city", "town"]
    assert [row[3] for row in spans] == [False, True]
    assert spans[0][2] == spans[1][1] == new[3]
    _say(
        "dbt", "names_scd2, after a rename: the old name's row is closed, the new one's is current"
    )


_TOWN = """
select name, valid_from, valid_to, is_current from analytics.names_scd2
 where region = 'tokyo' and slot = 1 order by valid_from
"""


def _freshness(tool: Dbt) -> None:
    _execute(tool, _FRESH)
    assert tool.run("test", "--select", "every_app_is_fresh") == {"every_app_is_fresh": "pass"}
    assert tool.freshness() == "pass"
    _execute(tool, _ONE_STALE)
    assert tool.run("test", "--select", "every_app_is_fresh") == {"every_app_is_fresh": "fail 1"}
    assert tool.freshness() == "error"
    _say("dbt", "source freshness and every_app_is_fresh: pass; fail when one app of 9 is stale")


_FRESH = """
set session_replication_role = replica;
update attr_audit.app set last_ok_at = now()
"""
_ONE_STALE = """
set session_replication_role = replica;
update attr_audit.app set last_ok_at = now() - interval '7 hours' where region = 'china'
"""


def _execute(tool: Dbt, statement: str) -> None:
    with tool.server.connect(tool.database) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


def _rows_of(tool: Dbt, statement: str) -> list[Any]:
    with tool.server.connect(tool.database) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


if __name__ == "__main__":
    main()
