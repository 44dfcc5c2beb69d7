"""Ports: which are free, and which to take."""

from __future__ import annotations

import contextlib
import secrets
import socket


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """A port nobody listens on, out of the range from which outgoing connections are given."""
    for _ in range(50):
        port = 20000 + secrets.randbelow(10000)
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nobody_listens(port: int) -> bool:
    """Free on loopback, whatever address a browser makes of `localhost`."""
    if not port_is_free(port):
        return False
    for address in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return False
    return True


def choose(*wanted: int | None) -> int:
    """The first of the wanted ones that is free, else any free one."""
    for port in wanted:
        if port is not None and nobody_listens(port):
            return port
    return free_port()
