"""Nobody breaks the page by an address, and no reader takes it from the others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from im_attr_audit.evidence.note import Signer
from im_attr_audit.page import checks, downloads
from im_attr_audit.page.app import make_app
from im_attr_audit.page.reader import Reader
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.store import record_polls
from pydantic import BaseModel
from sqlalchemy import make_url
from starlette.types import Message

from launch.postgres import EmbeddedPostgres
from tests.conftest import SEALER, AuditDb, fresh_audit_db
from tests.history import polled
from tests.test_page_api import Connection, application, now

pytestmark = pytest.mark.timeout(300)

APP = "region=seoul&sdk_app_id=7"

HOSTILE_VALUES = [
    # Times
    "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "infinity", "-infinity",
    "0044-03-15T00:00:00Z", "-0044-03-15T00:00:00Z", "2026-02-30T00:00:00Z",
    "2026-01-01T24:00:00Z", "2026-01-01T00:00:00+99:99", "253402300799", "99999999999999999",
    # Numbers
    "-1", "0", "1", "999", "1000", "9223372036854775807", "9223372036854775808",
    "-9223372036854775809", "1e99", "1e309", "NaN", "0x10", "\uff11\uff12", "\u00bd",
    "99999999999999999999999999999999",
    # Texts, apps and keys
    "", " ", "a", "\x00", "a\x00b", "'", "\\", "%", "_", "%00", "\u00e9", "\u202e", "\ud7ff",
    "\U0001f600" * 300, "x" * 1025, "x" * 60_000, "null", "[]", "{}", "a/1", "/1", "a/", "a/b/1",
    "a/99999999999999", "a/999999999999999999", "frankfurt/\uff11", "-9.9",
    "99999999999999999.1", "-99999999999999999.1", "1.1.1", "csv", "true", "renamed",
]  # fmt: skip


@functools.cache
def addresses() -> list[tuple[str, str]]:
    """Every route below /api with each of its parameters, as the application itself has them."""
    made = make_app(Reader(lambda: None), lambda: None, lambda: True)
    return sorted(
        (route.path, parameter)
        for route in made.routes
        if isinstance(route, APIRoute) and "/api/" in route.path
        for model in route.dependant.query_params
        for parameter in _names(model.alias, model.field_info.annotation)
    )


def _names(alias: str, annotation: object) -> Iterable[str]:
    """A query model's fields; a plain parameter itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    return [alias]


def test_the_scan_knows_every_parameter() -> None:
    found = addresses()
    assert len(found) > 30
    for expected in [
        ("/api/changes", "before"),
        ("/api/changes/download", "until"),
        ("/api/timeline", "after"),
        ("/api/as-of", "compare"),
        ("/api/change", "seq"),
        ("/api/run", "run"),
        ("/api/verification", "again"),
    ]:
        assert expected in found


async def ask_of(app: FastAPI, path: str, query: str) -> tuple[int, bytes]:
    """Status and body of a GET; any server would take this query apart in the same way.

    A client of HTTP spends more time on an address of 60,000 characters than the application.
    """
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "headers": [],
        "query_string": query.encode(), "server": ("x", 80), "client": ("x", 1), "state": {},
    }  # fmt: skip
    with contextlib.suppress(Exception):  # answered with 500, and raised again for the log
        await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return (int(sent[0]["status"]) if sent else 500), body


HOSTILE_ROWS = """
insert into attr_audit.seal (origin, n, leaf, note, timestamp_token, last_poll_id, last_change_id,
                             last_planned_id, polls_from, marks)
values ('example.com/audit', 900, 'x', 'x', 'x', 9e18, 9e18, 9e18, '4713-01-01 BC', 'x'),
       ('example.com/audit', 9e18, '["run-v1",0,"1e999999"]', '', '', -9e18, -9e18, -9e18,
        'infinity', ''),
       ('<b>', 0, repeat('[', 100000), repeat('x', 100000), null, 0, 0, 0, '294276-01-01', '');
insert into attr_audit.witnessed (origin, size, target)
values ('example.com/audit', 9e18, E'https://x:y@\\u202e<b>?'), ('<b>', 9e18, '')
"""


@pytest.fixture(scope="module", params=["empty", "hostile"])
def scanned(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    template: str,
    story: tuple[str, Path, Signer],
) -> Iterator[FastAPI]:
    """The application over an empty record, and over one with seals and with hostile rows of the
    sealer's login. Nothing of the scan can write to it."""
    hostile = request.param == "hostile"
    with fresh_audit_db(postgres, story[0] if hostile else template) as db:
        if hostile:
            engine = create_audit_engine(make_url(db.url(SEALER)))
            with engine.begin() as connection:
                connection.exec_driver_sql(HOSTILE_ROWS)
            engine.dispose()
        yield application(Connection(db))


def test_no_view_ends_in_a_server_error(scanned: FastAPI) -> None:
    needed = {
        "/api/change": APP + "&seq=1",
        "/api/run": "run=run%201",
        "/api/proof": APP + "&seq=1",
    }
    paths = [r.path for r in scanned.routes if isinstance(r, APIRoute) and "/api/" in r.path]
    assert len(paths) > 15

    async def ask() -> dict[str, tuple[int, bytes]]:
        async with scanned.router.lifespan_context(scanned):
            return {path: await ask_of(scanned, path, needed.get(path, "")) for path in paths}

    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(asyncio.run, ask()).result()
    assert {path: said for path, said in answers.items() if said[0] >= 500} == {}


@pytest.mark.parametrize("path", sorted({path for path, _ in addresses()}))
def test_no_value_of_any_parameter_ends_in_a_server_error(scanned: FastAPI, path: str) -> None:
    needed = {"region": "seoul", "sdk_app_id": "7", "seq": "1", "run": "run 1", "name": "n"}
    mine = [parameter for each, parameter in addresses() if each == path]
    given = {name: needed[name] for name in mine if name in needed}

    async def scan() -> int:
        asked = 0
        async with scanned.router.lifespan_context(scanned):
            for parameter in mine:
                queries = [urlencode({**given, parameter: value}) for value in HOSTILE_VALUES]
                for query in (*queries, f"{parameter}=%ff%fe%ed%a0%80"):
                    status, body = await ask_of(scanned, path, query)
                    asked += 1
                    assert status < 500, (path, query[:200], body)
                    if status == 422:
                        assert json.loads(body)["detail"]
        return asked

    # In a thread: Playwright's tests leave an event loop behind in the process's own.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(asyncio.run, scan()).result() >= len(mine) * 50


def test_every_answer_of_the_api_is_kept_by_nobody(audit_db: AuditDb) -> None:
    needed = {"/api/change": "?region=a&sdk_app_id=1&seq=1", "/api/run": "?run=r"}
    made = application(Connection(audit_db))
    routes = [r.path for r in made.routes if isinstance(r, APIRoute) and "/api/" in r.path]
    with TestClient(made) as client:
        for path in routes:
            for query in (needed.get(path, ""), "?region=%00&at=x&since=x&run=%00&again=x"):
                answer = client.get(path + query)
                assert answer.headers.get("Cache-Control") == "no-store", (path, query)


# Readers that do not read ------------------------------------------------------------------------


@contextmanager
def serving(db: AuditDb) -> Iterator[int]:
    """The application in a real server on a port of its own; the port."""
    reader = Reader(lambda: Connection(db))
    made = make_app(reader, lambda: None, lambda: True, checks.HealthCheck(reader, seconds=0))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(made, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


def ask(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def stall(port: int) -> socket.socket:
    """A download whose client reads its head and nothing more."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /api/changes/download HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(12).startswith(b"HTTP/1.1 ")
    return client


@pytest.fixture
def long_record(audit_db: AuditDb) -> AuditDb:
    """More changes than the sockets' buffers take."""
    begin = now(audit_db) - timedelta(hours=1)
    for number in range(40):
        names = dict.fromkeys(range(150), f"{number} " + "n" * 900)
        poll = polled(names, names, at=begin + timedelta(seconds=number * 10))
        record_polls(audit_db.writer, [poll], dag_run_id=f"run {number}", try_number=1)
    return audit_db


def test_stalled_downloads_take_the_page_from_nobody(
    long_record: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SECONDS_FOR_A_PIECE", 3600.0)
    with serving(long_record) as port:
        stalled = [stall(port) for _ in range(downloads.DOWNLOADS_AT_ONCE)]
        status, text = ask(port, "/api/changes/download")
        assert status == 429
        assert "Try again in a minute" in text
        answers: list[tuple[int, str]] = []
        askers = [
            threading.Thread(target=lambda: answers.append(ask(port, "/api/now")))
            for _ in range(60)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert [status for status, _ in answers] == [200] * 60
        assert ask(port, "/healthz") == (200, "ok")
        for client in stalled:
            client.close()


def test_a_client_that_does_not_read_is_cut_off_and_its_place_is_free_again(
    long_record: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SECONDS_FOR_A_PIECE", 2.0)
    with serving(long_record) as port:
        stalled = [stall(port) for _ in range(downloads.DOWNLOADS_AT_ONCE)]
        deadline = time.monotonic() + 60
        while (answer := ask(port, "/api/changes/download?format=json"))[0] == 429:
            assert time.monotonic() < deadline, "no place became free"
        assert answer[0] == 200
        assert answer[1].endswith("\n]}\n"), "whole for who reads"
        for client in stalled:
            client.close()
