"""One POST over HTTPS, by ``requests``, with what it does not give by itself.

*One deadline for the whole call.* A time-out of ``requests`` counts from byte to byte, and none of
them limits the look-up of a host name. Each request runs in a thread of its own: the caller waits
for it until the deadline, then shuts its socket down and returns.

*No signed URL anywhere.* ``requests`` and urllib3 put URLs into logs and exceptions. They get the
bare path; the connection adds the query when it sends the request line. Their exceptions never
leave this module: an error is returned as a value, in words of our own.

*No answer is read as another app's.* A connection serves one call at a time. It is kept only after
a 200 that was read to its end with nothing behind it.

*HTTP as it is.* Interim answers are skipped; a head whose framing is ambiguous ends the call.

``HTTPS_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` are honoured as ``requests`` does. Plain
HTTP (loopback only) never goes through a proxy. There is no ``Session``: it would keep cookies,
read ``.netrc`` and read the body of a redirect without a limit.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import requests
import requests.utils
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from im_attr_audit.errors import Misconfigured, Unavailable
from im_attr_audit.tencent.answer import MAX_BODY, Reply
from im_attr_audit.tencent.http11 import (
    Call,
    Connection,
    MalformedError,
    TlsConnection,
    reply_of,
)
from im_attr_audit.tencent.target import Target

_PIECE: Final = 64 * 1024
_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "im-attr-audit",
}


@dataclass(slots=True)
class Limits:
    """Of one read, whatever is sent in it: its end (monotonic), and whether it has reconnected."""

    deadline: float
    reconnected: bool = False


class _Line(HTTPAdapter):
    """One connection at most, to one host, for one call at a time."""

    def __init__(self, base_url: str, context: ssl.SSLContext | None, proxy: str | None) -> None:
        self.call = Call("", 0.0)
        self.sock: Any = None
        self._tls: dict[str, Any] = {"ssl_context": context} if context else {}
        self._base_url = base_url
        self._proxies = {"https": proxy} if proxy else {}
        super().__init__(1, 1, max_retries=urllib3.Retry(False))

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **more: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **more, **self._tls)
        self._use_our_connections(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        for_proxy = {"proxy_ssl_context": self._tls.get("ssl_context")}
        manager = super().proxy_manager_for(proxy, **more, **self._tls, **for_proxy)
        self._use_our_connections(manager)
        return manager

    def cert_verify(self, *args: Any, **more: Any) -> None:
        """Nothing: the context has its authorities, and would trust more of them otherwise."""

    def _use_our_connections(self, manager: Any) -> None:
        def pool(of: type[HTTPConnectionPool], connection: Any, *args: Any, **more: Any) -> Any:
            made = of(*args, **more)
            made.ConnectionCls = partial(connection, line=self)  # type: ignore[assignment]
            return made

        manager.pool_classes_by_scheme = {
            "http": partial(pool, HTTPConnectionPool, Connection),
            "https": partial(pool, HTTPSConnectionPool, TlsConnection),
        }

    def post(self, call: Call, path: str) -> Reply:
        """The answer to one request, read to its end or to one byte more than is allowed.

        ``path``: the call's own. Apps of both API families share the connections to a host.
        """
        self.call = call
        url = f"{self._base_url}{path}"
        request = requests.Request("POST", url, headers=_HEADERS, data=b"{}").prepare()
        left = call.seconds_left()
        raw = self.send(request, stream=True, timeout=left, proxies=self._proxies).raw
        pieces, length = [], 0
        try:
            # One byte more than is allowed is enough to know: never wait for the rest of a piece.
            while length <= MAX_BODY and (
                piece := raw.read(min(_PIECE, MAX_BODY + 1 - length), decode_content=False)
            ):
                pieces.append(piece)
                length += len(piece)
            framed = "Content-Length" in raw.headers or "Transfer-Encoding" in raw.headers
            if raw.status == 200 and not length and not framed:
                raise http.client.IncompleteRead(b"")  # hung up within the head: no empty answer
        except BaseException:
            raw.close()
            raise
        reply = reply_of(raw.status, raw.headers, b"".join(pieces))
        if length <= MAX_BODY:
            raw.release_conn()
        return reply

    def reusable(self, reply: Reply) -> bool:
        """Whether the connection may serve another call after this answer."""
        ordinary = reply.status == 200 and reply.malformed is None and len(reply.body) <= MAX_BODY
        left_over = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
        # TLS within a proxy's TLS is not a socket, and cannot say whether anything is left.
        return ordinary and isinstance(self.sock, socket.socket) and not left_over

    def cut(self) -> None:
        """Ends whatever the connection's thread is waiting for; it closes everything itself."""
        self.call.abandoned = True
        with contextlib.suppress(OSError, TypeError):  # not connected yet, or closed already
            # Not SSLSocket's own, which would have the thread read on without deciphering.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class Pool:
    """Kept-alive connections, shared by the clients of many apps and threads.

    ``max_connections`` is how many idle ones are kept per host; more threads than that work as
    well, their connections are closed after use. Close it, or use it as a context manager.
    """

    def __init__(self, max_connections: int = 8) -> None:
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str | None], list[_Line]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool of up to {self._max_connections} connections per host>"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every idle connection; one in use is closed after its call."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for line in (line for lines in idle.values() for line in lines):
            line.close()

    def post(
        self, target: Target, query: str, limits: Limits
    ) -> Reply | Unavailable | Misconfigured:
        """The answer to one POST, or why there is none. ``query`` begins with "?"."""
        while True:
            line: _Line | None = None
            try:
                line = self._take(target, new=limits.reconnected)
            except _UnusableError as error:
                why = str(error)
            if line is None:
                return Misconfigured(f"connection {target.conn_id!r} cannot be used: {why}")
            call = Call(query, limits.deadline)
            came = self._ask(line, call, target)
            if isinstance(came, Reply):
                return came
            causes = list(_causes(came))
            dropped = any(isinstance(cause, (ConnectionError, ssl.SSLError)) for cause in causes)
            if dropped and not (call.connected or call.answered or limits.reconnected):
                limits.reconnected = True
                continue
            what = f"no complete answer within {target.timeout:g} s, the connection's timeout"
            if time.monotonic() < limits.deadline:
                what = _describe(causes)
            reason = f"{target.base_url}: {what}"
            return Unavailable(reason, error_info=reason)

    def _ask(self, line: _Line, call: Call, target: Target) -> Reply | BaseException:
        """One request in a thread of its own, waited for until the deadline."""
        came: list[Reply | BaseException] = []

        def ask() -> None:
            try:
                came.append(line.post(call, target.path))
            except BaseException as error:
                # Not only the libraries' own errors: whatever a server can provoke ends here.
                came.append(error)
            if call.abandoned:
                line.close()

        asker = threading.Thread(target=ask, name="im-attr-audit-call", daemon=True)
        asker.start()
        try:
            asker.join(max(0.0, call.deadline - time.monotonic()))
        finally:
            if asker.is_alive():
                line.cut()
        result = came[0] if came else TimeoutError("the call's time is up")
        if isinstance(result, BaseException):
            malformed = (cause for cause in _causes(result) if isinstance(cause, MalformedError))
            result = next((cause.reply for cause in malformed), result)
        self._give_back(line, target, result)
        return result

    def _take(self, target: Target, *, new: bool) -> _Line:
        """A connection for one call. ``new``: not an idle one, which may be dropped as well."""
        with self._lock:
            idle = self._idle.get((target.base_url, target.ca_bundle))
            if idle and not new:
                return idle.pop()
            if not target.base_url.startswith("https://"):
                return _Line(target.base_url, None, None)
            context = self._context(target.ca_bundle)
            return _Line(target.base_url, context, _proxy(target.base_url))

    def _give_back(self, line: _Line, target: Target, came: Reply | BaseException) -> None:
        keep = isinstance(came, Reply) and line.reusable(came)
        line.call = Call("", 0.0)  # the last one held a signature
        with self._lock:
            idle = self._idle.setdefault((target.base_url, target.ca_bundle), [])
            if keep and not self._closed and len(idle) < self._max_connections:
                idle.append(line)
                return
        line.close()

    def _context(self, ca_bundle: str | None) -> ssl.SSLContext:
        """TLS 1.2 or newer, verified: by the target's authorities alone where it names some."""
        variables = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        name = next((name for name in variables if os.environ.get(name)), None)
        path = ca_bundle or (name and os.environ[name]) or requests.utils.DEFAULT_CA_BUNDLE_PATH
        if path not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            where = "capath" if os.path.isdir(path) else "cafile"  # noqa: PTH112
            try:
                context.load_verify_locations(**{where: path})
            except (OSError, ValueError):
                what = "its ca_bundle" if ca_bundle else f"the environment variable {name}"
                raise _UnusableError(f"{what} is not a readable file of PEM certificates") from None
            self._contexts[path] = context
        return self._contexts[path]


class _UnusableError(Exception):
    """What the environment or the target names cannot be used; its text goes into an error."""


def _proxy(base_url: str) -> str | None:
    """The proxy's URL as the environment gives it, with a scheme."""
    environment = requests.utils.get_environ_proxies(base_url)
    proxy = requests.utils.select_proxy(base_url, environment)
    if not proxy:
        return None
    try:
        url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except (ValueError, urllib3.exceptions.HTTPError):
        url = urllib3.util.Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise _UnusableError(
            "the proxy address in HTTPS_PROXY (or ALL_PROXY) is not an http:// or https:// URL "
            "with a host"
        )
    return url.url


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and every error inside it, however the libraries have wrapped it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [*cause.args, cause.__cause__, cause.__context__]


#: The first of these among an error's causes says what went wrong, in words of our own: the
#: libraries' texts may quote what was sent.
_WORDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (ssl.SSLCertVerificationError, "its certificate is not trusted"),
    (ssl.SSLEOFError, "it closed the connection during the TLS handshake"),
    (ssl.SSLError, "TLS 1.2 or newer could not be agreed"),
    (socket.gaierror, "its name cannot be resolved"),
    (urllib3.exceptions.LocationValueError, "its name cannot be resolved"),
    (urllib3.exceptions.ProxyError, "the proxy in HTTPS_PROXY did not connect to it"),
    (ConnectionRefusedError, "it refused the connection"),
    (http.client.RemoteDisconnected, "it closed the connection without an answer"),
    (ConnectionError, "the connection broke"),
    (TimeoutError, "it did not answer in time"),
    (urllib3.exceptions.IncompleteRead, "the answer broke off"),
    (http.client.IncompleteRead, "the answer broke off"),
    (http.client.HTTPException, "what it sent is not HTTP"),
    (urllib3.exceptions.HTTPError, "what it sent is not proper HTTP"),
)


def _describe(causes: list[BaseException]) -> str:
    """What went wrong, from an error and its causes."""
    for kind, words in _WORDS:
        for cause in causes:
            if isinstance(cause, kind):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    return f"{words} ({cause.verify_message}); for a private CA set ca_bundle"
                if isinstance(cause, ssl.SSLError) and cause.reason:
                    return f"{words} ({cause.reason})"  # a constant of OpenSSL's
                if isinstance(cause, urllib3.exceptions.ProxyError):
                    return _describe_proxy(causes) or words
                return words
    last = causes[-1]
    if isinstance(last, OSError) and last.errno is not None:
        return f"it cannot be reached ({os.strerror(last.errno)})"
    return f"the request failed ({type(last).__name__})"


def _describe_proxy(causes: list[BaseException]) -> str | None:
    """What the proxy answered to CONNECT. http.client gives its status in an error's text only."""
    for cause in causes:
        refused = re.match("Tunnel connection failed: ([0-9]{3})", str(cause))
        if refused and refused[1] == "407":
            return (
                "the proxy wants a login (HTTP 407): write user and password into HTTPS_PROXY, as "
                "http://user:password@host:port"
            )
        if refused:
            return f"the proxy in HTTPS_PROXY refused to connect to it (HTTP {refused[1]})"
    return None
