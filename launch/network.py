"""Ports: which are free, and which to take."""

from __future__ import annotations

import contextlib
import socket

from launch.postgres import free_port, port_is_free


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
