"""What bi/grafana ships, and its queries as Grafana sends them: macros and variables expanded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "bi" / "grafana"
PROVISIONING = FOLDER / "provisioning"
DASHBOARD: dict[str, Any] = json.loads(
    (FOLDER / "dashboards" / "attribute_names.json").read_text(encoding="utf-8")
)
#: The one that reads Prometheus instead of the database.
METRICS: dict[str, Any] = json.loads(
    (FOLDER / "dashboards" / "metrics.json").read_text(encoding="utf-8")
)
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"]}
SCHEMAS = Path(__file__).parent / "vendor" / "grafana"


def provisioned(kind: str, name: str = "im_attr_audit") -> dict[str, Any]:
    """A provisioning file of datasources, dashboards or alerting."""
    found: dict[str, Any] = yaml.safe_load((PROVISIONING / kind / f"{name}.yaml").read_text())
    return found


ALERTS = provisioned("alerting")
RULES: dict[str, dict[str, Any]] = {
    rule["title"]: rule for group in ALERTS["groups"] for rule in group["rules"]
}


def schema(name: str) -> dict[str, Any]:
    """A published schema, by its file's name."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.jsonschema.json").read_text())
    return found


def expanded(query: str, begin: datetime, end: datetime, groups: Collection[str], slot: int) -> str:
    """The query as Grafana's PostgreSQL data source sends it.

    It writes times as literals in UTC, and a variable of several values as quoted ones.
    """
    times = [f"'{time:%Y-%m-%dT%H:%M:%SZ}'" for time in (begin, end)]
    query = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN {times[0]} AND {times[1]}", query)
    query = query.replace("$__timeFrom()", times[0]).replace("$__timeTo()", times[1])
    chosen = ",".join(f"'{group}'" for group in sorted(groups))
    query = re.sub(r"\$group\b", chosen, query)
    query = re.sub(r"\$slot\b", str(slot), query)
    assert "$" not in query, query
    return query
