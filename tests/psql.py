"""The real psql, as an analyst starts it: the reader's login, a query's file on its stdin."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from pathlib import Path

from launch.postgres import EmbeddedPostgres, bundled_binaries

QUERIES = Path(__file__).resolve().parents[1] / "sql" / "queries"


def psql(
    server: EmbeddedPostgres, database: str, script: str, *options: str, **variables: str
) -> str:
    """What psql prints for the script; fails where psql does. Times are UTC."""
    role = "attr_audit_reader"
    done = subprocess.run(
        [
            str(bundled_binaries() / "psql"),
            *("--no-psqlrc", "--quiet", "--no-password", "-P", "pager=off"),
            *("-v", "ON_ERROR_STOP=1"),
            *(part for item in variables.items() for part in ("-v", "=".join(item))),
            *options,
        ],
        input=script.encode(),  # as bytes: names may hold line ends of any kind
        capture_output=True,
        check=False,
        env={
            "PATH": os.defpath,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGDATABASE": database,
            "PGUSER": role,
            "PGPASSWORD": server.password(role),
            "PGTZ": "UTC",
        },
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout.decode()


def rows(
    server: EmbeddedPostgres, database: str, query: Path, **variables: str
) -> list[dict[str, str]]:
    """The rows of one file of sql/queries."""
    printed = psql(server, database, query.read_text(encoding="utf-8"), "--csv", **variables)
    return list(csv.DictReader(io.StringIO(printed, newline="")))
