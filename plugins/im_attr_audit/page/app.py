"""The application: what may be asked for, by whom, and with which headers.

Everything but ``/healthz`` is for those who may read the DAG; Airflow mounts the application beside
its own and guards nothing itself.
"""

from __future__ import annotations

import hashlib
import html
import mimetypes
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
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
from im_attr_audit.page.reader import CannotRead, Reader, connection_from_airflow
from im_attr_audit.page.routes import api
from im_attr_audit.page.services import Services
from im_attr_audit.settings import CONN_IDS, BadSetting, parse_conn_ids

DAG_ID = "im_attr_name_audit"
STATIC = Path(__file__).parent / "static"

#: The page's addresses: view -> title.
VIEWS: Mapping[str, str] = {
    "now": "Now",
    "timeline": "Timeline",
    "changes": "Changes",
    "as-of": "As of",
    "health": "Health",
}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    # Static files say otherwise. What is shown is for those who may read the DAG now.
    "Cache-Control": "no-store",
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
    """Whether the Variable names any connection; None where that cannot be told."""
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
    guarded = APIRouter(dependencies=[Depends(guard)])
    guarded.include_router(api(), prefix="/api")
    app.state.services = Services(
        reader, targets_listed, check, Verifier(reader), Downloads(reader)
    )

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> PlainTextResponse:
        word = check.word()
        return PlainTextResponse(word, 200 if word == "ok" else 503)

    @guarded.get("/static/{version}/{path:path}")
    def static(version: str, path: str) -> Response:
        files = static_files()
        if path not in files:
            raise HTTPException(404, "There is no such file.")
        content, kind = files[path]
        # Who may read changes; the browser keeps a file only for the one who was let in.
        keep = "private, max-age=86400, immutable" if version == static_version() else "no-store"
        return Response(content, media_type=kind, headers={"Cache-Control": keep})

    def page(view: str) -> Callable[[], HTMLResponse]:
        def show() -> HTMLResponse:
            return HTMLResponse(shell(view))

        return show

    for view in VIEWS:
        guarded.add_api_route("/" if view == "now" else f"/{view}", page(view), methods=["GET"])
    app.include_router(guarded)

    app.add_middleware(_WithHeaders)

    @app.exception_handler(CannotRead)
    async def cannot_read(_: Request, problem: CannotRead) -> JSONResponse:
        said = Problem(error=problem.code, what=problem.what, next=problem.what_next)
        return JSONResponse(said.model_dump(), 503)

    @app.exception_handler(BadSetting)
    async def bad_setting(_: Request, error: BadSetting) -> JSONResponse:
        said = Problem(
            error="bad_setting",
            what=str(error),
            next="Fix it in the environment of Airflow's API server, and restart that.",
        )
        return JSONResponse(said.model_dump(), 503)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, refusal: StarletteHTTPException) -> Response:
        mounted = request.scope.get("root_path", "")
        view = request.url.path.removeprefix(mounted).strip("/") or "now"
        if refusal.status_code == 401 and view in VIEWS and request.method == "GET":
            # A shared link leads through Airflow's login and back.
            root = mounted.rpartition("/")[0]
            there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return Response(
                status_code=303, headers={"Location": f"{root}/auth/login?next={quote(there)}"}
            )
        return await http_exception_handler(request, refusal)

    return app


class _WithHeaders:
    """Puts the headers on every answer, a refusal's too; streams pass through."""

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


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Every file below static, by its path: nothing else can be asked for."""
    kinds = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
             ".svg": "image/svg+xml"}  # fmt: skip
    return {
        path.relative_to(STATIC).as_posix(): (
            path.read_bytes(),
            kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain",
        )
        for path in sorted(STATIC.rglob("*"))
        if path.is_file()
    }


@cache
def static_version() -> str:
    """Changes with any of the files, so that a browser may keep them."""
    digest = hashlib.sha256()
    for name, (content, _) in static_files().items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


@cache
def shell(view: str) -> str:
    """The page of a view: its frame, which the view's script fills. All addresses are relative."""
    base = f"static/{static_version()}"
    current = ' aria-current="page"'
    links = "".join(
        f'<li><a href="{"./" if name == "now" else name}"{current if name == view else ""}>'
        f"{html.escape(title)}</a></li>"
        for name, title in VIEWS.items()
    )
    title = VIEWS[view]
    extra = (
        f'<link rel="stylesheet" href="{base}/vendor/vis-timeline.css">'
        f'<link rel="modulepreload" href="{base}/vendor/vis-timeline.mjs">'
        if view == "timeline"
        else ""
    )
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Attribute names</title>
<link rel="icon" href="{base}/icon.svg" type="image/svg+xml">
<script src="{base}/theme.js"></script>
{extra}<link rel="stylesheet" href="{base}/page.css">
<link rel="modulepreload" href="{base}/page.js">
<script type="module" src="{base}/{view}.js"></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<p class="brand">Attribute names</p>
<nav aria-label="Views"><ul>{links}</ul></nav>
</header>
<main id="main" tabindex="-1" aria-busy="true">
<h1>{title}</h1>
<div id="content"><p class="waiting">Reading the record …</p></div>
<noscript><p class="notice">This page draws what its JSON says with JavaScript. Without it, the
record is in Postgres: see the schema attr_audit.</p></noscript>
</main>
<footer><p id="foot"></p></footer>
<div id="said" role="status" class="unseen"></div>
</body>
</html>
"""
