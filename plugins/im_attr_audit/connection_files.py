"""A secrets backend that reads connections from files: for thousands of apps, mounted as a volume.

Set it in the workers' configuration, and in the API server's for the Test button::

    [secrets]
    backend = im_attr_audit.connection_files.ConnectionFilesBackend
    backend_kwargs = {"folder": "/etc/im-attr-audit/connections"}

Every ``*.json`` file of the folder is an object from connection id to connection, in the form that
``airflow connections import`` takes (an object, or a URI). A Kubernetes Secret holds up to 1 MiB: a
projected volume puts several of them into one folder.

Airflow's own LocalFilesystemBackend parses its whole file again for each connection, so its cost
grows with the square of their number.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from airflow.sdk.bases.secrets_backend import BaseSecretsBackend

#: How long what was read serves before the files are looked at again, in seconds.
TRUSTED_FOR = 5.0


class UnreadableFiles(Exception):
    """A file cannot be read as connections; the text names it, and quotes nothing of it."""


class ConnectionFilesBackend(BaseSecretsBackend):
    """The connections in a folder's files, read once and again where a file has changed."""

    def __init__(self, folder: str, **_: Any) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._connections: dict[str, str] = {}
        self._read_from: tuple[Any, ...] | None = None
        self._looked_at = -TRUSTED_FOR

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """The connection's JSON or URI; None where no file has it; UnreadableFiles."""
        if time.monotonic() - self._looked_at >= TRUSTED_FOR:
            self._read_again()
        return self._connections.get(conn_id)

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """The connection, without Airflow's look at the signature of `get_conn_value` each time."""
        value = self.get_conn_value(conn_id, team_name)
        return self.deserialize_connection(conn_id=conn_id, value=value) if value else None

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Nothing: Variables are kept elsewhere."""
        return None

    def _read_again(self) -> None:
        # Kubernetes swaps a mounted folder's files by a link: their numbers change with them.
        try:
            files = sorted(file for file in self._folder.iterdir() if file.suffix == ".json")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableFiles(f"{self._folder} cannot be read: {reason}") from None
        state = tuple(
            (f.name, s.st_ino, s.st_mtime_ns, s.st_size) for f in files for s in [f.stat()]
        )
        if state != self._read_from:
            self._connections = _read(files)
            self._read_from = state
        self._looked_at = time.monotonic()


def _read(files: list[Path]) -> dict[str, str]:
    connections: dict[str, str] = {}
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UnreadableFiles(f"{file} is not a JSON object from connection id to connection")
        for conn_id, value in found.items():
            if conn_id in connections:
                raise UnreadableFiles(f"{file} has a connection that another file has: {conn_id}")
            connections[conn_id] = value if isinstance(value, str) else json.dumps(value)
    return connections
