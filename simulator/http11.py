"""Just enough of an HTTP/1.1 server for the simulator: keep-alive, bodies with a length, one write.

The standard library's server spends more time on a request than everything else here together, and
it cannot be made to break its word half-way through an answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

_MAX_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. The target carries the UserSig, so it stays out of the repr."""

    method: str
    target: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    arrived_us: int

    @property
    def keep_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


class Connection(asyncio.Protocol):
    """One connection: requests are taken one at a time, the next when ``next_request`` is called.

    Subclasses write ``handle`` and answer through ``transport``.
    """

    max_body = 1024 * 1024
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._busy = False

    def handle(self, request: Request) -> None:
        """Answer the request, now or later, then call ``next_request``."""
        raise NotImplementedError

    def unreadable(self) -> None:
        """What came is not an HTTP request."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._read()

    def next_request(self, *, keep_alive: bool) -> None:
        """The answer is out: continue with this connection, or end it."""
        if not keep_alive:
            self.transport.close()
            return
        self._busy = False
        if self._buffer:
            # Not called directly: a client that sends many at once must not deepen the stack.
            asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        if self._busy or self.transport.is_closing():
            return
        arrived_us = time.time_ns() // 1000
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                self.unreadable()
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length", "0")
        if (
            len(words) != 3
            or not words[2].startswith("HTTP/1.")
            or "transfer-encoding" in headers
            or not (length.isascii() and length.isdigit())
            or int(length) > self.max_body
        ):
            self.unreadable()
            return
        total = end + 4 + int(length)
        if len(self._buffer) < total:
            return
        body = bytes(self._buffer[end + 4 : total])
        del self._buffer[:total]
        if words[2] == "HTTP/1.0" and headers.get("connection", "").lower() != "keep-alive":
            headers["connection"] = "close"
        self._busy = True
        self.handle(Request(words[0], words[1], headers, body, arrived_us))

    def reset(self) -> None:
        """End the connection by a TCP reset instead of an orderly end."""
        raw: Any = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def head_of(status: int, headers: Mapping[str, str], *, length: int | None) -> bytes:
    """Status line and headers; without a length the body is announced as chunked."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def in_chunks(body: bytes, size: int = 16 * 1024) -> bytes:
    """The body in HTTP's chunked form."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class DateHeader:
    """The ``Date`` header's text, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, moment: float) -> str:
        if int(moment) != self._second:
            self._second = int(moment)
            self._text = formatdate(self._second, usegmt=True)
        return self._text
