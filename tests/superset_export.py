"""Writes bi/superset, a dashboard in Superset's own export format, from tests/superset_charts.py.

Columns and their descriptions are the database's. `python -m tests.data_model` writes the files; a
test makes them again and compares.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import yaml

from tests.superset_charts import CHARTS, DATASETS, Chart, Dataset

DATABASE = "im-attr-audit"
TITLE = "Attribute names"
#: As Superset masks a password: it asks for it at the import.
HOST = "postgresql+psycopg2://attr_audit_reader:XXXXXXXXXX@127.0.0.1:5432/attr_audit"
_NAMESPACE = uuid.UUID("5f0c7c1e-6d0b-4f5c-9d3a-1f0d8f6b7a11")
_TIME_TYPES = ("timestamp with time zone", "date")


#: Columns of a dataset: name, type, comment.
Columns = list[tuple[str, str, str]]


def export(columns: dict[str, Columns]) -> dict[str, str]:
    """Every file below bi/superset, given the columns of each dataset."""
    files: dict[str, Any] = {
        "metadata.yaml": {
            "version": "1.0.0",
            "type": "Dashboard",
            "timestamp": "2026-01-01T00:00:00+00:00",
        },
        "databases/im_attr_audit.yaml": _database(),
    }
    for name, dataset in DATASETS.items():
        files[f"datasets/im_attr_audit/{name}.yaml"] = _dataset(dataset, columns[name])
    for number, chart in enumerate(CHARTS, 1):
        files[f"charts/{_slug(chart)}.yaml"] = _chart(chart, number)
    files["dashboards/attribute_names.yaml"] = _dashboard()
    return {
        path: yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        for path, content in files.items()
    }


def _id(what: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, what))


def _slug(chart: Chart) -> str:
    return chart.title.lower().replace(" ", "_").replace("-", "_")


def _database() -> dict[str, Any]:
    # Weeks and months are UTC's: Superset truncates times in the session's time zone.
    session = {"connect_args": {"options": "-c timezone=UTC"}}
    return {
        "database_name": DATABASE,
        "sqlalchemy_uri": HOST,
        "cache_timeout": None,
        "expose_in_sqllab": True,
        "allow_run_async": False,
        "allow_ctas": False,
        "allow_cvas": False,
        "allow_dml": False,
        "allow_csv_upload": False,
        "extra": {"allows_virtual_table_explore": True, "engine_params": session},
        "uuid": _id("database"),
        "version": "1.0.0",
    }


def _dataset(dataset: Dataset, columns: Columns) -> dict[str, Any]:
    return {
        "table_name": dataset.name,
        "main_dttm_col": dataset.time,
        "description": None,
        "default_endpoint": None,
        "offset": 0,
        "cache_timeout": None,
        "schema": "attr_audit",
        "sql": dataset.sql,
        "params": None,
        "template_params": None,
        "filter_select_enabled": True,
        "fetch_values_predicate": None,
        "extra": None,
        "uuid": _id(f"dataset {dataset.name}"),
        "metrics": [
            {"metric_name": name, "verbose_name": None, "expression": expression}
            for name, expression in dataset.metrics.items()
        ],
        "columns": [
            {
                "column_name": name,
                "is_dttm": type_ in _TIME_TYPES,
                "is_active": True,
                "type": type_.upper(),
                "groupby": True,
                "filterable": True,
                "description": comment or None,
            }
            for name, type_, comment in columns
        ],
        "version": "1.0.0",
        "database_uuid": _id("database"),
    }


def _chart(chart: Chart, number: int) -> dict[str, Any]:
    dataset = DATASETS[chart.dataset]
    filters = [] if chart.of_now or not dataset.time else [_filter(dataset.time, "TEMPORAL_RANGE")]
    filters += [_filter(*condition) for condition in chart.where]
    order = [[chart.order, not chart.descending]] if chart.order else []
    params: dict[str, Any] = {
        "viz_type": chart.viz,
        "adhoc_filters": filters,
        "row_limit": 1000,
        "extra_form_data": {},
        "show_cell_bars": False,
        "table_timestamp_format": "%Y-%m-%d %H:%M",
    }
    if chart.grain:
        params |= {
            "x_axis": dataset.time,
            "time_grain_sqla": chart.grain,
            "metrics": list(chart.metrics),
            "groupby": list(chart.columns),
            "stack": "Stack" if chart.metrics == ("changes",) else None,
            "x_axis_time_format": "%Y-%m-%d",
            "y_axis_format": ",.1~f",
            "truncateYAxis": chart.percent,
            "y_axis_bounds": [0, 100 if chart.percent else None],
            "markerEnabled": True,
            "show_legend": True,
            "rich_tooltip": True,
        }
    elif chart.metrics:
        params |= {
            "query_mode": "aggregate",
            "groupby": list(chart.columns),
            "metrics": list(chart.metrics),
            "timeseries_limit_metric": chart.order,
            "order_desc": chart.descending,
        }
    else:
        params |= {
            "query_mode": "raw",
            "all_columns": list(chart.columns),
            "order_by_cols": [json.dumps(each) for each in order],
        }
    axis = {
        "columnType": "BASE_AXIS",
        "expressionType": "SQL",
        "label": dataset.time,
        "sqlExpression": dataset.time,
        "timeGrain": chart.grain,
    }
    query = {
        "columns": [*([axis] if chart.grain else []), *chart.columns],
        "metrics": list(chart.metrics) or None,
        "filters": [
            {"col": f["subject"], "op": f["operator"], "val": f["comparator"]} for f in filters
        ],
        "orderby": order,
        "row_limit": 1000,
        "extras": {"having": "", "where": ""},
        "post_processing": [],
    }
    context = {
        "datasource": {"id": number, "type": "table"},
        "force": False,
        "queries": [query],
        "form_data": params,
        "result_format": "json",
        "result_type": "full",
    }
    return {
        "slice_name": chart.title,
        "description": chart.description,
        "viz_type": chart.viz,
        "params": params,
        "query_context": json.dumps(context),
        "cache_timeout": None,
        "uuid": _id(f"chart {chart.title}"),
        "version": "1.0.0",
        "dataset_uuid": _id(f"dataset {chart.dataset}"),
    }


def _filter(subject: str, operator: str, value: str | None = None) -> dict[str, Any]:
    return {
        "clause": "WHERE",
        "expressionType": "SIMPLE",
        "subject": subject,
        "operator": operator,
        "operatorId": {"!=": "NOT_EQUALS"}.get(operator, operator.replace(" ", "_")),
        "comparator": "No filter" if operator == "TEMPORAL_RANGE" else value,
    }


def _dashboard() -> dict[str, Any]:
    grid: dict[str, Any] = {}
    rows: list[str] = []
    room = 0
    for number, chart in enumerate(CHARTS, 1):
        if room < chart.width:
            rows.append(f"ROW-{len(rows) + 1}")
            room = 12
            grid[rows[-1]] = {
                "type": "ROW",
                "id": rows[-1],
                "children": [],
                "parents": ["ROOT_ID", "GRID_ID"],
                "meta": {"background": "BACKGROUND_TRANSPARENT"},
            }
        room -= chart.width
        grid[rows[-1]]["children"].append(f"CHART-{number}")
        grid[f"CHART-{number}"] = {
            "type": "CHART",
            "id": f"CHART-{number}",
            "children": [],
            "parents": ["ROOT_ID", "GRID_ID", rows[-1]],
            "meta": {
                "chartId": number,
                "uuid": _id(f"chart {chart.title}"),
                "sliceName": chart.title,
                "width": chart.width,
                "height": chart.height,
            },
        }
    of_now = [number for number, chart in enumerate(CHARTS, 1) if chart.of_now]
    of_all = [
        number for number, chart in enumerate(CHARTS, 1) if not DATASETS[chart.dataset].of_group
    ]
    return {
        "dashboard_title": TITLE,
        "description": "What im-attr-audit recorded, and what is not as declared.",
        "css": "",
        "slug": "im-attr-audit",
        "published": True,
        "uuid": _id("dashboard"),
        "position": {
            "DASHBOARD_VERSION_KEY": "v2",
            "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
            "GRID_ID": {"type": "GRID", "id": "GRID_ID", "children": rows, "parents": ["ROOT_ID"]},
            "HEADER_ID": {"type": "HEADER", "id": "HEADER_ID", "meta": {"text": TITLE}},
            **grid,
        },
        "metadata": {
            "native_filter_configuration": [
                _native_filter("Time range", "filter_time", {}, of_now),
                _native_filter(
                    "App group",
                    "filter_select",
                    {
                        "column": {"name": "app_group"},
                        "datasetUuid": _id("dataset oldest_knowledge"),
                    },
                    of_all,
                ),
            ],
            "color_scheme": "supersetColors",
            "refresh_frequency": 0,
            "filter_bar_orientation": "HORIZONTAL",
            "cross_filters_enabled": False,
        },
        "version": "1.0.0",
    }


def _native_filter(
    name: str, kind: str, target: dict[str, Any], excluded: list[int]
) -> dict[str, Any]:
    return {
        "id": f"NATIVE_FILTER-{name.replace(' ', '-').lower()}",
        "name": name,
        "filterType": kind,
        "type": "NATIVE_FILTER",
        "targets": [target],
        "scope": {"rootPath": ["ROOT_ID"], "excluded": excluded},
        "defaultDataMask": {"extraFormData": {}, "filterState": {}},
        "cascadeParentIds": [],
        "controlValues": {"enableEmptyFilter": False, "multiSelect": True},
        "description": "",
    }
