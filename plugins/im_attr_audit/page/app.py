"""The application: what may be asked for, by whom, and with which headers.

Everything but ``/healthz`` is for those who may read the DAG; Airflow mounts the application beside
its own and guards nothing itself.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from im_attr_audit.page.checks import HealthCheck, Verifier
from im_attr_audit.page.downloads import Downloads
from im_attr_audit.page.models import Problem
from im_attr_audit.page.proofs import Proofs
from im_attr_audit.page.reader import CannotRead, Reader, connection_from_airflow
from im_attr_audit.page.routes import api
from im_attr_audit.page.services import Services, ServicesOf
from im_attr_audit.page.shell import FIRST_VIEW, VIEWS, shell, static_files, static_version
from im_attr_audit.settings import CONN_IDS, DAG_ID, BadSetting, parse_conn_ids

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def airflow_app() -> FastAPI:
    """The application as the plugin mounts it in Airflow's API server."""
    from airflow.api_fastapi.core_api.security import requires_access_dag

    guard = requires_access_dag("GET", param_dag_id=DAG_ID)
    return make_app(Reader(connection_from_airflow), guard, targets_listed_in_airflow)


def targets_listed_in_airflow() -> bool | None:
    """Whether the Variable names any connection; None where that is unknown."""
    from airflow.models import Variable

    try:
        return bool(parse_conn_ids(Variable.get(CONN_IDS, default_var=None)))
    except BadSetting:
        return False
    except Exception:
        return None


def make_app(
    reader: Reader,
    guard: Callable[..., Any],
    targets_listed: Callable[[], bool | None],
    health_check: HealthCheck | None = None,
) -> FastAPI:
    """The application over a reader, behind a guard (a dependency that raises for strangers)."""
    check = health_check or HealthCheck(reader)

    @asynccontextmanager
    async def warmed_up(_: FastAPI) -> AsyncIterator[None]:
        # The first visitor need not wait for a connection and what it takes to look it up.
        threading.Thread(target=check.word, name="im-attr-audit-warm-up", daemon=True).start()
        yield
        reader.dispose()

    app = FastAPI(
        lifespan=warmed_up,
        title="Attribute names",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = Services(
        reader, targets_listed, check, Verifier(reader), Downloads(reader), Proofs(reader)
    )
    guarded = APIRouter(dependencies=[Depends(guard)])
    guarded.include_router(api(), prefix="/api")
    guarded.add_api_route("/static/{version}/{path:path}", _static, methods=["GET"])
    for view in VIEWS:
        guarded.add_api_route(
            "/" if view == FIRST_VIEW else f"/{view}", _page(view), methods=["GET"]
        )
    app.add_api_route("/healthz", _healthz, methods=["GET"], response_class=PlainTextResponse)
    app.include_router(guarded)
    app.add_middleware(_WithHeaders)
    app.add_exception_handler(CannotRead, _cannot_read)
    app.add_exception_handler(BadSetting, _bad_setting)
    app.add_exception_handler(StarletteHTTPException, _refused)
    return app


# None of these needs a thread: they read no database, or wait for one in the page's own threads.


async def _healthz(services: ServicesOf) -> PlainTextResponse:
    word = await services.health_check.word_in_own_thread()
    return PlainTextResponse(word, 200 if word == "ok" else 503)


async def _static(version: str, path: str) -> Response:
    files = static_files()
    if path not in files:
        raise HTTPException(404, "There is no such file.")
    content, media_type = files[path]
    # Who may read changes; the browser keeps a file only for the user who may read it now.
    keep = "private, max-age=86400, immutable" if version == static_version() else "no-store"
    return Response(content, media_type=media_type, headers={"Cache-Control": keep})


def _page(view: str) -> Callable[[Request], Coroutine[Any, Any, HTMLResponse]]:
    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(shell(view, request.query_params))

    return show


async def _cannot_read(_: Request, reason: Exception) -> Response:
    assert isinstance(reason, CannotRead)  # noqa: S101 - registered for it alone
    answer = Problem(error=reason.code, what=reason.what, next=reason.what_next)
    return JSONResponse(answer.model_dump(), 503)


async def _bad_setting(_: Request, error: Exception) -> Response:
    answer = Problem(
        error="bad_setting",
        what=str(error),
        next="Fix it in the environment of Airflow's API server, then restart the server.",
    )
    return JSONResponse(answer.model_dump(), 503)


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, StarletteHTTPException)  # noqa: S101 - registered for it alone
    mounted = request.scope.get("root_path", "")
    view = request.url.path.removeprefix(mounted).strip("/") or FIRST_VIEW
    if refusal.status_code == 401 and view in VIEWS and request.method == "GET":
        # A shared link leads through Airflow's login and back.
        root = mounted.rpartition("/")[0]
        there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return Response(
            status_code=303, headers={"Location": f"{root}/auth/login?next={quote(there)}"}
        )
    return await http_exception_handler(request, refusal)


class _WithHeaders:
    """Sets the headers of every answer, refusals included; streams pass through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
