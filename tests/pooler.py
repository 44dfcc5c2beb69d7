"""A transaction pooler between a client and Postgres, as PgBouncer is with pool_mode=transaction.

For tests on machines that have nothing but Python. A server connection belongs to a client from the
first message of a transaction to its end and then to whichever client comes next; what a session
leaves behind on it (a role, a timeout, an advisory lock) meets that client. As in PgBouncer:

- the least recently used server connection is handed out next (``server_round_robin=1``), so that a
  client meets what another left as soon as possible;
- `TRACKED` parameters follow the client, every other `SET` stays with the server connection;
- any other startup parameter, ``options`` above all, is refused or ignored;
- nothing is reset between transactions; a client that goes away within one takes its server
  connection with it.

The pooler logs in to Postgres with the passwords that the test server keeps; its clients are
trusted and give none. TLS, prepared statements and cancelling are not supported.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import secrets
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Literal, Self

import psycopg2

from launch.postgres import SUPERUSER, EmbeddedPostgres

#: What PgBouncer sets again for each client.
TRACKED = (
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
)
_REPORTED = (*TRACKED, "server_version", "server_encoding", "integer_datetimes", "IntervalStyle")
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
#: A server connection is waited for this long (PgBouncer's query_wait_timeout).
WAIT_SECONDS = 60.0


class _Refused(Exception):
    """The client gets this text as a fatal error."""


class _Server:
    """One connection to Postgres: psycopg2 logs in, then its socket is used."""

    def __init__(self, dsn: str) -> None:
        self._login = psycopg2.connect(dsn)
        with self._login.cursor() as cursor:
            cursor.execute("reset all")
        self._login.commit()
        self.socket = socket.socket(fileno=os.dup(self._login.fileno()))
        self.socket.setblocking(True)
        said = {name: self._login.info.parameter_status(name) for name in _REPORTED}
        self.parameters: dict[str, str] = {n: v for n, v in said.items() if v is not None}

    def close(self) -> None:
        self.socket.close()
        self._login.close()


@dataclass(eq=False)
class _Client:
    """One client: its socket, its own tracked parameters, the server connection it has now."""

    socket: socket.socket
    key: bytes
    parameters: dict[str, str] = field(default_factory=dict)
    server: _Server | None = None


class _Pool:
    """The server connections of one user and database, opened as they are needed."""

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._room = size
        self._idle: collections.deque[_Server] = collections.deque()
        self._changed = threading.Condition()

    def put(self, server: _Server) -> None:
        with self._changed:
            self._idle.append(server)
            self._changed.notify()

    def drop(self, server: _Server) -> None:
        server.close()
        with self._changed:
            self._room += 1
            self._changed.notify()

    def take(self) -> _Server:
        """A new connection while there is room, else the one that was idle longest."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._room or self._idle, WAIT_SECONDS):
                raise _Refused("query_wait_timeout")
            if not self._room:
                return self._idle.popleft()
            self._room -= 1
        try:
            return _Server(self._dsn)
        except psycopg2.OperationalError as error:
            with self._changed:
                self._room += 1
            raise _Refused(str(error).strip()) from None

    def close(self) -> None:
        with self._changed:
            for server in self._idle:
                server.close()


class TransactionPooler:
    """A pooler in front of a test's Postgres; a context manager.

    ``pool_size`` is the number of server connections for each user and database. ``options`` says
    what becomes of the startup parameter ``options``: refused (PgBouncer's default) or ignored
    (``ignore_startup_parameters = options``).
    """

    def __init__(
        self,
        server: EmbeddedPostgres,
        *,
        pool_size: int = 2,
        options: Literal["refuse", "ignore"] = "refuse",
    ) -> None:
        self._postgres = server
        self._pool_size = pool_size
        self._ignored = {"extra_float_digits"} | ({"options"} if options == "ignore" else set())
        self._pools: dict[tuple[str, str], _Pool] = {}
        self._clients: dict[bytes, _Client] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pids = itertools.count(1)

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for client in self._clients.values():
                with contextlib.suppress(OSError):
                    client.socket.shutdown(socket.SHUT_RDWR)
            for pool in self._pools.values():
                pool.close()

    def url(self, dbname: str, role: str = SUPERUSER, *, driver: str = "postgresql") -> str:
        """The URL of one of the server's databases, through the pooler."""
        return f"{driver}://{role}@127.0.0.1:{self.port}/{dbname}"

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            asked = self._startup(connection)
            known = {"user", "database", *map(str.lower, TRACKED)} | self._ignored
            unknown = asked.keys() - known
            if unknown:
                _refuse(connection, f"unsupported startup parameter: {sorted(unknown)[0]}")
                return
            client = _Client(
                connection, struct.pack("!I", next(self._pids)) + secrets.token_bytes(4)
            )
            client.parameters = asked
            user, database = asked["user"], asked.get("database", asked["user"])
            dsn = self._postgres.url(database, user, driver="postgresql")
            with self._lock:
                pool = self._pools.setdefault((user, database), _Pool(dsn, self._pool_size))
                self._clients[client.key] = client
            try:
                self._welcome(client, pool)
                self._relay(client, pool)
            except _Refused as refused:
                _refuse(connection, str(refused))
            finally:
                with self._lock:
                    del self._clients[client.key]

    def _startup(self, connection: socket.socket) -> dict[str, str]:
        """The startup parameters, names in lower case."""
        while True:
            length, code = struct.unpack("!II", _exactly(connection, 8))
            body = _exactly(connection, length - 8)
            if code in (_SSL_REQUEST, _GSS_REQUEST):
                connection.sendall(b"N")
                continue
            words = [word.decode() for word in body[:-2].split(b"\0")]
            return {
                name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)
            }

    def _welcome(self, client: _Client, pool: _Pool) -> None:
        """Log the client in, once a server connection has shown that its login is possible."""
        server = pool.take()
        pool.put(server)
        given = {n: client.parameters[n.lower()] for n in TRACKED if n.lower() in client.parameters}
        client.parameters = {n: server.parameters[n] for n in TRACKED} | given
        reported = {**server.parameters, **client.parameters}
        client.socket.sendall(
            _message(b"R", struct.pack("!I", 0))
            + b"".join(_message(b"S", f"{n}\0{v}\0".encode()) for n, v in reported.items())
            + _message(b"K", client.key)
            + _message(b"Z", b"I")
        )

    def _relay(self, client: _Client, pool: _Pool) -> None:
        """Pass messages on until the client goes; a server connection only within transactions."""
        unanswered = 0
        try:
            while True:
                sockets = [client.socket, *([client.server.socket] if client.server else [])]
                for ready in select.select(sockets, [], [])[0]:
                    kind, body = _read(ready)
                    if ready is client.socket:
                        if kind == b"X":
                            return
                        if client.server is None:
                            client.server = pool.take()
                            _follow(client, client.server)
                        unanswered += kind in (b"Q", b"S", b"F")
                        client.server.socket.sendall(_message(kind, body))
                        continue
                    assert client.server is not None
                    if kind == b"S":
                        name, value = body.decode().split("\0")[:2]
                        client.server.parameters[name] = value
                        if name in TRACKED:
                            client.parameters[name] = value
                    unanswered -= kind == b"Z"
                    done = kind == b"Z" and body == b"I" and not unanswered
                    if done:
                        # Before the client hears of it: it may ask again at once.
                        server, client.server = client.server, None
                        pool.put(server)
                    client.socket.sendall(_message(kind, body))
        finally:
            if client.server is not None:
                server, client.server = client.server, None
                pool.drop(server)


def _follow(client: _Client, server: _Server) -> None:
    """Set the client's tracked parameters on the server connection, where they differ."""
    differing = {n: v for n, v in client.parameters.items() if server.parameters.get(n) != v}
    if not differing:
        return
    statements = "".join(
        f"set {n} to '" + v.replace("'", "''") + "';" for n, v in differing.items()
    )
    server.socket.sendall(_message(b"Q", statements.encode() + b"\0"))
    while True:
        kind, body = _read(server.socket)
        if kind == b"S":
            name, value = body.decode().split("\0")[:2]
            server.parameters[name] = value
        elif kind == b"E":
            raise ConnectionError(body.decode(errors="replace"))
        elif kind == b"Z":
            return


def _refuse(client: socket.socket, reason: str) -> None:
    fields = b"SFATAL\0VFATAL\0C08P01\0M" + reason.encode() + b"\0\0"
    client.sendall(_message(b"E", fields))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _read(connection: socket.socket) -> tuple[bytes, bytes]:
    header = _exactly(connection, 5)
    (length,) = struct.unpack("!I", header[1:])
    return header[:1], _exactly(connection, length - 4)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("closed")
        parts += part
    return bytes(parts)
