"""The page in Airflow's UI: "Attribute names" under Browse, and a tab of the DAG and of its runs.

Every task process runs this file, so it imports nothing but the base class Airflow has loaded by
then. What the page needs is imported when the API server asks for it.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

_PREFIX = "im-attr-audit"


class ImAttrAuditPlugin(AirflowPlugin):
    """One small application, shown in three places."""

    name = "im_attr_audit"

    # Without a leading slash a href is resolved against Airflow's own prefix, whatever that is.
    # Airflow shows an item on every DAG's tab bar: the page says there whose names it shows.
    external_views = [  # noqa: RUF012 - the base class's own form
        {
            "name": "Attribute names",
            "href": f"{_PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "attribute-names",
        },
        {
            "name": "Attribute names",
            "href": f"{_PREFIX}/?dag={{DAG_ID}}",
            "destination": "dag",
            "url_route": "attribute-names-now",
        },
        {
            "name": "Attribute names",
            "href": f"{_PREFIX}/changes?dag={{DAG_ID}}&run={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "attribute-names-of-run",
        },
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        try:
            from im_attr_audit.page.app import airflow_app

            return [{"app": airflow_app(), "url_prefix": f"/{_PREFIX}", "name": "Attribute names"}]
        except Exception:
            # The API server serves everybody's DAGs: it is to start without this page too.
            logging.getLogger(__name__).exception("The page of im-attr-audit cannot be shown")
            return []
