"""dbt, run with the package that ships, as a login that reads the record and owns one schema."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.postgres import EmbeddedPostgres
from launch.state import ROOT

PACKAGE = ROOT / "bi" / "dbt"
ANALYST = "analyst"
#: As bi/dbt/profiles.yml says.
_SET_UP = """
do $$ begin
    if not exists (select from pg_roles where rolname = 'analyst') then
        create role analyst login in role attr_audit_reader;
    end if;
end $$;
create schema analytics authorization analyst;
"""


@dataclass(frozen=True)
class Dbt:
    """The package on one database."""

    programs: Path
    folder: Path
    server: EmbeddedPostgres
    database: str

    def prepare(self) -> None:
        with self.server.connect(self.database) as connection, connection.cursor() as cursor:
            cursor.execute(_SET_UP)
        self.server.ensure_role(ANALYST)

    def run(self, *command: str) -> dict[str, str]:
        """What came of each model and test: success, pass, fail 3, error …"""
        found = {}
        for result in self._results("run_results", *command):
            if result["status"] == "no-op":
                continue  # an exposure
            failures = f" {result['failures']}" if result["status"] == "fail" else ""
            found[result["unique_id"].split(".")[2]] = f"{result['status']}{failures}"
            assert result["status"] != "error", f"{result['unique_id']}: {result['message']}"
        return found

    def freshness(self) -> str:
        """What `dbt source freshness` says of the record: pass, warn, error."""
        [result] = self._results("sources", "source", "freshness")
        status: str = result["status"]
        return status

    def _results(self, artifact: str, *command: str) -> list[dict[str, Any]]:
        target = self.folder / "target"
        done = subprocess.run(
            [
                *(str(self.programs / "dbt"), "--no-use-colors", *command),
                *("--project-dir", str(PACKAGE), "--profiles-dir", str(PACKAGE)),
                *("--target-path", str(target), "--log-path", str(self.folder / "logs")),
            ],
            env={
                "PATH": f"{self.programs}{os.pathsep}{os.defpath}",
                "HOME": str(self.folder),
                "DO_NOT_TRACK": "1",
                "IM_ATTR_AUDIT_PORT": str(self.server.port),
                "IM_ATTR_AUDIT_DBNAME": self.database,
                "DBT_ENV_SECRET_IM_ATTR_AUDIT_PASSWORD": self.server.password(ANALYST),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        results: list[dict[str, Any]] = json.loads((target / f"{artifact}.json").read_text())[
            "results"
        ]
        assert results, done.stdout + done.stderr
        return results
