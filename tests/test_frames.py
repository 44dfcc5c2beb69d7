"""No error shows a key, a UserSig or a password in its frames, wherever it was raised."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeVar

import pytest
from im_attr_audit import frames, lookup, tasks
from im_attr_audit.errors import SecretsUnavailable
from im_attr_audit.hook import TencentImHook
from im_attr_audit.messages import notify
from im_attr_audit.page.reader import CannotRead, Reader, connection_from_airflow
from sqlalchemy.exc import OperationalError

T = TypeVar("T")
KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"
PASSWORD = "correct horse battery staple"
CHAT = {
    "conn_type": "tencent_im",
    "login": "administrator",
    "password": KEY,
    "extra": {"region": "singapore", "sdk_app_id": 1400000000},
}
#: Nothing listens on that port.
DATABASE = {
    "conn_type": "postgres",
    "host": "127.0.0.1",
    "port": 9,
    "login": "attr_audit_writer",
    "password": PASSWORD,
    "extra": {"sslpassword": PASSWORD},
}


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two connections, and a vendor; gives the signatures that it was sent."""
    sent: list[str] = []

    class Vendor(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.path.partition("usersig=")[2].partition("&")[0])
            body = b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":"sex"}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vendor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chat = CHAT | {"host": f"http://127.0.0.1:{server.server_port}"}
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(chat))
        monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", json.dumps(DATABASE))
        yield sent
        server.shutdown()


def shown_by(error: BaseException) -> str:
    """All that a renderer could show of an error: the variables of its and its causes' frames."""
    shown = [str(error)]
    for link in {error, error.__cause__, error.__context__} - {None}:
        assert link is not None
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename != __file__:  # which knows the secrets
                shown += map(_shown, frame.f_locals.values())
    return "\n".join(shown)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except AttributeError as error:  # of an object whose __init__ was interrupted
        return str(error)


class InterruptedAt:
    """Raises KeyboardInterrupt in this thread at the nth line of the product that is run."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.happened = False

    def __enter__(self) -> InterruptedAt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        file = frame.f_code.co_filename
        if "im_attr_audit" not in file or file == frames.__file__:
            return None
        source = linecache.getline(file, frame.f_lineno).lstrip()
        # Raised there by a tracer, it would leave the lock of the statement locked.
        if event == "line" and not source.startswith("with "):
            self._left -= 1
            if self._left < 0:
                sys.settrace(None)
                self.happened = True
                raise KeyboardInterrupt
        return self._trace


def read_names() -> None:
    TencentImHook("chat").get_attr_names()


def connect_as_the_writer() -> None:
    with pytest.raises(OperationalError) as refused:
        tasks.audit_engine().connect()
    raise refused.value


def connect_as_the_page() -> None:
    with Reader(connection_from_airflow).transaction():
        pass


def interrupt(call: Callable[[], None], nth: int) -> tuple[BaseException | None, bool]:
    """What the call raises with an interrupt at the nth line, and whether it came that far."""
    try:
        with InterruptedAt(nth) as interrupted:
            call()
    except BaseException as error:
        return error, interrupted.happened
    return None, interrupted.happened


def in_a_thread(do: Callable[[], T]) -> T:
    """Its result. A tracer that raises at the end of an "except" leaves that error as the one that
    the thread handles: every later one of the thread would have it as its context."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(do).result()


# An interrupt may come while urllib3 closes a connection that is not needed any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("call", "ends_in"),
    [
        (read_names, None),
        (connect_as_the_writer, OperationalError),
        (connect_as_the_page, CannotRead),
        (lambda: notify._messenger(lambda: None), None),
    ],
    ids=["a poll", "the writer's connection", "the page's connection", "alerts"],
)
def test_no_frame_holds_a_secret_wherever_an_interrupt_comes(
    signatures: list[str],
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[], None],
    ends_in: type[Exception] | None,
) -> None:
    notified = {"conn_type": "apprise", "password": PASSWORD, "extra": {"config": {"path": "x"}}}
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_NOTIFY", json.dumps(notified))
    for nth in itertools.count():
        raised, happened = in_a_thread(functools.partial(interrupt, call, nth))
        if raised is not None:
            shown = shown_by(raised)
            for secret in (KEY, PASSWORD, *signatures):
                assert secret not in shown, nth
        if not happened:
            break
    assert type(raised) is (ends_in or type(None))
    assert nth > 10
    assert signatures or call is not read_names


def test_no_frame_of_a_failing_backends_error_holds_what_another_one_had(
    signatures: list[str],
) -> None:
    class Backend:
        def get_conn_value(self, conn_id: str) -> str:
            raise ConnectionError(f"https://user:{PASSWORD}@vault/{conn_id}")

    with pytest.raises(SecretsUnavailable) as raised:
        lookup.ask_for_connection("chat", [Backend()])
    assert PASSWORD not in shown_by(raised.value)
