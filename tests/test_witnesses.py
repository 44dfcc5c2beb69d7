"""Witnesses keep what they were given, and time stamps are of the checkpoint they are over.

Object stores are tested with fsspec's store in memory here, and with servers of their protocols by
`make test-stores`.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from im_attr_audit.evidence import https, https_witness
from im_attr_audit.evidence.https import HttpFailed, request
from im_attr_audit.evidence.targets import shown_target
from im_attr_audit.evidence.timestamps import TimestampFailed, request_timestamp, verify_timestamp
from im_attr_audit.evidence.witnesses import (
    BadTarget,
    GitWitness,
    Witness,
    WitnessConflict,
    WitnessFailed,
    open_witness,
)

from tests.timestamp_authority import TimestampAuthority

NOTE = "example.com/log\n1\nAAAA\n\n— example.com/log …\n".encode()


class Server:
    """A server that keeps what is put, and does what a test sets."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.conditional = True
        self.answer: Callable[[str, str, bytes], tuple[int, dict[str, str], bytes] | None]
        self.answer = lambda *_: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests.append((self.command, self.path))
                status, headers, content = server.answer(
                    self.command, self.path, body
                ) or server.keep(self.command, self.path, body, self.headers)
                self.send_response(status)
                for header in headers.items():
                    self.send_header(*header)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = _handle  # noqa: N815 - names of http.server

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def keep(
        self, method: str, path: str, body: bytes, headers: Any
    ) -> tuple[int, dict[str, str], bytes]:
        if method == "GET":
            return (200, {}, self.files[path]) if path in self.files else (404, {}, b"")
        if path in self.files and self.conditional and headers["If-None-Match"] == "*":
            return 412, {}, b""
        self.files[path] = body
        return 201, {}, b""

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["file", "memory", "git", "https"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "file":
            return f"file:{tmp_path}"
        case "memory":
            fsspec.filesystem("memory").store.clear()
            return "memory://bucket/prefix"
        case "git":
            subprocess.run(["git", "init", "-q", "--bare", tmp_path / "log.git"], check=True)
            return f"git:{tmp_path}/log.git#seals"
        case _:
            return f"{request.getfixturevalue('server').url}/seals/"


def test_a_witness_returns_what_it_was_given_and_lists_the_sizes_in_order(target: str) -> None:
    witness = open_witness(target)
    assert str(witness) == target
    assert witness.sizes() == []
    for size in (1, 2, 3):
        witness.write(size, b"%d\n" % size)
    again = open_witness(target)
    assert again.sizes() == [1, 2, 3]
    assert [again.read(size) for size in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]


def test_a_checkpoint_is_never_replaced_and_the_same_one_may_be_written_again(target: str) -> None:
    witness = open_witness(target)
    witness.write(1, b"one")
    witness.write(1, b"one")
    with pytest.raises(
        WitnessConflict, match="holds another checkpoint of size 1; nothing was replaced"
    ):
        witness.write(1, b"other")
    assert (witness.sizes(), witness.read(1)) == ([1], b"one")


def test_a_checkpoint_that_is_missing_is_an_error_of_the_operating_systems_kind(
    target: str,
) -> None:
    with pytest.raises(OSError, match="there is no checkpoint of size 7"):
        open_witness(target).read(7)


def test_of_many_writers_of_one_size_one_wins_and_the_others_learn_it(tmp_path: Path) -> None:
    witness = open_witness(f"file:{tmp_path}")
    lost: list[bytes] = []

    def write(content: bytes) -> None:
        try:
            witness.write(1, content)
        except WitnessConflict:
            lost.append(content)

    contents = [str(number).encode() * 1000 for number in range(8)]
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([*lost, witness.read(1)]) == contents
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.json"]


# ---- files


def test_a_file_system_without_links_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_link)
    witness = open_witness(f"file:{tmp_path}")
    witness.write(1, b"one")
    with pytest.raises(WitnessConflict):
        witness.write(1, b"other")
    assert witness.read(1) == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001.json"]


def test_a_full_disk_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WitnessFailed, match="No space left"):
        open_witness(f"file:{tmp_path}").write(1, b"one")
    assert list(tmp_path.iterdir()) == []


def test_what_others_keep_in_the_folder_is_ignored(tmp_path: Path) -> None:
    for name in ("README", ".new-x", "1.json", "000000000002.json.bak", "00000000000٣.json"):
        (tmp_path / name).touch()
    assert open_witness(f"file:{tmp_path}").sizes() == []


@pytest.mark.parametrize("place", ["file", "missing"])
def test_a_folder_that_is_missing_or_a_file_is_reported_and_not_made(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    witness = open_witness(f"file://{tmp_path}/{place}")
    with pytest.raises(WitnessFailed) as error:
        witness.sizes()
    assert str(error.value) == f"{witness}: {error.value.strerror}"
    assert not (tmp_path / "missing").exists()
    for ask in (lambda: witness.read(1), lambda: witness.write(1, b"")):
        with pytest.raises(WitnessFailed):
            ask()


# ---- git


def git(*arguments: object, folder: Path) -> str:
    command = ["git", "-C", str(folder), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_only_adds_commits_and_keeps_what_others_committed(tmp_path: Path) -> None:
    folder = tmp_path / "log.git"
    subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
    witness = open_witness(f"git:{folder}#seals")
    witness.write(1, b"one")
    first = git("rev-parse", "seals", folder=folder)
    open_witness(f"git:{folder}#seals").write(2, b"two")
    assert git("rev-list", "--reverse", "seals", folder=folder).splitlines()[0] == first
    assert git("rev-list", "--count", "seals", folder=folder) == "2"
    listed = git("ls-tree", "--name-only", "seals", folder=folder)
    assert listed.splitlines() == ["000000000001.json", "000000000002.json"]


def test_git_refuses_to_push_over_a_commit_that_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log.git"
    subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
    open_witness(f"git:{folder}").write(1, b"one")
    fetched = GitWitness._fetch
    others = iter([b"two, by another"])

    def another_pushes_after_the_fetch(self: GitWitness, scratch: str) -> str:
        tip = fetched(self, scratch)
        for content in others:
            open_witness(f"git:{folder}").write(2, content)
        return tip

    monkeypatch.setattr(GitWitness, "_fetch", another_pushes_after_the_fetch)
    with pytest.raises(WitnessFailed, match="git push failed"):
        open_witness(f"git:{folder}").write(2, b"two")
    assert open_witness(f"git:{folder}").read(2) == b"two, by another"


def test_nothing_of_a_git_target_is_run_as_a_command(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    for url in (f"ext::touch {marker}", f"--upload-pack=touch {marker}", ""):
        with pytest.raises(BadTarget):
            open_witness(f"git:{url}")
    for place in (
        f"{tmp_path}; touch {marker}",
        f"$(touch {marker})",
        "ssh://-oProxyCommand=x/y",
    ):
        with pytest.raises(WitnessFailed):
            open_witness(f"git:{place}").sizes()
    assert not marker.exists()


def test_a_git_witness_is_not_misled_by_the_repository_that_it_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "log.git"], check=True)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    open_witness(f"git:{tmp_path}/log.git").write(1, b"one")
    assert open_witness(f"git:{tmp_path}/log.git").read(1) == b"one"
    assert not (tmp_path / "elsewhere").exists()


# ---- https


def test_a_server_that_replaces_files_is_not_asked_to(server: Server) -> None:
    server.conditional = False
    witness = open_witness(server.url)
    witness.write(1, b"one")
    with pytest.raises(WitnessConflict):
        witness.write(1, b"other")
    assert witness.read(1) == b"one"


def test_a_server_that_does_not_keep_what_it_took_is_found_out(server: Server) -> None:
    server.answer = lambda method, *_: (204, {}, b"") if method == "PUT" else None
    with pytest.raises(WitnessConflict):
        open_witness(server.url).write(1, b"one")


def test_a_server_is_asked_a_few_times_for_its_newest_checkpoint(server: Server) -> None:
    server.files = {f"/{size:012d}.json": b"x" for size in range(1, 1001)}
    assert open_witness(server.url).sizes() == list(range(1, 1001))
    assert len(server.requests) < 25


def test_a_server_that_returns_something_for_every_name_is_no_witness(server: Server) -> None:
    server.answer = lambda *_: (200, {}, b"<html>log in</html>")
    with pytest.raises(WitnessFailed, match="it is not a witness"):
        open_witness(server.url).sizes()
    assert len(server.requests) < 50


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_its_target_never_asked(server: Server, status: int) -> None:
    elsewhere = {"Location": f"{server.url}/elsewhere/"}
    server.answer = lambda *_: (status, elsewhere, b"x" * 100_000)
    with pytest.raises(WitnessFailed, match="redirects, which is not followed"):
        open_witness(server.url).write(1, b"one")
    assert server.requests == [("GET", "/000000000001.json")]


@pytest.mark.parametrize("status", [401, 403, 405, 500])
def test_a_server_that_refuses_is_reported(server: Server, status: int) -> None:
    server.answer = lambda *_: (status, {}, b"no")
    witness = open_witness(server.url)
    for ask in (witness.sizes, lambda: witness.read(1), lambda: witness.write(1, b"")):
        with pytest.raises(WitnessFailed, match=f"HTTP {status}"):
            ask()


def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda *_: (200, {}, b"x" * 1001)
    monkeypatch.setattr(https_witness, "MOST_BYTES", 1000)
    with pytest.raises(WitnessFailed, match="more than 1000 bytes"):
        open_witness(server.url).read(1)


def test_an_answer_that_takes_too_long_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda *_: (200, {}, b"x")
    monkeypatch.setattr(https, "_SECONDS", -1.0)
    with pytest.raises(HttpFailed, match="did not answer"):
        request("GET", server.url, headers={}, most=1000)


def test_an_error_names_the_host_alone() -> None:
    with pytest.raises(WitnessFailed) as error:
        open_witness("http://127.0.0.1:1/folder").sizes()
    assert str(error.value).endswith(": 127.0.0.1 could not be asked: ConnectionError")


# ---- targets


@pytest.mark.parametrize(
    "target",
    [
        "",
        "witness",
        "/srv/witness",
        "file:witness",
        "file:",
        "ftp://example.com/",
        "http://example.com/",
        "https://",
        "https://user:password@example.com/",
        "https://example.com/?sig=x",
        "https://example.com/#x",
        "https://example.com/a b",
        "https://example.com:port/",
        "git:https://user:password@example.com/x.git",
        "git:/srv/x.git#../main",
        "git:/srv/x.git#-f",
        "s3://bucket",
    ],
)
def test_a_target_that_cannot_be_used_is_refused_by_a_sentence(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadTarget) as error:
        open_witness(target)
    assert "password@" not in str(error.value)
    assert " " in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "git:https://s3cret@example.com/x.git",
        "git:https://s3cret:x-oauth-basic@example.com/x.git#main",
        "git:HTTPS://s3cret@example.com/x.git",
        "git:https://s3cret%40example.com/x.git",
        "git:https://example.com/x.git?private_token=s3cret",
        "git:https://user:s3/cret@example.com/x.git",
        "git:https://user:s3#cret@example.com/x.git",
        "git:http://s3cret@example.com/x.git",
        "git:ssh://git:s3cret@example.com/x.git",
        "git:git:s3cret@example.com:x.git",
        "https://s3cret@example.com/folder",
        "https://example.com/folder?X-Amz-Signature=s3cret",
        "s3://key:s3cret@bucket/audit",
        "s3:key:s3cret@bucket/audit",
        "s3:///key:s3cret@bucket/audit",
        "gs://s3cret@bucket/audit",
        "az://container/audit?sv=2024&sig=s3cret",
        "az:container/audit?sig=s3cret",
        "abfs://container:s3cret@account.dfs.core.windows.net/audit",
        "ftp://user:s3cret@example.com/",
        "S3://key:s3cret@bucket/audit",
        "user:s3cret@example.com",
    ],
)
def test_a_target_that_can_hold_a_secret_is_refused_and_not_quoted(target: str) -> None:
    with pytest.raises(BadTarget) as error:
        open_witness(target)
    for part in ("s3cret", "cret@"):
        assert part not in str(error.value)
        assert part not in shown_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "git:git@example.com:org/x.git",
        "git:ssh://git@example.com:22/x.git#seals",
        "git:https://example.com/x@y.git",
        "git:/srv/x@y.git",
        "git:file:///srv/x@y.git",
        "file:/srv/x@y?z",
        "https://dav.example.com/files/a@example.com/",
        "memory://bucket/x@y",
    ],
)
def test_a_target_without_a_secret_is_opened_and_shown_as_it_is(target: str) -> None:
    assert str(open_witness(target)) == shown_target(target) == target


def test_a_git_target_that_is_refused_names_what_to_use_instead() -> None:
    with pytest.raises(BadTarget, match=r"credential helper of git .* or use ssh://git@host/path"):
        open_witness("git:https://s3cret@example.com/x.git")


def test_a_time_stamp_authority_is_named_by_its_host_alone() -> None:
    for url in ("http://127.0.0.1:1/tsa?key=s3cret", "https://s3cret@127.0.0.1/tsa"):
        with pytest.raises(TimestampFailed, match=r"127\.0\.0\.1") as error:
            request_timestamp(url, b"note")
        assert "s3cret" not in str(error.value)


def test_an_object_store_that_fails_is_reported_without_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    witness: Witness = open_witness("memory://bucket/x")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("https://bucket/x?X-Amz-Signature=secret")

    for method in ("ls", "cat_file", "pipe_file"):
        monkeypatch.setattr(fsspec.filesystem("memory"), method, fail)
    for ask in (witness.sizes, lambda: witness.read(1), lambda: witness.write(1, b"")):
        with pytest.raises(WitnessFailed, match="RuntimeError") as error:
            ask()
        assert "secret" not in str(error.value)


# ---- time stamps


@pytest.fixture(scope="module")
def authority() -> TimestampAuthority:
    return TimestampAuthority()


def test_a_time_stamp_shows_when_the_checkpoint_existed(
    authority: TimestampAuthority, server: Server
) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    server.answer = lambda _, __, query: (200, {}, authority.respond(query, at))
    response = request_timestamp(f"{server.url}/tsr", NOTE)
    assert verify_timestamp(response, NOTE, [authority.root]) == at
    with pytest.raises(TimestampFailed, match="not for this checkpoint"):
        verify_timestamp(response, NOTE + b"x", [authority.root])
    with pytest.raises(TimestampFailed, match="not valid"):
        verify_timestamp(response, NOTE, [TimestampAuthority().root])
    with pytest.raises(TimestampFailed, match="not valid"):
        verify_timestamp(response, NOTE, [])


def test_a_time_stamp_that_was_edited_is_refused(
    authority: TimestampAuthority, server: Server
) -> None:
    at = datetime.now(UTC)
    server.answer = lambda _, __, query: (200, {}, authority.respond(query, at))
    response = request_timestamp(server.url, NOTE)
    day = f"{at:%Y%m%d}".encode()
    for forged in (response.replace(day, b"20200101"), response[:-1] + b"\0", response[:-9], b""):
        with pytest.raises(TimestampFailed):
            verify_timestamp(forged, NOTE, [authority.root])


def test_an_answer_that_is_no_time_stamp_of_this_request_is_refused(
    authority: TimestampAuthority, server: Server
) -> None:
    asked: list[bytes] = []

    def replay(_: str, __: str, query: bytes) -> tuple[int, dict[str, str], bytes]:
        asked.append(query)
        return 200, {}, authority.respond(asked[0], datetime.now(UTC))

    server.answer = replay
    request_timestamp(server.url, NOTE)
    with pytest.raises(TimestampFailed, match="answers another request"):
        request_timestamp(server.url, NOTE)
    with pytest.raises(TimestampFailed, match="not for this checkpoint"):
        request_timestamp(server.url, b"another checkpoint\n")
    refusal = bytes.fromhex("30053003020102")
    for status, body in ((200, refusal), (200, b"<html>"), (200, b""), (500, b""), (302, b"")):
        server.answer = lambda *_, answer=(status, {}, body): answer
        with pytest.raises(TimestampFailed):
            request_timestamp(server.url, NOTE)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(TimestampFailed, match=r"pip install 'im-attr-audit\[timestamps\]'"):
        request_timestamp("https://example.com", NOTE)
