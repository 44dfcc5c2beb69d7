"""The client of Airflow's REST API, on this machine or between our containers: never by a proxy.

Standard library only: the compose images copy this module.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

# Whatever proxy reaches the vendor: this is our own machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_WITHOUT_REDIRECTS = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def ask(
    url: str,
    body: Mapping[str, Any] | None = None,
    token: str | None = None,
    method: str = "",
    *,
    timeout: float = 30,
) -> Any:
    """The answer, read as JSON. With a body the method is POST unless another one is given.

    Raises OSError (``HTTPError`` among them) where there is no good answer.
    """
    request = urllib.request.Request(  # noqa: S310 - our own address
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_authorization(token)},
        method=method or ("GET" if body is None else "POST"),
    )
    with _DIRECTLY.open(request, timeout=timeout) as answer:
        return json.load(answer)


def get(
    url: str,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 60,
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers, those of a refusal or a redirect too. OSError without an answer."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        url, headers={**(headers or {}), **_authorization(token)}
    )
    try:
        with _WITHOUT_REDIRECTS.open(request, timeout=timeout) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read(), dict(refusal.headers)


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def log_in(address: str, login: str, password: str) -> str:
    """A token."""
    credentials = {"username": login, "password": password}
    return str(ask(f"{address}/auth/token", credentials)["access_token"])


def is_healthy(address: str) -> bool:
    """Whether Airflow answers, and database, scheduler and DAG processor are healthy."""
    with contextlib.suppress(OSError, ValueError):
        health = ask(f"{address}/api/v2/monitor/health")
        parts = ("metadatabase", "scheduler", "dag_processor")
        return all(health[part]["status"] == "healthy" for part in parts)
    return False
