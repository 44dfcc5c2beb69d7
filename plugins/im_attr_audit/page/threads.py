"""The page's own threads, so that its readers never use up those of Airflow's API.

FastAPI runs plain functions in forty threads that the whole API server shares. Here a plain
function runs in one of a few threads of the page, and a request that finds none waits without one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
from fastapi import HTTPException
from fastapi.routing import APIRoute

#: With healthz and the check of the chains fewer than the engine's pool has connections (12): to
#: name the holder of a lock takes another one.
REQUESTS_AT_ONCE = 8
#: How long a request waits for a thread, in seconds.
SECONDS_FOR_A_THREAD = 10.0


class Threads:
    """A few threads, and a refusal (429) for a request that waits too long for one."""

    def __init__(
        self, at_once: int, seconds: float, refusal: str, *, retry_after: int = 10
    ) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._seconds = seconds
        self._refusal = HTTPException(429, refusal, headers={"Retry-After": str(retry_after)})

    async def run(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns or raises; HTTPException 429 where no thread became free."""
        borrower = object()
        try:
            with anyio.fail_after(self._seconds):
                await self._limiter.acquire_on_behalf_of(borrower)
        except TimeoutError:
            raise self._refusal from None
        try:
            return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
        finally:
            self._limiter.release_on_behalf_of(borrower)


_FOR_VIEWS = Threads(
    REQUESTS_AT_ONCE,
    SECONDS_FOR_A_THREAD,
    f"The page is answering {REQUESTS_AT_ONCE} other requests. Try again in ten seconds.",
)


class ViewRoute(APIRoute):
    """A route whose plain function runs in the page's threads."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        super().__init__(path, _in_own_threads(endpoint), **given)


def _in_own_threads(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(endpoint):
        return endpoint

    @functools.wraps(endpoint)
    async def answer(**parameters: Any) -> Any:
        return await _FOR_VIEWS.run(functools.partial(endpoint, **parameters))

    return answer
