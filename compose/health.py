"""Is this container doing its work? Exit status 0 if so; else 1, with the reason in a line.

Asked every 15 seconds in every container, so nothing here imports Airflow, which takes seconds.
"""

# ruff: noqa: T201, TID251 - one line for docker, and the database is asked
from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from launch import api

# A component writes its heartbeat every 5 s; Airflow itself calls it dead after 30.
_STALE_SECONDS = 30
_API_SERVER = "http://localhost:8080"


def api_server() -> str:
    """It answers, reaches its database, and serves the tasks' interface.

    The latter is loaded when it is first asked, so it is warm before the first task.
    """
    health = api.ask(f"{_API_SERVER}/api/v2/monitor/health", timeout=25)
    database = health.get("metadatabase")
    if not isinstance(database, dict) or database.get("status") != "healthy":
        return f"its database: {database}"
    tasks = api.ask(f"{_API_SERVER}/execution/health", timeout=25)
    return "" if tasks.get("status") == "healthy" else f"the tasks' interface: {tasks}"


def _job(kind: str) -> str:
    """A job of that kind on this host has a fresh heartbeat, by the database's clock."""
    import psycopg2

    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select extract(epoch from now() - max(latest_heartbeat)) from job "
                "where job_type = %s and hostname = %s and state = 'running'",
                (kind, socket.gethostname()),
            )
            row = cursor.fetchone()
    finally:
        connection.close()
    age = row[0] if row else None
    if age is None:
        return f"no {kind} runs on this host"
    return "" if age < _STALE_SECONDS else f"the last heartbeat is {age:.0f} s old"


def scheduler() -> str:
    """It schedules."""
    return _job("SchedulerJob")


def dag_processor() -> str:
    """It reads DAG files."""
    return _job("DagProcessorJob")


def triggerer() -> str:
    """It waits for triggers."""
    return _job("TriggererJob")


def worker() -> str:
    """It answers a ping through Redis, so it takes tasks."""
    from celery import Celery  # type: ignore[import-untyped]

    name = f"celery@{socket.gethostname()}"
    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    app.conf.broker_connection_retry = False
    answers = app.control.ping(destination=[name], timeout=10, limit=1)
    return "" if answers else f"{name} does not answer"


CHECKS: dict[str, Callable[[], str]] = {
    "api-server": api_server,
    "scheduler": scheduler,
    "dag-processor": dag_processor,
    "triggerer": triggerer,
    "worker": worker,
}


def main(arguments: list[str]) -> int:
    """Check the component that is named."""
    try:
        wrong = CHECKS[arguments[0]]()
    except Exception as error:  # the class alone: a driver's text may hold an address with password
        wrong = type(error).__name__
    print(wrong or "well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
