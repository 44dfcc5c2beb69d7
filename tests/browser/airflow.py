"""Airflow's API server as a process of the tests, on a Postgres that they have."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from im_attr_audit.record.upkeep.roles import READER

from launch import api
from launch.network import free_port
from launch.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"

#: The database that the page's connection names; which one it is can be changed.
SHOWN = "page_shown"


class Airflow:
    """One API server. `start`, then `wait`; `stop` ends it and whatever it started."""

    def __init__(
        self, folder: Path, postgres: EmbeddedPostgres, *, auth: str = FAB, below: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """``below``: the path that its base_url ends with, such as /airflow."""
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}{below}"
        self.log = folder / "api-server.log"
        self.database = database = f"airflow_{self.port}"
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"create database {database}")
        reader = {
            "conn_type": "postgres", "host": "127.0.0.1", "port": postgres.port,
            "schema": SHOWN, "login": READER, "password": postgres.password(READER),
        }  # fmt: skip
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__AUTH_MANAGER": auth,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "logins.json"),
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url(database),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__FAB__CACHE_TTL": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(24),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(24),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER": json.dumps(reader),
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        (folder / "logins.json").write_text('{"admin": "admin", "viewer": "viewer"}')
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.browser.serve"],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while self._process is not None and self._process.poll() is None:
            try:
                if self.get("/api/v2/monitor/health")[0] == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        last = self.log.read_text(errors="replace")[-4000:]
        raise AssertionError(f"Airflow's API server does not come up:\n{last}")

    def stop(self) -> None:
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                pass
            return

    def get(
        self, path: str, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of a GET, a refusal's and a redirect's too."""
        return api.get(f"{self.address}{path}", token, headers)

    def ask(self, path: str, body: Mapping[str, Any] | None, token: str) -> Any:
        return api.ask(f"{self.address}{path}", body, token, timeout=60)

    def token(self, login: str) -> str:
        """A token; every test user's password is the login."""
        return api.log_in(self.address, login, login)


class ShownDatabase:
    """Which database the page sees: databases are renamed, the server continues."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._own_name: str | None = None

    def show(self, name: str | None) -> None:
        """From now on it sees this one; None: there is no such database."""
        if name == self._own_name:
            return
        with self._postgres.connect() as connection, connection.cursor() as cursor:
            connection.autocommit = True
            if self._own_name is not None:
                self._rename(cursor, SHOWN, self._own_name)
            if name is not None:
                self._rename(cursor, name, SHOWN)
        self._own_name = name

    def _rename(self, cursor: Any, old: str, new: str) -> None:
        cursor.execute(f"alter database {old} allow_connections false")
        cursor.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (old,)
        )
        until(lambda: not self._in_use(cursor, old))
        cursor.execute(f"alter database {old} rename to {new}")
        cursor.execute(f"alter database {new} allow_connections true")

    @staticmethod
    def _in_use(cursor: Any, name: str) -> bool:
        cursor.execute("select count(*) from pg_stat_activity where datname = %s", (name,))
        return bool(cursor.fetchone()[0])


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it does not come true")
        time.sleep(0.02)
