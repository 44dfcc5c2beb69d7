"""HTTP to a simulator's control port. Standard library only."""

from __future__ import annotations

import http.client
import json
import os
import threading
from typing import Any
from urllib.parse import urlencode, urlsplit

from simulator.world import SimulatorError


class ControlClient:
    """Safe to use from several threads; SimulatorError where a command is refused."""

    def __init__(self, address: str, token: str) -> None:
        self.address = urlsplit(address)
        self._token = token
        self._local = threading.local()

    def get(self, path: str, *, slow: float = 0.0, **query: Any) -> Any:
        return self._ask("GET", f"{path}?{urlencode(query)}", None, slow)

    def post(self, path: str, **content: Any) -> Any:
        return self._ask("POST", path, json.dumps(content).encode(), 0.0)

    def _ask(self, method: str, target: str, body: bytes | None, slow: float) -> Any:
        # One connection per thread, and none taken over through a fork.
        known: tuple[int, http.client.HTTPConnection] | None = getattr(self._local, "known", None)
        if known is None or known[0] != os.getpid():
            known = (
                os.getpid(),
                http.client.HTTPConnection(self.address.hostname or "", self.address.port),
            )
            self._local.known = known
        connection = known[1]
        connection.timeout = 60.0 + slow
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request(
                method, target, body, headers={"Authorization": f"Bearer {self._token}"}
            )
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise SimulatorError(f"the simulator does not answer: {error}") from None
        if response.status != 200:
            raise SimulatorError(content["error"])
        return content
