"""HTTP/1.1 as it is, under urllib3: a connection and a response that are stricter than its own.

The connection adds the signed query at the moment of sending, so that nothing above it knows one,
and shows its socket to the code that ends the call. The response skips interim answers, refuses a
head whose body has no certain end and reads chunks to the letter.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from urllib3.connection import HTTPConnection, HTTPSConnection

from im_attr_audit.tencent.answer import Reply

_INTERIM: Final = 8  # so many interim answers are skipped, within the call's time
_MAX_LINE: Final = 64 * 1024
_LENGTH: Final = re.compile("[0-9]{1,18}", re.ASCII)
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


@dataclass(slots=True)
class Call:
    """What one request has come to; its connection writes it down."""

    query: str
    deadline: float
    connected: bool = False  # a connection was made for this request
    answered: bool = False  # a byte of the answer has come
    abandoned: bool = False  # nobody waits for it any longer

    def seconds_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0 or self.abandoned:
            raise TimeoutError("the call's time is up")
        return left


class Line(Protocol):
    """Whose connection it is: the call that it serves, and the socket that it uses."""

    call: Call
    sock: Any


class MalformedError(http.client.HTTPException):
    """A complete head whose body has no certain end; ``reply`` is what is known of the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.malformed)
        self.reply = reply


class _Response(http.client.HTTPResponse):
    """Refuses a head or a chunk that is not HTTP, before urllib3 logs what it could not read."""

    def __init__(self, line: Line, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._line = line
        self._left = 0  # bytes of the present chunk

    def begin(self) -> None:
        if not self.fp.peek(1):  # this waits for the first byte
            raise http.client.RemoteDisconnected("closed without an answer")
        self._line.call.answered = True
        for _ in range(_INTERIM + 1):
            super().begin()
            if self.headers.defects or self.headers.get_payload():
                raise http.client.HTTPException("broken headers")
            if not 100 <= self.status < 200 or self.status == 101:
                break
            self.headers = None  # type: ignore[assignment]  # so that begin() reads the next head
        else:
            raise http.client.HTTPException("nothing but interim answers")
        why = self._malformed()
        if why:
            raise MalformedError(reply_of(self.status, self.headers, malformed=why))
        if self.status != 200:
            self.will_close = True  # its body may be longer than its head says

    def _malformed(self) -> str | None:
        lengths = self.headers.get_all("Content-Length", [])
        codings = self.headers.get_all("Transfer-Encoding", [])
        if lengths and codings:
            return "both a Content-Length and a Transfer-Encoding"
        if len(lengths) > 1:
            return "more than one Content-Length"
        if lengths and not _LENGTH.fullmatch(lengths[0].strip()):
            return "a Content-Length that is not a number"
        if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
            return "a Transfer-Encoding other than chunked"
        return None

    def read(self, amt: int | None = None) -> bytes:
        """As the library's, which takes negative and signed chunk sizes and looks at no CRLF."""
        if self.fp is None or not self.chunked or amt is None:
            return super().read(amt)
        if not self._left:
            size = _CHUNK.fullmatch(self._text_line())
            if size is None:
                raise http.client.HTTPException("broken chunk")
            self._left = int(size[1], 16)
            if not self._left:
                while self._text_line() not in (b"\r\n", b"\n"):
                    pass  # trailers
                self.close()
                return b""
        data = self.fp.read(min(amt, self._left))
        self._left -= len(data)
        if not data or (not self._left and self._text_line() not in (b"\r\n", b"\n")):
            raise http.client.IncompleteRead(data)
        return data

    def _text_line(self) -> bytes:
        line: bytes = self.fp.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line


class Connection(HTTPConnection):
    # Not http.client's own switch, which would print the signed request line.
    debuglevel = 0
    _sock: socket.socket | None = None

    def __init__(self, *args: Any, line: Line, **more: Any) -> None:
        self._line = line
        super().__init__(*args, **more)
        self.response_class = partial(_Response, line)  # type: ignore[assignment]

    @property
    def sock(self) -> Any:
        """The socket; set as soon as TCP is connected, and again under TLS."""
        return self._sock

    @sock.setter
    def sock(self, sock: Any) -> None:
        self._sock = sock
        if sock is not None:
            self._line.sock = sock
            sock.settimeout(self._line.call.seconds_left())

    def connect(self) -> None:
        call = self._line.call
        call.connected = True
        addresses = 1
        with contextlib.suppress(OSError, UnicodeError):  # the library will raise its own error
            addresses = len(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
        # urllib3 gives each address the whole time-out: the first must leave time for the others.
        self.timeout = call.seconds_left() / max(1, addresses)
        super().connect()

    def putrequest(self, method: str, url: str, *args: Any, **more: Any) -> None:
        super().putrequest(method, url + self._line.call.query, *args, **more)


class TlsConnection(Connection, HTTPSConnection):
    pass


def reply_of(status: int, headers: Any, body: bytes = b"", malformed: str | None = None) -> Reply:
    """What came, from a response's status and headers."""
    encoding = headers.get("Content-Encoding", "")
    return Reply(status, headers.get("Date"), encoding, body, malformed)
