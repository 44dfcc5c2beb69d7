"""The simulated vendor with its story, for `docker compose --profile demo up`.

It gives Airflow a connection for each of its six apps and, where none is set, the Variable that
lists them and the one that declares their names, as a user would in the UI. After every run of the
DAG the story moves on one step, so that the next run finds something. Standard library only.
"""

# ruff: noqa: T201 - it speaks to the container's log
from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any

from launch import api
from simulator.control import Simulator
from simulator.story import APPS, DECLARED_NAMES, REGIONS

NAME = "simulator"
STATE = Path("/opt/airflow/simulator-state")
SHARED = Path("/opt/airflow/demo")  # the workers read it
READY = Path("/tmp/ready")  # noqa: S108 - the container's own
DAG_ID = "im_attr_name_audit"
REVIEW_DAG_ID = "im_attr_name_review"
VARIABLE = "im_attr_audit_conn_ids"
DECLARED = "im_attr_audit_declared_names"
API = os.environ.get("AIRFLOW_URL", "http://api-server:8080")


class Airflow:
    """Airflow's public interface, as the administrator; logs in again when the token expires."""

    def __init__(self) -> None:
        self._token = ""

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """The answer; None where there is no such thing."""
        for _ in range(2):
            if not self._token:
                self._token = api.log_in(API, "admin", os.environ["AIRFLOW_ADMIN_PASSWORD"])
            try:
                return api.ask(API + path, body, self._token, method)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:
                    raise
                self._token = ""
        raise RuntimeError("Airflow does not take the token that it has just given")


def introduce(airflow: Airflow, simulator: Simulator) -> None:
    """Six connections, and the two Variables unless somebody has set them."""
    ids = []
    for region, app in APPS.items():
        conn_id = f"simulator_{region}"
        ids.append(conn_id)
        fields = simulator.connection_json(region, app, ca_bundle=str(SHARED / "ca.pem"))
        wanted = {"connection_id": conn_id, **fields, "extra": json.dumps(fields["extra"])}
        path = f"/api/v2/connections/{conn_id}"
        if airflow.ask(path) is None:
            airflow.ask("/api/v2/connections", wanted)
        else:
            airflow.ask(path, wanted, "PATCH")
    for key, value in ((VARIABLE, json.dumps(ids)), (DECLARED, DECLARED_NAMES.read_text("utf-8"))):
        if airflow.ask(f"/api/v2/variables/{key}") is None:
            airflow.ask("/api/v2/variables", {"key": key, "value": value})
        else:
            say(f"The Variable {key} is set already and stays unchanged.")
    say(f"Airflow knows the simulator's apps: {', '.join(ids)}.")
    say(
        f"What is not as declared waits for an answer at /dags/{REVIEW_DAG_ID}/required_actions, "
        f"once the DAG {REVIEW_DAG_ID} is unpaused."
    )


def narrate(airflow: Airflow, simulator: Simulator) -> None:
    """Until the container stops: one step of the story after each run that has ended."""
    seen = ended(airflow)
    said = report_step(simulator, "")
    while True:
        time.sleep(3)
        try:
            runs = ended(airflow)
        except (OSError, ValueError):
            continue  # the API server is away; it will be back
        for _ in runs - seen:
            simulator.advance_story()
            said = report_step(simulator, said)
        seen = runs


def ended(airflow: Airflow) -> set[str]:
    """The newest runs that have ended."""
    path = f"/api/v2/dags/{DAG_ID}/dagRuns?order_by=-run_after&limit=50"
    runs = airflow.ask(path) or {"dag_runs": []}
    return {run["dag_run_id"] for run in runs["dag_runs"] if run["state"] in ("success", "failed")}


def report_step(simulator: Simulator, said: str) -> str:
    """Print the story's step, if it is a new one; what was printed last."""
    story = simulator.story()
    if story is None or story["what"] == said:
        return said
    say(f"The story, {story['step']} of {story['steps']}: {story['what']}.")
    return str(story["what"])


def say(text: str) -> None:
    """To the container's log."""
    print(text, flush=True)


def check() -> int:
    """Health: the simulator answers, and Airflow knows it."""
    simulator = Simulator.attach(STATE)
    return 0 if simulator and simulator.story() and READY.exists() else 1


def main() -> int:
    """Until the container is stopped."""
    READY.unlink(missing_ok=True)
    with Simulator.start(STATE, regions=REGIONS, story=True, name=NAME) as simulator:
        shutil.copyfile(simulator.ca_bundle, SHARED / "ca.pem")
        airflow = Airflow()
        try:
            introduce(airflow, simulator)
        except urllib.error.HTTPError as error:
            say(f"Airflow answers {error.code} to {error.url}: was admin's password changed?")
            return 1
        READY.touch()
        narrate(airflow, simulator)
    return 0


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["--check"] else main())
