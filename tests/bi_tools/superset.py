"""A Superset that imports bi/superset and is asked through its API, as its users' browsers do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import sync_playwright

from launch.network import free_port
from launch.processes import wait_until
from tests.browser import chromium
from tests.data_model import SUPERSET
from tests.superset_export import HOST

_USER = "admin"
_CONFIG = """
SECRET_KEY = {secret!r}
SQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/superset.db?check_same_thread=false"
WTF_CSRF_ENABLED = TALISMAN_ENABLED = RATELIMIT_ENABLED = False
FEATURE_FLAGS = {{"DASHBOARD_VIRTUALIZATION": False}}
"""


class Superset:
    """A running one; every method raises where Superset does not answer 200."""

    def __init__(self, address: str, password: str) -> None:
        self.address = address
        self._password = password
        self._session = requests.Session()
        login = {"username": _USER, "password": password, "provider": "db", "refresh": False}
        token = self._ask("POST", "security/login", json=login)["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._session.request(method, f"{self.address}/api/v1/{path}", timeout=120, **more)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def import_dashboard(self, url: str, password: str) -> None:
        """What ships, with the database's address and password as an operator gives them."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(SUPERSET.rglob("*.yaml")):
                content = path.read_text(encoding="utf-8").replace(HOST, url)
                archive.writestr(f"attribute_names/{path.relative_to(SUPERSET)}", content)
        given = {"databases/im_attr_audit.yaml": password}
        self._ask(
            "POST",
            "dashboard/import/",
            files={"formData": ("dashboard.zip", packed.getvalue(), "application/zip")},
            data={"passwords": json.dumps(given), "overwrite": "true"},
        )

    def all(self, what: str) -> list[dict[str, Any]]:
        """Every dataset, chart, dashboard or database."""
        found: list[dict[str, Any]] = self._ask("GET", f"{what}/?q=(page_size:100)")["result"]
        return found

    def one(self, what: str, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"{what}/{number}")["result"]
        return found

    def relations(self, database: int) -> set[str]:
        """What a user can choose from."""
        asked = "(schema_name:attr_audit,force:!t)"
        found = self._ask("GET", f"database/{database}/tables/?q={asked}")["result"]
        return {each["value"] for each in found}

    def query(self, context: dict[str, Any]) -> dict[str, Any]:
        """The one result of a query context."""
        [result] = self._ask("POST", "chart/data", json=context)["result"]
        assert not result["rejected_filters"], result["rejected_filters"]
        found: dict[str, Any] = result
        return found

    def picture(self, slug: str, path: Path, period: str) -> list[str]:
        """The dashboard as a user sees it with its time filter set; the errors that it shows."""
        chosen = (
            f"(NATIVE_FILTER-time-range:(id:NATIVE_FILTER-time-range,ownState:(),"
            f"extraFormData:(time_range:'{period}'),filterState:(value:'{period}')))"
        )
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium.find(), args=list(chromium.ARGUMENTS)
            )
            context = browser.new_context(
                base_url=self.address, viewport={"width": 1440, "height": 2000}
            )
            context.request.post("/login/", form={"username": _USER, "password": self._password})
            page = context.new_page()
            page.goto(f"/superset/dashboard/{slug}/?standalone=1&native_filters={chosen}")
            page.wait_for_selector(".chart-slice", timeout=120_000)
            page.wait_for_load_state("networkidle", timeout=120_000)
            page.wait_for_function(
                "!document.querySelector('.loading, [data-test=loading-indicator]')",
                timeout=120_000,
            )
            lowest = page.evaluate(
                "Math.max(...[...document.querySelectorAll('.chart-slice')]"
                ".map(each => each.getBoundingClientRect().bottom))"
            )
            page.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1440, "height": lowest + 32})
            errors = page.locator("[data-test=chart-container] [role=alert]").all_inner_texts()
            browser.close()
            return errors


@contextlib.contextmanager
def running(programs: Path, folder: Path) -> Iterator[Superset]:
    """Start one with a database of its own in the folder."""
    config = folder / "superset_config.py"
    config.write_text(_CONFIG.format(secret=secrets.token_hex(32), folder=folder), encoding="utf-8")
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.defpath}",
        "HOME": str(folder),
        "SUPERSET_CONFIG_PATH": str(config),
        "FLASK_APP": "superset.app:create_app()",
        "LANG": "C.UTF-8",
    }
    password = secrets.token_urlsafe(12)
    user = ("--username", _USER, "--firstname", "A", "--lastname", "B", "--email", "a@example.com")
    for command in (
        ("db", "upgrade"),
        ("fab", "create-admin", *user, "--password", password),
        ("init",),
    ):
        done = subprocess.run(
            [str(programs / "superset"), *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"superset {command[0]}:\n{done.stdout}{done.stderr}"
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with (folder / "superset.log").open("wb") as log:
        process = subprocess.Popen(
            [str(programs / "superset"), "run", "-p", str(port), "--with-threads"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:

        def is_up() -> bool:
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{address}/health", timeout=5).text == "OK"
            assert process.poll() is None, (folder / "superset.log").read_text()
            return False

        assert wait_until(is_up, seconds=180, interval=0.5)
        yield Superset(address, password)
    finally:
        process.terminate()
        process.wait()
