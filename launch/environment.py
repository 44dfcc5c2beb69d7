"""The environment Airflow runs in here, and what the user sets in `.env`.

A run is configured through the environment of child processes alone: nothing is written into
Airflow's configuration, and no secret is on a command line.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping

from launch.databases import Databases
from launch.files import write_private
from launch.state import ROOT, LaunchError, State, say

LOGIN = "admin"
CONN_IDS = "AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS"
SCHEDULE = "IM_ATTR_AUDIT_SCHEDULE"
OWNERS_URL = "IM_ATTR_AUDIT_DATABASE_URL"
WRITER = "AIRFLOW_CONN_IM_ATTR_AUDIT_DB"
READER = "AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER"

# Settings of another Airflow that the user may have: this one must not follow them.
_ANOTHER_AIRFLOWS = ("AIRFLOW_HOME", "AIRFLOW_CONFIG", "PYTHONPATH", "PYTHONHOME")


def given(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the user set: the real environment, and under it `.env`."""
    path = ROOT / ".env"
    if not path.is_file():
        return dict(environ)
    from dotenv import dotenv_values

    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        say("Note: other users of this machine can read .env; `chmod 600 .env` keeps keys private.")
    # Without interpolation: a key may hold a dollar sign.
    read = dotenv_values(path, interpolate=False)
    return {**{name: value for name, value in read.items() if value is not None}, **environ}


def for_airflow(
    state: State,
    user: Mapping[str, str],
    databases: Databases,
    *,
    port: int = 8080,
    log_port: int = 8793,
) -> dict[str, str]:
    """The whole environment of one of Airflow's processes."""
    environment = {
        name: value
        for name, value in user.items()
        if name not in _ANOTHER_AIRFLOWS and name != OWNERS_URL
    }
    address = f"http://localhost:{port}"
    environment |= {
        "AIRFLOW_HOME": str(state.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # Each of them is a process from the start.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": state.secret("fernet_key", _fernet_key),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{LOGIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": _passwords_file(state),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": databases.airflow_url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": state.secret("api_secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": state.secret("jwt_secret"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(state.logs / "tasks"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_port),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # A run interrupted by a kill must not delay the next start by five minutes.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "10",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        # The scheduler may be up long before the API server, and a task cannot begin without it:
        # on a slow machine the first run failed for that.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "8",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "20",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        WRITER: databases.writer,
        READER: databases.reader,
    }
    return environment | past_the_proxy(environment, "localhost")


def past_the_proxy(environment: Mapping[str, str], host: str) -> dict[str, str]:
    """Where a proxy is set: no proxy for that host of our own, whatever else it is for."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return {}
    hosts = [environment.get("no_proxy", ""), environment.get("NO_PROXY", ""), host]
    joined = ",".join(dict.fromkeys(filter(None, hosts)))
    return {"no_proxy": joined, "NO_PROXY": joined}


def conn_ids(environment: Mapping[str, str]) -> list[str]:
    """The targets' connections; LaunchError, before anything starts, if they cannot be parsed."""
    try:
        listed = json.loads(environment[CONN_IDS])
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not listed or not all(isinstance(i, str) for i in listed):
        raise LaunchError(
            f"{CONN_IDS} is not a JSON list of connection ids. It looks like this: "
            '["im_frankfurt", "im_china"]'
        )
    return listed


def login(state: State) -> tuple[str, str]:
    """Airflow's one login and its password."""
    return LOGIN, state.secret("login_password", lambda: secrets.token_urlsafe(12))


def _passwords_file(state: State) -> str:
    path = state.secrets / "logins.json"
    wanted = json.dumps(dict([login(state)]))
    if not path.is_file() or path.read_text().strip() != wanted:
        write_private(path, wanted)
    return str(path)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
