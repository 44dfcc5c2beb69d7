"""What the page does with requests: hostile parameters, many at once, readers that do not read."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from im_attr_audit.page import downloads, queries
from sqlalchemy import text

from launch.network import free_port
from launch.processes import wait_until
from tests.conftest import AuditDb
from tests.sealing import sealing_of
from tests.test_page_api import Connection, application, poll
from tests.test_page_limits import HOSTILE_VALUES

# Addresses ------------------------------------------------------------------------------------


def test_hostile_path_segments_get_a_refusal(audit_db: AuditDb) -> None:
    made = application(Connection(audit_db), seconds=60)
    with TestClient(made, raise_server_exceptions=False) as client:
        for value in (quote(each, safe="") for each in HOSTILE_VALUES if each):
            for path in (f"/static/{value}/page.js", f"/static/x/{value}", f"/{value}"):
                assert client.get(path).status_code in (200, 400, 404), path


def test_every_statement_of_the_page_is_a_file_that_the_page_runs(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    made = sealing_of(audit_db, tmp_path / "witness")
    made.seal()
    made.engine.dispose()
    run: set[str] = set()
    read = queries.statement

    def noted(name: str) -> object:
        run.add(name)
        return read(name)

    monkeypatch.setattr(queries, "statement", noted)
    with TestClient(application(Connection(audit_db))) as client:
        for address in (
            "healthz", "api/overview", "api/names", "api/search?name=s", "api/now", "api/setup",
            "api/name-in-period?name=s", "api/changes?name=s", "api/changes/download",
            "api/changes/count", "api/attest?brief=yes",
            "api/change?region=frankfurt&sdk_app_id=1400000001&seq=1", "api/run?run=run-60",
            "api/timeline", "api/as-of", "api/health", "api/heads/download", "api/verification",
            "api/checkpoint/download",
        ):  # fmt: skip
            assert client.get(f"/{address}").status_code in (200, 404), address
    assert run == {path.stem for path in queries.STATEMENTS.glob("*.sql")}


# Nobody takes the page, or the API beside it, from the others ----------------------------------


class Server:
    """The page mounted beside another API, as Airflow mounts it, on a real socket."""

    def __init__(self, page: FastAPI) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._client = httpx.Client(
            trust_env=False, verify=False, limits=httpx.Limits(max_connections=None)
        )
        beside = FastAPI()

        @beside.get("/api/v2/dags")
        def dags() -> str:
            return "in one of the threads that everybody shares"

        beside.mount("/im-attr-audit", page)
        self._server = uvicorn.Server(
            uvicorn.Config(beside, "127.0.0.1", self.port, log_level="error", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        assert wait_until(lambda: self._server.started, seconds=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(20)

    def get(self, path: str, seconds: float = 30) -> httpx.Response:
        return self._client.get(f"{self.address}{path}", timeout=seconds)

    def ask_and_do_not_read(self, path: str) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return client


DOWNLOAD = "/im-attr-audit/api/changes/download?format=json"


def make_a_record_larger_than_any_buffer(db: AuditDb) -> None:
    # 25 times 40 names, each written as escapes of six signs a character: 6 MB and more.
    for ago in range(25, 0, -1):
        poll(db, {slot: chr(0x4E00 + ago) * 330 + f"{slot}" for slot in range(40)}, ago * 5)


def test_readers_that_do_not_read_take_nothing_from_others(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SECONDS_FOR_A_PIECE", 3600.0)
    make_a_record_larger_than_any_buffer(audit_db)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(application(Connection(audit_db))))
        for _ in range(16):
            stack.enter_context(server.ask_and_do_not_read(DOWNLOAD))
        assert wait_until(lambda: server.get(DOWNLOAD).status_code == 429, seconds=60)
        refused = server.get(DOWNLOAD)
        assert refused.headers["retry-after"] == "60"
        assert "downloads are running" in refused.json()["detail"]
        with ThreadPoolExecutor(60) as many:
            paths = ["/im-attr-audit/healthz", "/im-attr-audit/api/now", "/api/v2/dags"] * 20
            answers = list(many.map(server.get, paths))
        assert [answer.status_code for answer in answers] == [200] * 60
        assert server.get(DOWNLOAD).status_code == 429, "they were still being waited for"


def test_a_download_that_its_client_leaves_makes_room_at_once(
    audit_db: AuditDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SECONDS_FOR_A_PIECE", 3600.0)
    make_a_record_larger_than_any_buffer(audit_db)
    with Server(application(Connection(audit_db))) as server:
        stalled = [server.ask_and_do_not_read(DOWNLOAD) for _ in range(8)]
        assert wait_until(lambda: server.get(DOWNLOAD).status_code == 429, seconds=60)
        for client in stalled:
            client.close()
        assert wait_until(lambda: server.get(DOWNLOAD).status_code == 200, seconds=60)


def test_a_database_that_hangs_hangs_no_thread_of_the_api_beside(audit_db: AuditDb) -> None:
    poll(audit_db, {0: "sex"}, 60)
    holder = audit_db.owner.connect()
    holder.execute(text("lock table attr_audit.poll, attr_audit.app in access exclusive mode"))
    paths = ["healthz", "api/now", "api/health", "api/verification", "api/changes/download"] * 8
    try:
        with (
            Server(application(Connection(audit_db), seconds=60)) as server,
            ThreadPoolExecutor(40) as many,
        ):
            asked = [many.submit(server.get, f"/im-attr-audit/{path}", 120) for path in paths]
            assert wait_until(lambda: audit_db.waiting_for_locks() >= 6, seconds=60)
            for _ in range(5):
                assert server.get("/api/v2/dags").status_code == 200
            # Otherwise the API beside the page would have waited for it.
            assert audit_db.waiting_for_locks() >= 1, "the page was still waiting then"
            answers = [each.result() for each in asked]
    finally:
        holder.close()
    assert {answer.status_code for answer in answers} <= {429, 503}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) > 0
            assert "Try again" in json.loads(answer.text)["detail"]


# Times in the future ---------------------------------------------------------------------------


def test_a_good_poll_in_the_future_is_not_a_recent_one(audit_db: AuditDb) -> None:
    poll(audit_db, {0: "sex"}, 60)
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.app set last_ok_at = now() + interval '2 days'")
    with TestClient(application(Connection(audit_db))) as client:
        assert client.get("/healthz").text == "stale"
        assert client.get("/api/now").json()["groups"][0]["apps"][0]["stale"] is True
        [app] = client.get("/api/health").json()["apps"]
        assert app["stale"] is True
        assert app["age_seconds"] == 0
        then = client.get("/api/as-of", params={"at": "2999-01-01T00:00:00Z"}).json()
        assert [slot["cells"][0]["certain"] for slot in then["groups"][0]["slots"]] == [False]


def test_nothing_is_certain_of_an_app_whose_last_good_poll_is_in_the_future(
    audit_db: AuditDb,
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    poll(audit_db, {1: "city"}, 60, sdk_app_id=2)
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("select now() + interval '1 hour', last_ok_at from attr_audit.app limit 1")
        [(later, seen)] = cursor.fetchall()

    def certain(at: datetime) -> set[bool]:
        with TestClient(application(Connection(audit_db))) as client:
            answer = client.get("/api/as-of", params={"at": at.isoformat()}).json()
        return {c["certain"] for s in answer["groups"][0]["slots"] for c in s["cells"]}

    assert (certain(seen), certain(later)) == ({True}, {False})
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.app set last_ok_at = now() + interval '2 days'")
    assert certain(later) == {False}


def test_a_lane_ends_at_the_last_good_poll_that_is_not_in_the_future(audit_db: AuditDb) -> None:
    poll(audit_db, {0: "sex"}, 60)

    def drawn_to() -> list[str]:
        with TestClient(application(Connection(audit_db))) as client:
            answer = client.get("/api/timeline", params={"lanes": "all"}).json()
        return [span["seen_to"] for span in answer["spans"]]

    before = drawn_to()
    assert len(before) == 1
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.app set last_ok_at = now() + interval '2 days'")
    assert drawn_to() == before


# Of many changes ------------------------------------------------------------------------------


def test_an_app_changed_in_a_window_whatever_its_chain_ends_with(audit_db: AuditDb) -> None:
    """A change that was recorded under a clock ahead is seen later than those after it."""
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            """
            insert into attr_audit.app (region, sdk_app_id, api, first_polled_at, last_polled_at,
                                        last_outcome, conn_id)
            select 'china', n, 'timpush', now(), now(), 'ok', 'c' from generate_series(1, 3) n;
            insert into attr_audit.change (region, sdk_app_id, seq, slot, new_name, is_baseline,
                                           not_before, seen_at, recorded_at, poll_id, row_hash)
            select 'china', n, k, 0, 'x', false, at, at, at, 1, sha256((n || ':' || k)::bytea)
              from (select 1 as n, k, now() - k * interval '1 ms' as at
                      from generate_series(1, 2500) k
                     union all values (2, 1, now() - interval '1 minute'),
                                      (2, 2, now() - interval '2 days'),
                                      (3, 1, now() - interval '2 days')) v (n, k, at)
            """
        )
    with audit_db.reader.connect() as reading:
        at = queries.read_now(reading)
        window = {"window_from": at - timedelta(hours=1), "window_to": at}
        found = queries.read(reading, "changed_apps", **window, slot=None)
        assert {row["sdk_app_id"] for row in found} == {1, 2}
        assert queries.read(reading, "changed_apps", **window, slot=1) == []
