"""The hook: a Connection in, a client or a sentence out."""

from __future__ import annotations

import http.server
import json
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from im_attr_audit.errors import Misconfigured, Rejected
from im_attr_audit.hook import TencentImHook
from im_attr_audit.names import AttrName

KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"
GOOD = {"ActionStatus": "OK", "ErrorCode": 0, "AttrNames": {"0": "sex", "1": "city"}}


@pytest.fixture
def vendor() -> Iterator[http.server.ThreadingHTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(self.server.answer).encode()  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer = GOOD  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def define(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    connection = {
        "conn_type": "tencent_im",
        "login": "administrator",
        "password": KEY,
        "extra": {"region": "singapore", "sdk_app_id": 1400000000},
    }
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(connection | changed))


def test_the_hook_has_what_airflow_looks_for() -> None:
    assert TencentImHook.conn_name_attr == "tencent_im_conn_id"
    assert TencentImHook.default_conn_name == "tencent_im_default"
    assert TencentImHook.conn_type == "tencent_im"
    assert TencentImHook.hook_name
    assert TencentImHook(tencent_im_conn_id="chat").tencent_im_conn_id == "chat"
    assert TencentImHook().tencent_im_conn_id == "tencent_im_default"


def test_the_connection_becomes_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch)
    target = TencentImHook("chat").get_target()
    assert (target.conn_id, target.region, target.sdk_app_id) == ("chat", "singapore", 1400000000)
    assert target.secret_key == KEY


def test_no_frame_of_a_bad_connections_error_holds_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    define(monkeypatch, extra={"region": "nowhere", "sdk_app_id": 7})
    with pytest.raises(Misconfigured) as raised:
        TencentImHook("chat").get_conn()
    shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert KEY not in "".join(shown.format())


def test_a_connection_written_as_a_uri_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_CHAT",
        f"tencent-im://administrator:{KEY}@example.com:8443/?region=mine&sdk_app_id=7&timeout=3",
    )
    target = TencentImHook("chat").get_target()
    assert (target.region, target.sdk_app_id, target.timeout) == ("mine", 7, 3.0)
    assert target.base_url == "https://example.com:8443"


def test_the_masker_gets_a_key_unless_many_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # By Airflow itself, and by us: neither may cost a task of many apps its minutes.
    shown: list[object] = []
    monkeypatch.setattr("airflow.sdk.execution_time.context.mask_secret", shown.append)
    monkeypatch.setattr("im_attr_audit.hook.mask_secret", shown.append)
    define(monkeypatch)
    hook = TencentImHook("chat")
    masked = hook.get_target()
    assert shown.count(KEY) == 2
    shown.clear()
    assert hook.get_target(masked=False) == masked
    assert shown == []
    hook.get_target()
    assert shown.count(KEY) == 2


def test_the_names_come_by_slot(
    monkeypatch: pytest.MonkeyPatch, vendor: http.server.ThreadingHTTPServer
) -> None:
    define(monkeypatch, host=f"http://127.0.0.1:{vendor.server_port}")
    hook = TencentImHook("chat")
    assert hook.get_attr_names() == {0: AttrName("sex"), 1: AttrName("city")}
    assert hook.get_conn().get_attr_names().names == hook.get_attr_names()
    assert hook.test_connection() == (True, "The vendor answered: 2 attribute name(s).")


def test_the_test_button_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, vendor: http.server.ThreadingHTTPServer
) -> None:
    define(monkeypatch, host=f"http://127.0.0.1:{vendor.server_port}")
    info = f"wrong: {KEY}"
    vendor.answer = {"ErrorCode": 70009, "ErrorInfo": info}  # type: ignore[attr-defined]
    works, shown = TencentImHook("chat").test_connection()
    assert not works
    assert "70009" in shown
    assert KEY not in shown
    with pytest.raises(Rejected):
        TencentImHook("chat").get_attr_names()
    define(monkeypatch, login="")
    works, shown = TencentImHook("chat").test_connection()
    assert not works
    assert "login is empty" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(None, "is not defined", id="not_defined"),
        pytest.param(f'{{"password": "{KEY}"', "'chat'", id="broken_json"),
        pytest.param(
            f'{{"conn_type": "tencent_im", "password": "{KEY}", "port": "x"}}', "'chat'", id="port"
        ),
        pytest.param(f'{{"conn_type": "http", "password": "{KEY}"}}', "of type", id="other_type"),
        pytest.param(f"tencent-im://a:{KEY}@[/", "'chat'", id="broken_uri"),
        pytest.param(
            f'{{"conn_type": "tencent_im", "login": "a", "password": "{KEY}", "extra": "{{"}}',
            "extra is not readable JSON",
            id="broken_extra",
        ),
        pytest.param(
            f'{{"conn_type": "tencent_im", "login": "a", "password": "{KEY}", "extra": "[1]"}}',
            "'chat'",
            id="list_extra",
        ),
    ],
)  # fmt: skip
def test_a_connection_that_cannot_be_read_is_misconfigured_by_name(
    monkeypatch: pytest.MonkeyPatch, value: str | None, shown: str
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_CHAT", raising=False)
    if value is not None:
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", value)
    with pytest.raises(Misconfigured) as caught:
        TencentImHook("chat").get_target()
    assert shown in str(caught.value)
    assert "'chat'" in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_error_of_a_backend_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError(f"postgres://user:{KEY}@host")

    monkeypatch.setattr(TencentImHook, "get_connection", broken)
    with pytest.raises(Misconfigured, match="ValueError") as caught:
        TencentImHook("chat").get_target()
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None
