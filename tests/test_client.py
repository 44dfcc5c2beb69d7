"""The client against real sockets that behave well, badly, and very badly."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import io
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
import traceback
import urllib.parse
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from im_attr_audit.errors import Invalid, Misconfigured, PollFailed, Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.tencent import transport
from im_attr_audit.tencent.client import Pool, TencentImClient
from im_attr_audit.tencent.fields import API_PATHS
from im_attr_audit.tencent.http11 import Call
from im_attr_audit.tencent.redact import REDACTED, redact
from im_attr_audit.tencent.target import Target

KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"
NAMES = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "AttrNames": {"0": "sex"}}
GOOD = json.dumps(NAMES).encode()


#: Seconds that a server waits where the client must not: it has to end before the server does.
LONG = 30.0


class Beneath(bytes):
    """Sent as it is, beneath TLS."""


# An answer is a list of pieces: bytes to send, numbers of seconds to wait (until the client hangs
# up), None to hang up. It is made from the request's query.
Piece = bytes | float | None
Script = Callable[[dict[str, str]], "Iterator[Piece] | list[Piece]"]


def reply(body: bytes = GOOD, status: str = "200 OK", **headers: str) -> list[Piece]:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join([*lines, "", ""]).encode("latin-1") + body]


def code(number: int, info: str = "") -> list[Piece]:
    return reply(
        json.dumps({"ActionStatus": "FAIL", "ErrorCode": number, "ErrorInfo": info}).encode()
    )


def named(names: dict[str, str]) -> list[Piece]:
    return reply(json.dumps(NAMES | {"AttrNames": names}).encode())


class Server:
    """Answers each request by the next script, the last one again and again."""

    def __init__(self, scripts: list[Script], context: ssl.SSLContext | None = None) -> None:
        self._scripts = chain(scripts, repeat(scripts[-1]))
        self._context = context
        self._lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        #: Scripts that came to their end; not those of a client that hung up before.
        self.finished = 0
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._closing.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw:
            sock = self._context.wrap_socket(raw, server_side=True) if self._context else raw
            with sock, sock.makefile("rb") as stream:
                while self._one(sock, stream):
                    pass

    def _one(self, sock: socket.socket, stream: Any) -> bool:
        line = stream.readline().decode()
        if not line:
            return False
        headers = http.client.parse_headers(stream)
        body = stream.read(int(headers.get("Content-Length", 0)))
        method, path, _ = line.split(" ", 2)
        parts = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True))
        with self._lock:
            self.requests.append(
                {"method": method, "path": parts.path, "body": body, "headers": headers, **query}
            )
            script = next(self._scripts)
        for piece in script(query):
            if piece is None:
                return False
            if isinstance(piece, Beneath):
                socket.socket.sendall(sock, piece)
            elif isinstance(piece, bytes):
                sock.sendall(piece)
            elif self._closing.wait(piece):
                return False
        with self._lock:
            self.finished += 1
        return True


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*scripts: Script | list[Piece], context: ssl.SSLContext | None = None) -> Server:
        made = [s if callable(s) else (lambda _, s=s: s) for s in scripts]
        servers.append(Server(made, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


_apps = count(1400000000)


def target_of(server: Server | str, **changed: Any) -> Target:
    """A target with an app of its own, so that no test sees another's cached signature."""
    fields: dict[str, Any] = {
        "conn_id": "chat",
        "region": "singapore",
        "sdk_app_id": next(_apps),
        "identifier": "administrator",
        "secret_key": KEY,
        "base_url": server if isinstance(server, str) else server.url,
        "timeout": 5.0,
    }
    return Target(**(fields | changed))


def failure_of(target: Target, pool: Pool | None = None) -> PollFailed:
    with pytest.raises(PollFailed) as caught:
        TencentImClient(target, pool).get_attr_names()
    for link in every_exception(caught.value):
        text = f"{link!r} {link} {link.args} {vars(link)}"
        assert KEY not in text
        assert "eJ" not in text.replace(REDACTED, "")
        assert "usersig=e" not in text
    return caught.value


def every_exception(error: BaseException) -> Iterator[BaseException]:
    yield error
    for link in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        if link is not None:
            yield from every_exception(link)


# --- what is sent ---


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("all_member_push", "/v4/all_member_push/im_get_attr_name"),
        ("timpush", "/v4/timpush/get_attr_name"),
    ],
)
def test_the_request_is_what_the_vendor_documents(
    serve: Callable[..., Server], api: str, path: str
) -> None:
    server = serve(reply())
    target = target_of(server, api=api, identifier="ad min&=員")
    answer = TencentImClient(target).get_attr_names()
    assert answer.names == {0: AttrName("sex")}
    assert (answer.text, answer.http_status) == (GOOD.decode(), 200)
    (request,) = server.requests
    assert (request["method"], request["path"], request["body"]) == ("POST", path, b"{}")
    assert request["identifier"] == "ad min&=員"
    assert request["sdkappid"] == str(target.sdk_app_id)
    assert request["contenttype"] == "json"
    assert 0 <= int(request["random"]) < 2**32
    assert request["headers"]["Host"] == f"127.0.0.1:{server.port}"
    packed = request["usersig"].translate(str.maketrans("*-_", "+/="))
    document = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert document["TLS.identifier"] == "ad min&=員"
    assert document["TLS.expire"] == 86400


def test_random_differs_and_the_signature_does_not(serve: Callable[..., Server]) -> None:
    server = serve(reply())
    target = target_of(server)
    for _ in range(5):
        TencentImClient(target).get_attr_names()
    assert len({request["random"] for request in server.requests}) == 5
    assert len({request["usersig"] for request in server.requests}) == 1


def test_a_signature_is_renewed_well_before_it_expires(serve: Callable[..., Server]) -> None:
    server = serve(reply())
    target = target_of(server, usersig_ttl=1000)
    for now in (5000.0, 5899.0, 5900.0, 6000.0, 5899.0):
        TencentImClient(target, now=partial(float, now)).get_attr_names()
    sigs = [request["usersig"] for request in server.requests]
    assert sigs[0] == sigs[1]
    assert sigs[1] != sigs[2]
    assert sigs[2] == sigs[3]
    assert sigs[4] != sigs[3], "a clock put back must not use a signature from the future"


def test_a_pool_keeps_connections_alive_and_many_threads_share_it(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply())
    targets = [target_of(server) for _ in range(20)]
    with Pool(max_connections=4) as pool, ThreadPoolExecutor(4) as executor:
        asked = executor.map(
            lambda target: TencentImClient(target, pool).get_attr_names().names, targets * 5
        )
        assert list(asked) == [{0: AttrName("sex")}] * 100
    assert len(server.requests) == 100
    assert server.connections <= 4


def test_apps_of_both_apis_share_connections_and_each_asks_its_own(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply())
    apis = list(API_PATHS) * 5
    with Pool() as pool:
        for api in apis:
            TencentImClient(target_of(server, api=api), pool).get_attr_names()
    assert [request["path"] for request in server.requests] == [API_PATHS[api] for api in apis]
    assert server.connections == 1


def test_the_hook_can_mask_each_signature_before_its_use(serve: Callable[..., Server]) -> None:
    signatures: list[str] = []
    server = serve(code(70001), reply())
    TencentImClient(target_of(server), on_signature=signatures.append).get_attr_names()
    assert {request["usersig"] for request in server.requests} == set(signatures)


# --- what comes back ---


@pytest.mark.parametrize(
    ("answer", "kind", "error_code"),
    [
        pytest.param(code(70009), Rejected, 70009, id="wrong_key"),
        pytest.param(code(70050), Rejected, 70050, id="lock_out"),
        pytest.param(code(60026), Rejected, 60026, id="wrong_region"),
        pytest.param(code(60028), Unavailable, 60028, id="day_used_up"),
        pytest.param(code(91000), Unavailable, 91000, id="busy"),
        pytest.param(reply(b"<h1>Bad</h1>", "502 Bad Gateway"), Unavailable, None, id="502"),
        pytest.param(reply(b"<h1>No</h1>", "404 Not Found"), Unavailable, None, id="404"),
        pytest.param(reply(b"", "503 Busy"), Unavailable, None, id="503"),
        pytest.param(reply(b"<h1>Hi</h1>"), Invalid, None, id="html_200"),
        pytest.param(reply(GOOD[:-4]), Invalid, None, id="half_a_body_of_full_length"),
        pytest.param(reply(b""), Invalid, None, id="empty"),
        pytest.param(reply(GOOD, Content_Encoding="br"), Invalid, None, id="unknown_encoding"),
        pytest.param(reply(GOOD, Content_Encoding="gzip"), Invalid, None, id="no_gzip_at_all"),
        pytest.param(
            reply(gzip.compress(GOOD)[:-9], Content_Encoding="gzip"), Invalid, None, id="half_gzip"
        ),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le", None], Unavailable, None, id="half_header"),
        pytest.param([reply()[0][:-4], None], Unavailable, None, id="half_a_body"),  # type: ignore[index]
        pytest.param([None], Unavailable, None, id="hangs_up"),
        pytest.param([b"SSH-2.0-OpenSSH_9\r\n", None], Unavailable, None, id="not_http"),
        pytest.param([b"\x00\xff" * 99 + b"\r\n", None], Unavailable, None, id="binary"),
        pytest.param([b"HTTP/1.1 999999 x\r\n\r\n", None], Unavailable, None, id="wild_status"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", None], Invalid, None, id="minus_5"
        ),
        *(
            pytest.param(
                [f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + GOOD, None],
                Invalid, None, id=f"head_{name}",
            )
            for name, head in {
                "minus_length": f"Content-Length: -{len(GOOD)}",
                "plus_length": f"Content-Length: +{len(GOOD)}",
                "word_length": "Content-Length: all",
                "two_lengths": f"Content-Length: {len(GOOD)}\r\nContent-Length: 3",
                "listed_lengths": f"Content-Length: {len(GOOD)}, {len(GOOD)}",
                "length_and_chunked": "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "other_coding": "Transfer-Encoding: gzip, chunked",
            }.items()
        ),
        *(
            pytest.param(
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                 + size + b"\r\n" + GOOD + end, None],
                Unavailable, None, id=f"chunk_{name}",
            )
            for name, size, end in (
                ("minus", b"-%x" % len(GOOD), b"\r\n0\r\n\r\n"),
                ("plus", b"+%x" % len(GOOD), b"\r\n0\r\n\r\n"),
                ("prefixed", b"0x%x" % len(GOOD), b"\r\n0\r\n\r\n"),
                ("without_its_end", b"%x" % len(GOOD), b"xx0\r\n\r\n"),
            )
        ),
        pytest.param(
            [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", *reply()], Invalid, None, id="101"
        ),
        pytest.param(
            [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, *reply()],
            Unavailable, None, id="interim_without_end",
        ),
        pytest.param(
            [b"HTTP/1.1 103 Early Hints\r\n\r\n", *reply(b"", "502 Bad Gateway")],
            Unavailable, None, id="interim_before_502",
        ),
        *(
            pytest.param(reply(packed, Content_Encoding=encoding), Invalid, None, id=f"{name}_end")
            for name, encoding, packed in (
                ("gzip_and_text", "gzip", gzip.compress(GOOD) + b"x"),
                ("gzip_and_zeros", "gzip", gzip.compress(GOOD) + b"\0" * 8),
                ("gzip_and_zlib", "gzip", gzip.compress(GOOD) + zlib.compress(b" ")),
                ("gzip_and_half", "gzip", gzip.compress(GOOD) + gzip.compress(b" ")[:-3]),
                ("deflate_and_text", "deflate", zlib.compress(GOOD) + b"x"),
                ("deflate_twice", "deflate", zlib.compress(GOOD) + zlib.compress(b" ")),
            )
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", None],
            Unavailable, None, id="broken_header",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", None],
            Unavailable, None, id="bad_chunk",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
            Invalid, None, id="empty_in_chunks",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None],
            Unavailable, None, id="no_chunk_at_all",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", None],
            Unavailable, None, id="half_a_chunk",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", None],
            Unavailable, None, id="many_headers",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", None],
            Unavailable, None, id="long_header",
        ),
    ],
)  # fmt: skip
def test_every_bad_answer_has_its_class(
    serve: Callable[..., Server],
    answer: list[Piece],
    kind: type[PollFailed],
    error_code: int | None,
) -> None:
    server = serve(answer)
    failure = failure_of(target_of(server))
    assert type(failure) is kind, failure
    assert failure.error_code == error_code
    assert failure.error_info
    assert len(server.requests) == 1, "a read is sent once"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(serve: Callable[..., Server], status: int) -> None:
    elsewhere = serve(reply())
    server = serve(reply(b"", f"{status} Moved", Location=f"{elsewhere.url}/v4"))
    failure = failure_of(target_of(server))
    assert type(failure) is Invalid
    assert failure.http_status == status
    assert elsewhere.requests == []


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", " GZIP "])
def test_an_encoding_nobody_asked_for_is_still_understood(
    serve: Callable[..., Server], encoding: str
) -> None:
    packed = {"deflate": zlib.compress(GOOD), "identity": GOOD}.get(encoding, gzip.compress(GOOD))
    server = serve(reply(packed, Content_Encoding=encoding))
    answer = TencentImClient(target_of(server)).get_attr_names()
    assert (answer.names, answer.text) == ({0: AttrName("sex")}, GOOD.decode())
    assert server.requests[0]["headers"]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_interim_answers_are_skipped(serve: Callable[..., Server], status: str) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </x>\r\n\r\n".encode()
    server = serve([interim * 3, 0.05, *reply()])
    with Pool() as pool:
        for _ in range(2):
            answer = TencentImClient(target_of(server), pool).get_attr_names()
            assert (answer.names, answer.http_status) == ({0: AttrName("sex")}, 200)
    assert server.connections == 1


@pytest.mark.parametrize("cut", [1, len(GOOD) // 2, len(GOOD)])
def test_the_members_of_a_gzip_file_are_joined(serve: Callable[..., Server], cut: int) -> None:
    packed = gzip.compress(GOOD[:cut]) + gzip.compress(b"") * 3 + gzip.compress(GOOD[cut:])
    server = serve(reply(packed, Content_Encoding="gzip"))
    answer = TencentImClient(target_of(server)).get_attr_names()
    assert (answer.names, answer.text) == ({0: AttrName("sex")}, GOOD.decode())


def test_many_members_of_a_gzip_file_are_read(serve: Callable[..., Server]) -> None:
    packed = gzip.compress(GOOD) + gzip.compress(b"") * 50_000
    client = TencentImClient(target_of(serve(reply(packed, Content_Encoding="gzip"))))
    assert client.get_attr_names().names


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(GOOD[:-1] + b" " * 2**20 + b"}"), id="plain"),
        pytest.param(
            reply(gzip.compress(GOOD + b" " * 50_000_000), Content_Encoding="gzip"), id="gzip_bomb"
        ),
        pytest.param(
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 20,
                LONG,
            ],
            id="chunked_without_end",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b" " * (2**20 + 1), LONG],
            id="announced",
        ),
    ],
)
def test_more_than_a_mebibyte_is_cut_off_as_invalid(
    serve: Callable[..., Server], answer: list[Piece]
) -> None:
    with Pool() as pool:
        server = serve(answer, reply())
        target = target_of(server, timeout=60.0)
        failure = failure_of(target, pool)
        assert type(failure) is Invalid, "it did not wait for the rest"
        assert "longer than" in failure.reason
        assert failure.answer is not None
        assert len(failure.answer) <= 2000
        assert TencentImClient(target, pool).get_attr_names().names, "the rest is not mistaken"


def test_a_valid_answer_just_below_the_limit_is_read(serve: Callable[..., Server]) -> None:
    server = serve(reply(GOOD + b" " * (2**20 - len(GOOD))))
    answer = TencentImClient(target_of(server)).get_attr_names()
    assert answer.names == {0: AttrName("sex")}
    assert len(answer.text) == 2000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Sun, 22 Nov 2026 10:00:00 GMT", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("Sun, 22 Nov 2026 18:00:00 +0800", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("Sun, 22 Nov 2026 10:00:00 -0000", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("yesterday", None),
        ("Sun, 99 Nov 2026 10:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("", None),
        ("\xff\xfe", None),
    ],
)
def test_the_vendors_date_is_kept_where_it_can_be_read(
    serve: Callable[..., Server], header: str, expected: datetime | None
) -> None:
    server = serve(reply(Date=header), reply(b"", "502 Bad", Date=header))
    target = target_of(server)
    answered = TencentImClient(target).get_attr_names().vendor_date
    assert answered == expected
    assert failure_of(target).vendor_date == expected
    assert answered is None or answered.utcoffset() == timedelta(0)


# --- signing again ---


@pytest.mark.parametrize(
    ("number", "first", "later"),
    [
        # requests of a first read, and of a read with a signature that had worked before
        (70001, 2, 2),
        (70052, 2, 2),
        (60004, 2, 2),
        (60005, 2, 2),
        (70003, 1, 2),
        (70005, 1, 2),
        (70009, 1, 1),
        (70050, 1, 1),
        (91000, 1, 1),
    ],
)
def test_who_is_asked_again_with_a_new_signature(
    serve: Callable[..., Server], number: int, first: int, later: int
) -> None:
    server = serve(code(number))
    failure_of(target_of(server))
    assert len(server.requests) == first
    server = serve(reply(), code(number))
    target = target_of(server)
    TencentImClient(target).get_attr_names()
    assert failure_of(target).error_code == number
    assert len(server.requests) == 1 + later


def test_a_new_signature_is_really_new_and_may_help(serve: Callable[..., Server]) -> None:
    server = serve(code(70001), reply())
    clock = iter([1000, 1001, 1002])
    client = TencentImClient(target_of(server), now=lambda: float(next(clock)))
    assert client.get_attr_names().names
    assert server.requests[0]["usersig"] != server.requests[1]["usersig"]


def test_a_wrong_key_is_not_tried_twice_in_the_next_read_either(
    serve: Callable[..., Server],
) -> None:
    server = serve(code(70005))
    target = target_of(server)
    failure_of(target)
    failure_of(target)
    assert len(server.requests) == 2


def test_a_gateways_error_with_a_code_in_it_is_not_signed_again(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply(b'{"ErrorCode":70001}', "502 Bad Gateway"))
    assert type(failure_of(target_of(server))) is Unavailable
    assert len(server.requests) == 1


# --- dropped connections ---


def test_a_kept_alive_connection_that_was_dropped_is_made_again_once(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply(), [None], reply())
    target = target_of(server)
    with Pool() as pool:
        client = TencentImClient(target, pool)
        assert client.get_attr_names().names
        assert client.get_attr_names().names
    assert (len(server.requests), server.connections) == (3, 2)


def test_a_kept_alive_connection_whose_tls_has_broken_is_made_again_once(
    serve: Callable[..., Server], authority: Authority
) -> None:
    server = serve(reply(), [Beneath(b"no record")], reply(), context=authority.server_context())
    target = target_of(server, ca_bundle=authority.bundle)
    with Pool() as pool:
        client = TencentImClient(target, pool)
        assert client.get_attr_names().names
        assert client.get_attr_names().names
    assert (len(server.requests), server.connections) == (3, 2)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified", "502 Bad"])
@pytest.mark.parametrize("excess", [b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 9_000, b"x" * 100_000])
def test_what_follows_an_answer_is_not_taken_for_the_next_apps(
    serve: Callable[..., Server], authority: Authority, status: str, excess: bytes
) -> None:
    whole = reply(status=status)[0]
    assert isinstance(whole, bytes)
    server = serve([whole + excess], reply(), context=authority.server_context())
    with Pool() as pool:
        first = TencentImClient(target_of(server, ca_bundle=authority.bundle), pool)
        with contextlib.suppress(Unavailable, Invalid):
            first.get_attr_names()
        second = TencentImClient(target_of(server, ca_bundle=authority.bundle), pool)
        assert second.get_attr_names().names == {0: AttrName("sex")}
    assert len(server.requests) == 2


def test_a_second_drop_is_unavailable(serve: Callable[..., Server]) -> None:
    server = serve(reply(), [None])
    target = target_of(server)
    with Pool() as pool:
        TencentImClient(target, pool).get_attr_names()
        assert type(failure_of(target, pool)) is Unavailable
    assert len(server.requests) == 3


def test_one_read_reconnects_once_however_often_it_is_signed(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply(), [None], [*code(70001)], [None], reply())
    target = target_of(server)
    with Pool() as pool:
        TencentImClient(target, pool).get_attr_names()
        assert type(failure_of(target, pool)) is Unavailable
    assert len(server.requests) == 4


def test_a_connection_dropped_within_the_answer_is_not_asked_again(
    serve: Callable[..., Server],
) -> None:
    server = serve(reply(), [b"HTTP/1.1 200 OK\r\n", None])
    target = target_of(server)
    with Pool() as pool:
        TencentImClient(target, pool).get_attr_names()
        assert type(failure_of(target, pool)) is Unavailable
    assert len(server.requests) == 2


def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = failure_of(target_of(f"http://127.0.0.1:{port}"))
    assert type(failure) is Unavailable
    assert "refused the connection" in failure.reason


def test_a_name_that_is_not_known_is_unavailable() -> None:
    failure = failure_of(target_of("https://no-such-host.invalid"))
    assert type(failure) is Unavailable


def test_a_look_up_that_hangs_ends_with_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, ended = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        hanging.wait(LONG)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    failure = failure_of(target_of("https://slow.example.com", timeout=0.3))
    assert "within 0.3 s" in failure.reason
    assert not ended.is_set(), "the look-up was waited for"
    hanging.set()


# --- one time-out for everything ---

DRIP: list[Piece] = [b" ", 0.1] * int(LONG * 10)
LONG_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([LONG], id="hang"),
        pytest.param([LONG_BODY, LONG], id="hang_in_the_body"),
        pytest.param([LONG_BODY, *DRIP], id="body"),
        pytest.param([b"HTTP/1.1 200 OK\r\nX: ", *DRIP], id="header"),
        pytest.param([b"HTTP", *DRIP], id="status_line"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", 0.1] * 100, id="continue_for_ever"),
        pytest.param(
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                *[b"1\r\n \r\n", 0.1] * 9999,
            ],
            id="chunks",
        ),
        pytest.param([b"HTTP/1.1 502 Bad\r\nContent-Length: 9999\r\n\r\n", *DRIP], id="error_body"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_drips_is_cut_off_at_the_time_out(
    serve: Callable[..., Server], authority: Authority, scheme: str, answer: list[Piece]
) -> None:
    server = serve(answer, context=authority.context if scheme == "https" else None)
    failure = failure_of(target_of(server, timeout=0.3, ca_bundle=authority.bundle))
    assert server.finished == 0, "it was waited for"
    assert type(failure) is Unavailable
    assert "no complete answer within 0.3 s" in failure.reason


def test_a_dripping_handshake_is_cut_off_too() -> None:
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.sendall(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB, begun
            for _ in range(int(LONG * 10)):
                sock.sendall(b"\x00")
                time.sleep(0.1)
            ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        failure = failure_of(target_of(url, timeout=0.5))
    assert not ended.is_set(), "it was waited for"
    assert "within 0.5 s" in failure.reason


def test_the_time_out_holds_for_the_second_request_as_well(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []

    class Noting(Call):
        def __init__(self, query: str, deadline: float) -> None:
            super().__init__(query, deadline)
            if query:
                deadlines.append(deadline)

    monkeypatch.setattr(transport, "Call", Noting)
    server = serve(code(70001), [LONG])
    assert "within 0.6 s" in failure_of(target_of(server, timeout=0.6)).reason
    assert (len(server.requests), server.finished) == (2, 1)
    assert len(deadlines) == 2
    assert deadlines[0] == deadlines[1]


# --- TLS, proxies, environment ---


class Authority:
    """A private certificate authority with one certificate for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        both = folder / "server.pem"
        both.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + pem
        )
        bundle = folder / "ca.pem"
        bundle.write_bytes(pem)
        self.bundle = str(bundle)
        self.both = str(both)
        self.context = self.server_context()

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.both)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_private_authority_is_trusted_where_it_is_named(
    serve: Callable[..., Server], authority: Authority
) -> None:
    server = serve(reply(), context=authority.context)
    with Pool() as pool:
        client = TencentImClient(target_of(server, ca_bundle=authority.bundle), pool)
        assert client.get_attr_names().names
        assert client.get_attr_names().names
    assert server.connections == 1


def test_an_unknown_authority_is_not_trusted_and_nothing_is_sent(
    serve: Callable[..., Server], authority: Authority
) -> None:
    server = serve(reply(), context=authority.context)
    failure = failure_of(target_of(server))
    assert type(failure) is Unavailable
    assert "not trusted" in failure.reason
    assert "ca_bundle" in failure.reason
    assert server.requests == []


def test_two_targets_of_one_pool_keep_their_own_authorities(
    serve: Callable[..., Server], authority: Authority
) -> None:
    server = serve(reply(), context=authority.context)
    with Pool() as pool:
        assert TencentImClient(target_of(server, ca_bundle=authority.bundle), pool).get_attr_names()
        assert "not trusted" in failure_of(target_of(server), pool).reason


def test_a_certificate_for_another_name_is_refused(
    serve: Callable[..., Server], authority: Authority
) -> None:
    server = serve(reply(), context=authority.context)
    url = f"https://localhost:{server.port}"
    assert "not trusted" in failure_of(target_of(url, ca_bundle=authority.bundle)).reason


def test_tls_1_1_is_refused(serve: Callable[..., Server], authority: Authority) -> None:
    context = authority.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    server = serve(reply(), context=context)
    failure = failure_of(target_of(server, ca_bundle=authority.bundle))
    assert type(failure) is Unavailable
    assert "TLS 1.2 or newer could not be agreed (TLSV1_ALERT_PROTOCOL_VERSION)" in failure.reason
    assert server.requests == []


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"", "it closed the connection during the TLS handshake"),
        (b"220 mail.example ESMTP\r\n", "could not be agreed (WRONG_VERSION_NUMBER)"),
    ],
)
def test_what_speaks_no_tls_is_unavailable_and_the_reason_says_how(
    greeting: bytes, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(greeting)

        threading.Thread(target=greet, daemon=True).start()
        failure = failure_of(target_of(f"https://127.0.0.1:{listener.getsockname()[1]}"))
    assert type(failure) is Unavailable
    assert words in failure.reason


def test_a_ca_bundle_that_has_gone_is_misconfigured() -> None:
    target = target_of("https://127.0.0.1:1", ca_bundle="/no/such/file")
    with pytest.raises(Misconfigured, match="ca_bundle"):
        TencentImClient(target).get_attr_names()


@pytest.mark.parametrize(
    "url", ["http://example.com", "http://10.0.0.1", "ftp://x", "https://a:b@x", "https://x/y"]
)
def test_the_client_refuses_plain_http_for_itself(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        TencentImClient(target_of(url))
    assert caught.value.__context__ is None


class Proxy(Server):
    """A proxy that knows CONNECT; it notes where to, and the credentials."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        super().__init__([lambda _: [None]])

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw, raw.makefile("rb") as stream:
            method, where, _ = stream.readline().decode().split(" ", 2)
            headers = http.client.parse_headers(stream)
            self.asked.append((f"{method} {where}", headers.get("Proxy-Authorization")))
            host, port = where.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as onward:
                raw.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                back = threading.Thread(target=_pump, args=(onward, raw), daemon=True)
                back.start()
                _pump(raw, onward)
                back.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_https_proxy_and_no_proxy_are_honoured(
    serve: Callable[..., Server], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(reply(), context=authority.context)
    target = target_of(server, ca_bundle=authority.bundle)
    proxy = Proxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
    with Pool() as pool:
        assert TencentImClient(target, pool).get_attr_names().names
        assert TencentImClient(target, pool).get_attr_names().names
    assert proxy.asked == [(f"CONNECT 127.0.0.1:{server.port}", "Basic dXNlcjpwYXNz")]
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    assert TencentImClient(target).get_attr_names().names
    assert len(proxy.asked) == 1
    proxy.close()


@pytest.mark.usefixtures("no_proxies")
def test_a_dripping_proxy_is_cut_off(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dripping(Proxy):
        def _serve(self, raw: socket.socket) -> None:
            with contextlib.suppress(OSError), raw:
                for byte in b"HTTP/1.1 200 Connected" * 300:
                    raw.sendall(bytes([byte]))
                    self._closing.wait(0.1)
                self.finished += 1

    proxy = Dripping()
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
    failure = failure_of(target_of("https://example.com", timeout=0.5))
    assert proxy.finished == 0, "it was waited for"
    assert "within 0.5 s" in failure.reason
    proxy.close()


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("407 Proxy Authentication Required", "the proxy wants a login (HTTP 407)"),
        ("403 Forbidden", "the proxy in HTTPS_PROXY refused to connect to it (HTTP 403)"),
    ],
)
def test_a_proxy_that_refuses_is_named_with_what_it_wants(
    monkeypatch: pytest.MonkeyPatch, status: str, words: str
) -> None:
    class Refusing(Proxy):
        def _serve(self, raw: socket.socket) -> None:
            with raw, raw.makefile("rb") as stream:
                http.client.parse_headers(stream)
                raw.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    proxy = Refusing()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hidden@127.0.0.1:{proxy.port}")
    failure = failure_of(target_of("https://example.com"))
    assert type(failure) is Unavailable
    assert words in failure.reason
    assert "hidden" not in failure.reason
    proxy.close()


@pytest.mark.usefixtures("no_proxies")
def test_an_unusable_proxy_and_an_unreadable_bundle_are_two_sentences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def words_of(target: Target) -> str:
        with pytest.raises(Misconfigured) as caught:
            TencentImClient(target).get_attr_names()
        return str(caught.value)

    url = "https://127.0.0.1:1"
    assert "its ca_bundle is not a readable file" in words_of(target_of(url, ca_bundle="/none"))
    names = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, "/none")
        assert f"the environment variable {name} is not a readable" in words_of(target_of(url))
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    words = words_of(target_of(url))
    assert "the proxy address in HTTPS_PROXY" in words
    assert "ca_bundle" not in words


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://x", "http://:secret@:x"])
def test_an_unusable_proxy_is_misconfigured_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(Misconfigured) as caught:
        TencentImClient(target_of("https://example.com")).get_attr_names()
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.usefixtures("no_proxies")
def test_plain_http_never_goes_through_a_proxy(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert TencentImClient(target_of(serve(reply()))).get_attr_names().names


def test_netrc_is_not_read(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(reply())
    TencentImClient(target_of(server)).get_attr_names()
    assert "Authorization" not in server.requests[0]["headers"]


def test_cookies_are_not_kept(serve: Callable[..., Server]) -> None:
    server = serve(reply(Set_Cookie="a=b; Path=/"))
    with Pool() as pool:
        for _ in range(2):
            TencentImClient(target_of(server), pool).get_attr_names()
    assert all("Cookie" not in request["headers"] for request in server.requests)


# --- nothing secret ---


def echo(status: str) -> Script:
    """Says back everything that it was sent, in several spellings."""

    def script(query: dict[str, str]) -> list[Piece]:
        sig = query["usersig"]
        info = f"bad {sig} {urllib.parse.quote(sig, safe='')} {KEY} ?usersig={sig}&x \x00\ud800"
        document = {"ActionStatus": "FAIL", "ErrorCode": 70009, "ErrorInfo": info}
        return reply(json.dumps(document).encode(), status)

    return script


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(echo("200 OK"), id="echo"),
        pytest.param(echo("502 Bad Gateway"), id="echo_502"),
        pytest.param(
            lambda query: reply(f"<pre>/v4?usersig={query['usersig']}</pre>".encode()), id="html"
        ),
        pytest.param(
            lambda query: named({query["usersig"]: "x"}),
            id="as_a_slot",
        ),
        pytest.param(
            lambda query: named({"0": query["usersig"]}),
            id="as_a_name",
        ),
        pytest.param(named({"0": KEY}), id="key_as_name"),
        pytest.param([None], id="hang_up"),
        pytest.param(
            lambda query: [f"HTTP/1.1 200 OK\r\n?{query['usersig']}\r\n\r\n".encode(), None],
            id="in_a_broken_header",
        ),
        pytest.param(
            lambda query: [f"HTTP/1.1 {query['usersig']} no\r\n\r\n".encode(), None],
            id="in_the_status_line",
        ),
        pytest.param([20.0], id="time_out"),
    ],
)  # fmt: skip
def test_nothing_secret_is_in_any_log_or_error(
    serve: Callable[..., Server],
    answer: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    server = serve(answer)
    failure = failure_of(target_of(server, timeout=0.5))
    assert failure.__cause__ is None
    assert failure.__context__ is None
    sig = server.requests[0]["usersig"]
    printed = capfd.readouterr()
    seen = "".join(
        [
            caplog.text,
            printed.out,
            printed.err,
            *(str(vars(record)) for record in caplog.records),
            "".join(traceback.format_exception(failure)),
            str(vars(failure)),
        ]
    )
    assert "urllib3" in seen or caplog.records == []
    for secret in (KEY, sig, urllib.parse.quote(sig, safe=""), urllib.parse.quote(sig).lower()):
        assert secret not in seen
        assert secret[:24] not in seen
    assert "\x00" not in seen


def test_the_debug_log_of_a_good_read_has_the_path_without_the_query(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    TencentImClient(target_of(serve(reply()))).get_attr_names()
    assert "/v4/all_member_push/im_get_attr_name" in caplog.text
    assert "usersig" not in caplog.text


def test_a_kept_answer_is_inert_and_without_secrets(serve: Callable[..., Server]) -> None:
    info = f"{KEY} \x1b[31m"
    server = serve(reply(json.dumps(NAMES | {"ErrorInfo": info}).encode()))
    answer = TencentImClient(target_of(server)).get_attr_names()
    assert REDACTED in answer.text
    assert KEY not in answer.text


def test_no_frame_of_an_error_holds_a_secret(serve: Callable[..., Server]) -> None:
    """Some renderers of tracebacks show every frame's locals."""
    for answer in (code(70009), code(70001), reply(b"x"), [None]):
        server = serve(answer)
        failure = failure_of(target_of(server))
        shown = "".join(
            traceback.TracebackException.from_exception(failure, capture_locals=True).format()
        )
        assert "outcome" in shown
        assert KEY not in shown
        assert not [query["usersig"] for query in server.requests if query["usersig"] in shown]


def test_no_frame_of_an_interrupt_holds_a_secret(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and Airflow's time-outs are no Exception, and are raised wherever a task is."""
    sent: list[str] = []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        raise KeyboardInterrupt

    join = threading.Thread.join
    server = serve(reply())
    client = TencentImClient(target_of(server), on_signature=sent.append)
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        client.get_attr_names()
    monkeypatch.undo()
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    held = [value for frame in frames for value in frame.f_locals.values() if value is not sent]
    assert sent
    assert not [value for value in held if sent[0] in repr(value) or KEY in repr(value)]
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", ["200 OK", "502 Bad Gateway"])
def test_an_escape_of_more_digits_than_python_reads_is_like_any_other(
    serve: Callable[..., Server], status: str
) -> None:
    for endless in ("&#" + "1" * 5000 + ";", "&#x" + "f" * 5000 + ";", "&#" + "0" * 5000 + "65;"):
        failure = failure_of(target_of(serve(reply(f"<p>{endless}</p>".encode(), status))))
        assert type(failure) is (Invalid if status.startswith("200") else Unavailable)
        assert "could not be understood" not in failure.reason


def test_leading_zeros_of_an_escape_hide_no_secret() -> None:
    spelt = "".join(f"&#{ord(char):030d};" for char in KEY)
    assert redact(f"<p>{spelt}</p>", secrets=[KEY]) == f"<p>{REDACTED}</p>"


def test_client_target_and_pool_show_no_secret(serve: Callable[..., Server]) -> None:
    target = target_of("https://example.com")
    with Pool() as pool:
        for thing in (target, TencentImClient(target, pool), pool):
            out = io.StringIO()
            print(repr(thing), thing, file=out)
            assert KEY not in out.getvalue()


def test_nothing_of_a_call_outlives_it(serve: Callable[..., Server]) -> None:
    with Pool() as pool:
        TencentImClient(target_of(serve(reply())), pool).get_attr_names()
        assert not [thread for thread in threading.enumerate() if "im-attr-audit" in thread.name]
        ((line,),) = pool._idle.values()
        assert line.call.query == ""
