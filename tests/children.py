"""Processes that sync, started fast, and killed where a test wants it.

`Children` is the test's side of one process that has everything imported. It forks a child for each
sync (some milliseconds instead of a second), or syncs by itself. The product has no hooks for this:
the named sites are taken from outside, at SQLAlchemy's events, around the driver's commit, and
around what the client does.
"""

from __future__ import annotations

import gc
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig import target_of

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0

_WRITES = re.compile(r"\b(insert into|update|delete from) attr_audit\.(\w+)")
_LOCKS = re.compile(r"\bfor (no key )?update\b")
_TABLES = re.compile(r"\bfrom attr_audit\.(\w+)|\bjoin attr_audit\.(\w+)")


@dataclass(frozen=True, slots=True)
class Work:
    """One call of sync_apps. ``targets``: connection id → connection in Airflow's JSON form.

    ``kill_after``: SIGKILL so many seconds after its beginning, wherever it is by then.
    """

    url: str
    targets: Mapping[str, Mapping[str, Any]]
    run: str
    try_number: int = 1
    confirm_seconds: float = 0.0
    delay: float = 0.0
    watch: bool = False
    kill_after: float | None = None


@dataclass(frozen=True, slots=True)
class Strike:
    """SIGKILL at the nth passing of a site.

    ``whom``: a process id, or "self", or "backend" (the database's process that serves this one).
    """

    site: str
    passing: int = 1
    whom: int | str = "self"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: the signal that killed it, the sites it had passed, what it recorded.

    ``seconds``: how long sync_apps took.
    """

    signal: int | None
    sites: list[str]
    outcomes: dict[str, str]
    error: str | None
    seconds: float


class Children:
    """The test's side."""

    def __init__(self) -> None:
        search = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.children"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._unread = b""

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; it takes no child along that still runs."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def fork(self, work: Work, strike: Strike | None = None) -> int:
        """Let a child of its own do it; the child's process id."""
        self.begin("fork", work, strike)
        return int(self.answer()["pid"])

    def wait(self, pid: int) -> Ended:
        """Wait for such a child."""
        self._order({"order": "wait", "pid": pid})
        return Ended(**self.answer())

    def begin(self, order: str, work: Work, strike: Strike | None = None) -> None:
        """Give an order ("sync": do it there) without waiting for the answer."""
        fields = {name: getattr(work, name) for name in work.__slots__}
        struck = None if strike is None else {n: getattr(strike, n) for n in strike.__slots__}
        self._order({"order": order, "work": fields, "strike": struck})

    def end(self) -> Ended:
        """The answer to "sync"."""
        return Ended(**self.answer())

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The next answer; an error where none comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError("the process that syncs does not answer")
            part = os.read(self._process.stdout.fileno(), 65536)
            if not part:
                raise EOFError("the process that syncs has ended")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


# The other side ----------------------------------------------------------------------------------


class _Sites:
    """Reports each passing of a site, and strikes at the one that was asked for."""

    def __init__(self, say: Callable[[str], None], strike: Strike | None) -> None:
        self._say = say
        self._strike = strike
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.backend = 0

    def passing(self, site: str) -> None:
        with self._lock:
            self._passed[site] += 1
            self._say(site)
            strike = self._strike
            if strike and (strike.site, strike.passing) == (site, self._passed[site]):
                whom = {"self": os.getpid(), "backend": self.backend}
                pid = strike.whom if isinstance(strike.whom, int) else whom[strike.whom]
                os.kill(pid, signal.SIGKILL)

    def watch_database(self, engine: Any) -> None:
        from sqlalchemy import event

        def connected(dbapi_connection: Any, _: Any) -> None:
            self.backend = dbapi_connection.info.backend_pid
            self.passing("connected to the database")

        def before(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            self.passing(f"before: {_name_of(statement)}")

        def after(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            self.passing(f"after: {_name_of(statement)}")

        event.listen(engine, "connect", connected)
        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)
        commit = engine.dialect.do_commit

        def watched_commit(dbapi_connection: Any) -> None:
            self.passing("before: commit")
            commit(dbapi_connection)
            self.passing("after: commit")

        engine.dialect.do_commit = watched_commit

    def watch_client(self) -> None:
        from im_attr_audit import sync
        from im_attr_audit.tencent import client, http11

        sites = self

        class Watched(client.TencentImClient):
            def get_attr_names(self) -> Any:
                sites.passing("before: a read")
                try:
                    return super().get_attr_names()
                finally:
                    sites.passing("after: a read")

        connect, getresponse = http11.Connection.connect, http11.Connection.getresponse

        def watched_connect(connection: Any) -> None:
            connect(connection)
            sites.passing("connected to the vendor")

        def watched_getresponse(connection: Any) -> Any:
            sites.passing("request sent")
            return getresponse(connection)

        for where, what, watched in (
            (sync, "TencentImClient", Watched),
            (http11.Connection, "connect", watched_connect),
            (http11.Connection, "getresponse", watched_getresponse),
        ):
            setattr(where, what, watched)

    def sleep(self, seconds: float) -> None:
        self.passing("before: the wait for the second read")
        time.sleep(seconds)
        self.passing("after: the wait for the second read")


def _name_of(statement: str) -> str:
    """What a statement does, in a few words."""
    if writes := _WRITES.findall(statement):
        return " and ".join(dict.fromkeys(f"{verb} {table}" for verb, table in writes))
    tables = [one or other for one, other in _TABLES.findall(statement)]
    if _LOCKS.search(statement):
        return f"lock {tables[0]}"
    if tables:
        return f"read {tables[0]}"
    return "read the clock" if "clock_timestamp" in statement else statement.strip()[:24]


_engines: dict[str, Any] = {}


def _sync(work: Work, say: Callable[[str], None], strike: Strike | None) -> dict[str, Any]:
    from im_attr_audit.record.engine import create_audit_engine
    from im_attr_audit.sync import sync_apps
    from sqlalchemy.engine import make_url

    engine = _engines.setdefault(work.url, create_audit_engine(make_url(work.url)))
    sites = _Sites(say, strike)
    if work.watch or strike:
        sites.watch_database(engine)
        sites.watch_client()
    targets = [target_of(conn_id, connection) for conn_id, connection in work.targets.items()]
    time.sleep(work.delay)
    outcomes: dict[str, str] = {}
    error = None
    if work.kill_after is not None:
        _send_an_executioner(work.kill_after)
    began = time.monotonic()
    try:
        recorded = sync_apps(
            engine,
            targets,
            dag_run_id=work.run,
            try_number=work.try_number,
            confirm_seconds=work.confirm_seconds,
            sleep=sites.sleep,
        )
        outcomes = {each.conn_id: each.outcome for each in recorded}
    except Exception as wrong:
        error = f"{type(wrong).__name__}: {wrong}"
    seconds = time.monotonic() - began
    return {"signal": None, "sites": [], "outcomes": outcomes, "error": error, "seconds": seconds}


def _send_an_executioner(seconds: float) -> None:
    victim = os.getpid()
    if os.fork() == 0:
        os.closerange(3, 256)
        time.sleep(seconds)
        if os.getppid() == victim:
            os.kill(victim, signal.SIGKILL)
        os._exit(0)


def _serve() -> None:
    # Everything that a sync needs is imported once for all.
    import im_attr_audit.sync  # noqa: F401
    from im_attr_audit.record.engine import create_audit_engine
    from sqlalchemy.engine import make_url

    create_audit_engine(make_url("postgresql://nobody@127.0.0.1/nothing"))
    gc.collect()
    gc.freeze()
    pipes: dict[int, int] = {}
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(answer: Mapping[str, Any]) -> None:
        os.write(answers, json.dumps(answer).encode() + b"\n")

    for line in sys.stdin.buffer:
        order = json.loads(line)
        if order["order"] == "wait":
            reply(_bury(order["pid"], pipes.pop(order["pid"])))
            continue
        work = Work(**order["work"])
        strike = Strike(**order["strike"]) if order["strike"] else None
        if order["order"] == "sync":
            reply(_sync(work, lambda _: None, strike))
            continue
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_a_child(work, strike, write_end)
        os.close(write_end)
        pipes[pid] = read_end
        reply({"pid": pid})


def _be_a_child(work: Work, strike: Strike | None, pipe: int) -> None:
    try:
        ended = _sync(work, lambda site: _say(pipe, site), strike)
        _say(pipe, json.dumps(ended))
    finally:
        os._exit(0)


def _say(pipe: int, what: str) -> None:
    os.write(pipe, what.encode() + b"\n")


def _bury(pid: int, pipe: int) -> dict[str, Any]:
    with os.fdopen(pipe, "rb") as said:
        lines = said.read().decode().splitlines()
    _, status = os.waitpid(pid, 0)
    ended: dict[str, Any] = {"outcomes": {}, "error": None, "seconds": 0.0}
    if lines and lines[-1].startswith("{"):
        ended = json.loads(lines.pop())
    ended["sites"] = lines
    ended["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return ended


def named_passings(sites: Sequence[str]) -> list[tuple[str, int]]:
    """Every passing of every site: (site, which passing), in order."""
    passed: Counter[str] = Counter()
    passings = []
    for site in sites:
        passed[site] += 1
        passings.append((site, passed[site]))
    return passings


if __name__ == "__main__":
    _serve()
