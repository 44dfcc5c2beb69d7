"""A messenger's webhook on this machine: takes what Apprise's `json://` sends, or refuses it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """``status``: what it answers with; ``trickles``: it answers, but never to the end."""

    port: int = 0
    status: int = 200
    trickles: bool = False
    received: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, token: str = "a-secret-token") -> str:
        """Its address, as Apprise wants it."""
        return f"json://127.0.0.1:{self.port}/{token}"

    def connection(self, *more: str) -> str:
        """The connection that Airflow is given, with this address and more."""
        config = [{"path": url} for url in (self.url(), *more)]
        return json.dumps({"conn_type": "apprise", "extra": {"config": config}})

    def take(self) -> list[tuple[str, str]]:
        """Title and body of what came since the last call."""
        taken = [(message["title"], message["message"]) for message in self.received]
        self.received.clear()
        return taken


@contextmanager
def webhook() -> Iterator[Webhook]:
    """One that runs for as long as it is needed."""
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if state.trickles:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not state.released.wait(0.2):
                    self.wfile.write(b"X-Wait: yes\r\n")
                return
            if state.status == 200:
                state.received.append(content)
            else:
                state.refused += 1
            self.send_response(state.status)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
