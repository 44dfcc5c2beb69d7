"""Airflow's own interface, as the launcher asks it: on loopback, past any proxy."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from launch import environment
from launch.state import State

# Whatever proxy the vendor is reached through: this is our own machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(
    url: str, body: Mapping[str, Any] | None = None, token: str | None = None, method: str = ""
) -> Any:
    """Ask, with a body to send or none, and give what came as JSON."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {token}"} if token else {}),
        method=method or ("GET" if body is None else "POST"),
    )
    with _DIRECTLY.open(request, timeout=30) as answer:
        return json.load(answer)


def log_in(address: str, state: State) -> str:
    """A token."""
    login = {"username": environment.LOGIN, "password": environment.password(state)}
    return str(ask(f"{address}/auth/token", login)["access_token"])


def is_healthy(address: str) -> bool:
    """Whether what schedules, parses and keeps is well; not while nobody answers."""
    with contextlib.suppress(OSError, ValueError):
        health = ask(f"{address}/api/v2/monitor/health")
        parts = ("metadatabase", "scheduler", "dag_processor")
        return all(health[part]["status"] == "healthy" for part in parts)
    return False
