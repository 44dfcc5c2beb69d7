"""Asks the vendor for one app's attribute names. The only module that speaks HTTP.

One read is one POST, plus at most one with a new signature (where the vendor says that the first
has expired) and one over a new connection (where a kept-alive one turned out to be dropped, or its
TLS broken, before any byte of the answer). Everything else that goes wrong is raised, classified,
for Airflow to retry. Three things that the HTTP libraries do not give are made here:

*One time-out for the whole call.* ``requests`` and urllib3 count from byte to byte: a server that
drips one a second is never cut off. Here each call has a deadline, and every socket operation
(connect, handshake, a proxy's CONNECT, send, receive) may last only as long as is left of it. The
look-up of the host's name, which no time-out reaches, is waited for only so long.

*No signed URL anywhere.* urllib3 puts the URL into its DEBUG log and into exceptions. It is given
the bare path; the connection adds the query at the moment of sending. What the vendor or a gateway
says passes :mod:`redact`, and errors are raised outside of any ``except`` block, so that no
``__context__`` carries the original.

*Environment:* ``HTTPS_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` are honoured as ``requests``
does, ``.netrc`` is not read, and plain HTTP (loopback only) never goes through a proxy.
"""

from __future__ import annotations

import http.client
import os
import secrets as randomness
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

import requests.utils
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from im_attr_audit.errors import Invalid, Misconfigured, PollFailed, Unavailable
from im_attr_audit.tencent.answer import Answer, parse
from im_attr_audit.tencent.codes import Action, lookup
from im_attr_audit.tencent.redact import redact, safe_text
from im_attr_audit.tencent.target import Target
from im_attr_audit.tencent.urls import check_base_url
from im_attr_audit.tencent.usersig import user_sig

MAX_BODY: Final = 1024 * 1024
_PIECE: Final = 64 * 1024
_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "im-attr-audit",
}


@dataclass(slots=True)
class _Call:
    """The request that this thread is making; sockets and connections below urllib3 look here."""

    deadline: float
    query: str
    new_connection: bool = False  # do not use a kept-alive one
    connected: bool = False  # a connection was made for this request
    answered: bool = False  # a byte of the answer has come


class _ThisThread(threading.local):
    call: _Call | None = None


_this_thread = _ThisThread()


def _seconds_left() -> float | None:
    """What is left of this thread's call; None outside of one."""
    call = _this_thread.call
    if call is None:
        return None
    left = call.deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the call's time is up")
    return left


def _limit(sock: socket.socket) -> None:
    left = _seconds_left()
    if left is not None:
        sock.settimeout(left)


def _note_answer() -> None:
    if _this_thread.call is not None:
        _this_thread.call.answered = True


class _PlainSocket(socket.socket):
    """A socket whose every operation ends with the call: loopback HTTP, and CONNECT to a proxy."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        _limit(self)
        received = super().recv(bufsize, flags)
        if received:
            _note_answer()
        return received

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        _limit(self)
        received = super().recv_into(buffer, nbytes, flags)
        if received:
            _note_answer()
        return received

    def send(self, data: Any, flags: int = 0, /) -> int:
        _limit(self)
        return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        _limit(self)
        super().sendall(data, flags)


class _TlsSocket(ssl.SSLSocket):
    """The same under TLS, where every way of receiving goes through read, of sending through send.

    OpenSSL's part of one operation keeps to the socket's time-out as a whole, also when the bytes
    of a single record or of the handshake drip.
    """

    def do_handshake(self, block: bool = False) -> None:
        _limit(self)
        super().do_handshake(block)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        _limit(self)
        received = super().read(len, buffer)
        if received:
            _note_answer()
        return received

    def send(self, data: Any, flags: int = 0) -> int:
        _limit(self)
        return super().send(data, flags)


def _look_up(host: str, port: int) -> list[Any]:
    """getaddrinfo, waited for only as long as the call lasts; it cannot be interrupted itself."""
    found: list[list[Any] | OSError] = []

    def ask() -> None:
        try:
            found.append(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except UnicodeError:
            found.append(socket.gaierror(socket.EAI_NONAME, "not a host name"))
        except OSError as error:
            found.append(error)

    asker = threading.Thread(target=ask, name="im-attr-audit-dns", daemon=True)
    asker.start()
    asker.join(_seconds_left())
    if not found:
        raise TimeoutError("the host's name was not looked up in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _connect(host: str, port: int, options: Any) -> socket.socket:
    """A connection to the first address that takes one; each gets its share of the time left."""
    addresses = _look_up(host, port)
    last: OSError = OSError("the host has no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = _PlainSocket(family, kind, protocol)
        try:
            left = _seconds_left()
            sock.settimeout(left and left / (len(addresses) - tried))
            for option in options or ():
                sock.setsockopt(*option)
            sock.connect(address)
        except OSError as error:
            last = error
            sock.close()
        else:
            return sock
    raise last


class _OurResponse(http.client.HTTPResponse):
    """Refuses a head that cannot be read, before urllib3 logs what it could not read of it.

    A connection outlives an ordinary answer alone: after another the body that its status rules
    out, or a longer one than was announced, would be read as the next app's answer.
    """

    def begin(self) -> None:
        super().begin()
        if self.headers.defects or self.headers.get_payload():
            raise http.client.HTTPException("broken headers")
        if self.status != 200:
            self.will_close = True


class _OurHttp(HTTPConnection):
    response_class = _OurResponse
    # Not http.client's own switch, which would print the signed request line.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        if _this_thread.call is not None:
            _this_thread.call.connected = True
        return _connect(self._dns_host, self.port, self.socket_options)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        call = _this_thread.call
        super().putrequest(method, url + call.query if call else url, *args, **kwargs)


class _OurHttps(_OurHttp, HTTPSConnection):
    pass


class _OurHttpPool(HTTPConnectionPool):
    ConnectionCls = _OurHttp

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        wanted = _this_thread.call is not None and _this_thread.call.new_connection
        # Deciphered already, so that urllib3's look at the socket does not see it.
        left_over = isinstance(connection.sock, ssl.SSLSocket) and connection.sock.pending()
        if wanted or left_over:
            connection.close()  # it connects anew by itself
        return connection


class _OurHttpsPool(_OurHttpPool, HTTPSConnectionPool):
    ConnectionCls = _OurHttps


class Pool:
    """Kept-alive connections, shared by the clients of many apps and threads.

    ``max_connections`` is how many are kept per host; more threads than that work as well, their
    connections are closed after use. Close it, or use it as a context manager.
    """

    def __init__(self, max_connections: int = 8) -> None:
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._routes: dict[tuple[str, str | None], HTTPConnectionPool] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    def __repr__(self) -> str:
        return f"<Pool of up to {self._max_connections} connections per host>"

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every idle connection."""
        with self._lock:
            routes, self._routes = self._routes, {}
        for route in routes.values():
            route.close()

    def route(self, target: Target) -> HTTPConnectionPool:
        """The connections that lead to a target's host, by its own certificate authority."""
        key = (target.base_url, target.ca_bundle)
        with self._lock:
            found = self._routes.get(key)
            if found is None:
                found = self._routes[key] = self._new_route(target)
            return found

    def _new_route(self, target: Target) -> HTTPConnectionPool:
        common: dict[str, Any] = {"num_pools": 1, "maxsize": self._max_connections}
        proxy = None
        if target.base_url.startswith("https://"):
            common["ssl_context"] = self._context(target)
            environment = requests.utils.get_environ_proxies(target.base_url)
            proxy = requests.utils.select_proxy(target.base_url, environment)
        manager = _proxy_manager(proxy, common) if proxy else urllib3.PoolManager(**common)
        manager.pool_classes_by_scheme = {"http": _OurHttpPool, "https": _OurHttpsPool}
        return manager.connection_from_url(target.base_url)

    def _context(self, target: Target) -> ssl.SSLContext:
        """TLS 1.2 or newer, verified: by the target's authorities alone where it names some."""
        environment = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        path = target.ca_bundle or environment or requests.utils.DEFAULT_CA_BUNDLE_PATH
        if path not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.sslsocket_class = _TlsSocket
            where = "capath" if os.path.isdir(path) else "cafile"  # noqa: PTH112
            context.load_verify_locations(**{where: path})
            self._contexts[path] = context
        return self._contexts[path]


def _proxy_manager(proxy: str, common: dict[str, Any]) -> urllib3.PoolManager:
    url = proxy if "://" in proxy else f"http://{proxy}"
    user, password = requests.utils.get_auth_from_url(url)
    headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
    return urllib3.ProxyManager(
        url, proxy_headers=headers, proxy_ssl_context=common.get("ssl_context"), **common
    )


class _Signatures:
    """One signature per app and life, not one per call; renewed with a tenth of its life left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signed: dict[tuple[int, str, str, int], tuple[str, int]] = {}

    def get(self, target: Target, now: int) -> tuple[str, bool]:
        """The signature, and whether it was made for an earlier call."""
        key = _signed_for(target)
        with self._lock:
            sig, signed_at = self._signed.get(key, ("", 0))
            # A clock that was put back would leave a signature from the future.
            if sig and 0 <= now - signed_at < target.usersig_ttl * 0.9:
                return sig, True
            sig = user_sig(
                target.sdk_app_id,
                target.secret_key,
                target.identifier,
                now=now,
                ttl=target.usersig_ttl,
            )
            self._signed[key] = (sig, now)
            return sig, False

    def forget(self, target: Target) -> None:
        with self._lock:
            self._signed.pop(_signed_for(target), None)


def _signed_for(target: Target) -> tuple[int, str, str, int]:
    return (target.sdk_app_id, target.secret_key, target.identifier, target.usersig_ttl)


_signatures = _Signatures()


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    date: datetime | None
    encoding: str
    body: bytes
    too_long: bool


@dataclass(slots=True)
class _Limits:
    """Of one read, whatever is sent in it: its end, and whether its reconnect is spent."""

    deadline: float
    reconnected: bool = False


class TencentImClient:
    """One app at the vendor. Many clients may share one Pool, and many threads one client.

    ``on_signature`` is told of each signature before its first use (the hook masks it in logs).
    """

    def __init__(
        self,
        target: Target,
        pool: Pool | None = None,
        *,
        now: Callable[[], float] = time.time,
        on_signature: Callable[[str], object] | None = None,
    ) -> None:
        why_not = None
        try:
            self._base_url = check_base_url(target.base_url)
        except ValueError as error:
            why_not = str(error)
        if why_not is not None:
            raise Misconfigured(f"connection {target.conn_id!r} cannot be used: host {why_not}")
        self.target = target
        self._pool = pool if pool is not None else Pool(max_connections=1)
        self._now = now
        self._on_signature = on_signature
        self._told = ""

    def __repr__(self) -> str:
        target = self.target
        return f"<TencentImClient of app {target.sdk_app_id} in {target.region}>"

    def get_attr_names(self) -> Answer:
        """The app's attribute names as they are now; the errors are :mod:`errors`'."""
        outcome = self._read()
        if isinstance(outcome, Answer):
            return outcome
        # Where it was made the frames hold key and signature, and some renderers show locals.
        raise outcome.with_traceback(None)

    def _read(self) -> Answer | PollFailed | Misconfigured:
        limits = _Limits(time.monotonic() + self.target.timeout)
        sig, kept = self._sign()
        outcome = self._ask(sig, (sig,), limits)
        if isinstance(outcome, PollFailed) and _spoils(outcome):
            _signatures.forget(self.target)
            if kept or _always_re_signed(outcome):
                again, _ = self._sign()
                outcome = self._ask(again, (sig, again), limits)
                if isinstance(outcome, PollFailed) and _spoils(outcome):
                    _signatures.forget(self.target)
        return outcome

    def _sign(self) -> tuple[str, bool]:
        sig, kept = _signatures.get(self.target, int(self._now()))
        if self._on_signature is not None and sig != self._told:
            self._on_signature(sig)
            self._told = sig
        return sig, kept

    def _ask(
        self, sig: str, sigs: tuple[str, ...], limits: _Limits
    ) -> Answer | PollFailed | Misconfigured:
        """One request and its answer; errors are given back, to be raised outside any handler."""
        reply = self._exchange(sig, limits)
        if not isinstance(reply, _Reply):
            return reply
        try:
            return self._understood(reply, (self.target.secret_key, *sigs))
        except Exception as error:
            # Whatever an answer can provoke ends here: it must not stop the apps beside it.
            reason = f"the answer could not be understood ({type(error).__name__})"
        failure = Invalid(reason, error_info=reason)
        failure.http_status = reply.status
        failure.vendor_date = reply.date
        return failure

    def _understood(self, reply: _Reply, hidden: tuple[str, ...]) -> Answer | PollFailed:
        def clean(text: str) -> str:
            return safe_text(text, secrets=hidden)

        raw = reply.body.decode("utf-8", "backslashreplace")
        text = clean(raw)
        failure: PollFailed | None = None
        try:
            body = _decoded(reply)
            if body is not reply.body:
                raw = body.decode("utf-8", "backslashreplace")
                text = clean(raw)
            names = parse(body, http_status=reply.status, clean=clean)
            if any(redact(name.name, secrets=hidden) != name.name for name in names.values()):
                reason = "an attribute name holds this app's secret key or a UserSig"
                raise Invalid(reason, error_info=reason)
        except PollFailed as error:
            failure = error
        if failure is None:
            return Answer(names, text, reply.status, reply.date)
        failure.http_status = reply.status
        failure.answer = text
        failure.vendor_date = reply.date
        return failure

    def _exchange(self, sig: str, limits: _Limits) -> _Reply | Unavailable | Misconfigured:
        try:
            route = self._pool.route(self.target)
        except (OSError, ValueError, urllib3.exceptions.HTTPError):
            return Misconfigured(
                f"connection {self.target.conn_id!r} cannot be used: its ca_bundle (or "
                "REQUESTS_CA_BUNDLE) cannot be read, or HTTPS_PROXY is no http(s):// address"
            )
        query = "?" + urlencode(
            {
                "usersig": sig,
                "identifier": self.target.identifier,
                "sdkappid": self.target.sdk_app_id,
                "random": randomness.randbits(32),
                "contenttype": "json",
            }
        )
        result = self._exchange_once(route, _Call(limits.deadline, query))
        if result is None and not limits.reconnected:
            limits.reconnected = True
            call = _Call(limits.deadline, query, new_connection=True)
            result = self._exchange_once(route, call)
        return result if result is not None else self._unavailable("the connection was dropped")

    def _exchange_once(self, route: HTTPConnectionPool, call: _Call) -> _Reply | Unavailable | None:
        """The reply, or the error; None where a kept-alive connection turned out to be dead."""
        _this_thread.call = call
        try:
            return _round_trip(route, self.target.path, call)
        except Exception as error:
            # Not only the library's own errors: whatever a server can provoke in it ends here.
            causes = list(_causes(error))
            dropped = any(isinstance(cause, (ConnectionError, ssl.SSLError)) for cause in causes)
            if dropped and not call.connected and not call.answered:
                return None
            if time.monotonic() >= call.deadline:
                return self._unavailable(
                    f"no complete answer within {self.target.timeout:g} s, the target's timeout"
                )
            return self._unavailable(_in_words(causes))
        finally:
            _this_thread.call = None

    def _unavailable(self, what: str) -> Unavailable:
        reason = f"{self._base_url}: {what}"
        return Unavailable(reason, error_info=reason)


def _round_trip(route: HTTPConnectionPool, path: str, call: _Call) -> _Reply:
    response = route.urlopen(
        "POST",
        path,
        body=b"{}",
        headers=_HEADERS,
        retries=False,
        redirect=False,
        assert_same_host=False,
        timeout=max(0.001, call.deadline - time.monotonic()),
        preload_content=False,
        decode_content=False,
    )
    try:
        pieces, length = [], 0
        # One byte more than is allowed is enough to know: never wait for the rest of a piece.
        while length <= MAX_BODY and (
            piece := response.read(min(_PIECE, MAX_BODY + 1 - length), decode_content=False)
        ):
            pieces.append(piece)
            length += len(piece)
        framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        if response.status == 200 and not length and not framed:
            raise http.client.IncompleteRead(b"")  # hung up within the head: no empty answer
        return _Reply(
            status=response.status,
            date=_date(response.headers.get("Date")),
            encoding=response.headers.get("Content-Encoding", "").strip().lower(),
            body=b"".join(pieces)[:MAX_BODY],
            too_long=length > MAX_BODY,
        )
    except BaseException:
        response.close()
        raise
    finally:
        if length > MAX_BODY:
            response.close()  # the rest will never be read
        response.release_conn()


def _decoded(reply: _Reply) -> bytes:
    """The body without its content encoding; never more than is allowed, whatever it unpacks to."""
    too_long = reply.too_long
    body = reply.body
    reason = None
    if reply.encoding in ("gzip", "x-gzip", "deflate"):
        # Nobody asked for it, but a proxy on the way may do it all the same.
        unpacker = zlib.decompressobj(wbits=47)
        try:
            body = unpacker.decompress(body, MAX_BODY + 1)
            if not unpacker.eof and len(body) <= MAX_BODY:
                reason = f"the answer's {reply.encoding} encoding is cut off"
        except zlib.error:
            reason = f"the answer's {reply.encoding} encoding is broken"
        too_long = too_long or len(body) > MAX_BODY
    elif reply.encoding not in ("", "identity"):
        reason = "the answer has a content encoding that was not asked for"
    if too_long:
        reason = f"the answer is longer than {MAX_BODY} bytes"
    if reply.status != 200:
        return body[:MAX_BODY]  # its status says what it is
    if reason is not None:
        raise Invalid(reason, error_info=reason)
    return body


def _date(header: str | None) -> datetime | None:
    """The Date header, aware and in UTC; None where none can be read from it."""
    if not header:
        return None
    try:
        date = parsedate_to_datetime(header)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except Exception:  # the parser's own errors are of many kinds
        return None


def _spoils(failure: PollFailed) -> bool:
    """Whether the vendor's code means that the signature is of no further use."""
    if failure.error_code is None or (failure.http_status or 0) >= 500:
        return False
    row = lookup(failure.error_code)
    return row.action is Action.RE_SIGN or row.re_sign_if_cached


def _always_re_signed(failure: PollFailed) -> bool:
    return failure.error_code is not None and lookup(failure.error_code).action is Action.RE_SIGN


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and every error inside it, however urllib3 has wrapped it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [*cause.args, cause.__cause__, cause.__context__]


def _in_words(causes: list[BaseException]) -> str:
    """What went wrong, in words of our own: the libraries' texts may quote what was sent."""
    for kind, words in (
        (ssl.SSLCertVerificationError, "its certificate is not trusted"),
        (ssl.SSLEOFError, "it hung up before it could be asked"),
        (ssl.SSLError, "TLS 1.2 or newer could not be agreed"),
        (socket.gaierror, "its name cannot be resolved"),
        (urllib3.exceptions.ProxyError, "the proxy named by HTTPS_PROXY did not connect to it"),
        (ConnectionRefusedError, "it refused the connection"),
        (http.client.RemoteDisconnected, "it closed the connection without an answer"),
        (ConnectionError, "the connection broke"),
        (TimeoutError, "it did not answer in time"),
        (urllib3.exceptions.IncompleteRead, "the answer broke off"),
        (http.client.IncompleteRead, "the answer broke off"),
        (http.client.HTTPException, "what it sent is not HTTP"),
        (urllib3.exceptions.HTTPError, "what it sent is not proper HTTP"),
    ):
        for cause in causes:
            if isinstance(cause, kind):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    return f"{words} ({cause.verify_message}); for a private CA set ca_bundle"
                if isinstance(cause, ssl.SSLError) and cause.reason:
                    return f"{words} ({cause.reason})"  # a constant of OpenSSL's
                return words
    last = causes[-1]
    if isinstance(last, OSError) and last.errno is not None:
        return f"it cannot be reached ({os.strerror(last.errno)})"
    return f"the request failed ({type(last).__name__})"
