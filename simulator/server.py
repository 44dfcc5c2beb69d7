"""The simulator's process: an HTTPS port per region for the clients, a control port for the tests.

One thread, one event loop: what a request sees and what a command changes never interleave.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import signal
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from simulator.certificates import ensure_certificates
from simulator.faults import Fault, FaultPlan
from simulator.files import StateLock, write_private
from simulator.http11 import Connection, DateHeader, Request, head_of, in_chunks
from simulator.journal import Entry, Journal
from simulator.signature import Refusal
from simulator.story import REGIONS, Story
from simulator.world import TIMPUSH, Judged, SimulatorError, World

_LOOPBACK = "127.0.0.1"
_BAD_GATEWAY_PAGE = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad "
    b"Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
_FAILING = Fault("bad_gateway", status=502)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent, and what the log is to say of it."""

    status: int
    body: bytes = field(repr=False)
    result: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    chunked: bool = False
    names: Mapping[str, str] | None = None
    types: Mapping[str, int] | None = None
    truth_us: int | None = None
    code: int | None = None
    info: str | None = None


@dataclass(eq=False, slots=True)
class _Parked:
    """A request that waits for a command: a held answer, or one that never comes."""

    region: str
    app_id: int | None
    kind: str
    go: asyncio.Event = field(default_factory=asyncio.Event)


def _json(content: object) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be sent escaped
        return json.dumps(content, separators=(",", ":")).encode()


def _refused(refusal: Refusal) -> Reply:
    body = {"ActionStatus": "FAIL", "ErrorCode": refusal.code, "ErrorInfo": refusal.info}
    return Reply(200, _json(body), "code", code=refusal.code, info=refusal.info)


def _good(
    api: str | None,
    names: Mapping[str, str],
    types: Mapping[str, int],
    *,
    empty_as: str = "object",
    truth_us: int | None = None,
) -> Reply:
    answer: dict[str, object] = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}
    shown: object = names
    if not names:
        shown = {"null": None, "array": []}.get(empty_as, {})
    if names or empty_as != "absent":
        answer["AttrNames"] = shown
    told = types if api == TIMPUSH else {}
    if told:
        answer["AttrTypes"] = told
    return Reply(200, _json(answer), "names", names=names, types=told, truth_us=truth_us)


class SimulatorServer:
    """Everything the process owns."""

    def __init__(
        self,
        state_dir: Path,
        *,
        regions: Sequence[str],
        story: bool,
        lasting: bool,
        name: str | None = None,
    ):
        self.state_dir = state_dir
        self.lasting = lasting
        # Under a name it is there for other hosts too; the control port stays on loopback.
        self.host = name or _LOOPBACK
        self.address = "0.0.0.0" if name else _LOOPBACK
        self.world = World.load(state_dir) if lasting else World()
        self.story = Story(state_dir) if story else None
        self.regions = list(dict.fromkeys([*(REGIONS if story else ()), *regions]))
        self.faults = FaultPlan()
        self.journal = Journal()
        self.latency: dict[tuple[str, int | None], float] = {}
        self.parked: list[_Parked] = []
        self.connections: set[Connection] = set()
        self.opened: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.numbers = count(1)
        self.date = DateHeader()
        self.token = secrets.token_hex(16)
        self.stopping = asyncio.Event()
        self.ports: dict[str, int] = {}

    def save(self) -> None:
        """Keep what is true for the next start."""
        if self.lasting:
            self.world.save(self.state_dir)
            if self.story:
                self.story.save()

    async def run(self, *, die_with_parent: bool) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        if die_with_parent:
            threading.Thread(target=self._watch_parent, args=(loop,), daemon=True).start()
        loop.set_exception_handler(_report_without_secrets)
        tls = ensure_certificates(self.state_dir, [self.host])
        context = tls.server_context()
        servers = []
        for region in self.regions:
            server = await self._listen(
                lambda region=region: VendorConnection(self, region),  # type: ignore[misc]
                region,
                self.address,
                ssl=context,
                ssl_handshake_timeout=10,
                # An idle client does not answer a goodbye: do not wait for it.
                ssl_shutdown_timeout=0.5,
            )
            servers.append(server)
            self.ports[region] = server.sockets[0].getsockname()[1]
        servers.append(await self._listen(lambda: ControlConnection(self), " control", _LOOPBACK))
        control_port = servers[-1].sockets[0].getsockname()[1]
        self.world.ports.update({**self.ports, " control": control_port})
        if self.story:
            self.story.begin(self.world)
            if self.story.step == 0:
                self.story.advance(self.world)
        self.save()
        announcement = {
            "pid": os.getpid(),
            "host": self.host,
            "ports": self.ports,
            "ca": str(tls.ca),
            "control": f"http://{_LOOPBACK}:{control_port}",
            "token": self.token,
            "story": self.story is not None,
        }
        write_private(self.state_dir / "simulator.json", json.dumps(announcement))
        told = ", ".join(f"{region} {port}" for region, port in self.ports.items())
        sys.stdout.write(f"ready: simulated vendor on {self.host}: {told}\n")
        sys.stdout.flush()
        await self.stopping.wait()
        for server in servers:
            server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        self.save()
        (self.state_dir / "simulator.json").unlink(missing_ok=True)

    async def _listen(
        self, factory: Callable[[], Connection], name: str, address: str, **options: Any
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        last = self.world.ports.get(name, 0)
        try:
            return await loop.create_server(factory, address, last, backlog=512, **options)
        except OSError:
            if not last:
                raise
        # Somebody else has taken last time's port meanwhile.
        return await loop.create_server(factory, address, 0, backlog=512, **options)

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(self.stopping.set)

    def latency_of(self, region: str, app_id: int | None) -> float:
        """The simulatorg delay of this app's answers."""
        if not self.latency:
            return 0.0
        own = self.latency.get((region, app_id))
        return self.latency.get((region, None), 0.0) if own is None else own

    def true_reply(self, judged: Judged) -> Reply:
        """What the vendor would answer at this moment to a request so judged."""
        if judged.refusal or not judged.app or not judged.api:
            return _refused(judged.refusal or Refusal(91000, "Internal error"))
        shown = judged.app.shown(judged.api)
        return _good(
            judged.api,
            shown.names,
            shown.types,
            empty_as=judged.app.empty_as,
            truth_us=shown.since_us,
        )

    def release(self, kind: str, *, region: str | None = None, app_id: int | None = None) -> int:
        """Let parked requests go; how many there were."""
        going = [
            parked
            for parked in self.parked
            if parked.kind == kind
            and region in (None, parked.region)
            and app_id in (None, parked.app_id)
        ]
        for parked in going:
            parked.go.set()
            self.parked.remove(parked)
        return len(going)


def _report_without_secrets(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say what went wrong inside, but quote nothing a client sent."""
    error = context.get("exception")
    if not isinstance(error, OSError):  # TLS errors are among them: a client's business
        where = error.__traceback__ if error else None
        while where and where.tb_next:
            where = where.tb_next
        line = f"{where.tb_frame.f_code.co_qualname}:{where.tb_lineno}" if where else "?"
        sys.stderr.write(f"simulator: {type(error).__name__} in {line}\n")


class VendorConnection(Connection):
    """A client's connection to one region."""

    def __init__(self, server: SimulatorServer, region: str) -> None:
        super().__init__()
        self._server = server
        self._region = region
        self._number = next(server.numbers)
        self._task: asyncio.Task[None] | None = None
        self._open: Entry | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Called once the TLS handshake is done.
        super().connection_made(transport)
        self._server.connections.add(self)
        self._server.opened[self._region] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task:
            self._task.cancel()
        if self._open:
            self._end(complete=False)

    def unreadable(self) -> None:
        reply = _refused(Refusal(60008, "service timeout or request format error"))
        self.transport.write(self._bytes_of(reply))
        self.transport.close()

    def handle(self, request: Request) -> None:
        server, region = self._server, self._region
        path, _, query = request.target.partition("?")
        judged = server.world.judge(region, request.method, path, query, request.body)
        server.requests[region] += 1
        entry = self._open = server.journal.arrived(
            connection=self._number,
            region=region,
            port=server.ports[region],
            method=request.method,
            app_id=judged.app_id,
            api=judged.api,
            at_us=request.arrived_us,
        )
        fault = server.faults.take(region, judged.app_id, judged.api)
        if fault is None and region in server.world.failing:
            fault = _FAILING
        if fault is not None and fault.kind != "ok":
            entry.fault = fault.kind
        latency = server.latency_of(region, judged.app_id)
        if request.method == "HEAD":  # how the vendor says to check that one gets through
            self._send(entry, Reply(200, b"", "other"), keep_alive=request.keep_alive)
        elif fault is None and not latency:
            self._send(entry, server.true_reply(judged), keep_alive=request.keep_alive)
        else:
            self._task = asyncio.get_running_loop().create_task(
                self._misbehave(fault or Fault("ok"), latency, request, judged, entry)
            )

    async def _misbehave(
        self, fault: Fault, latency: float, request: Request, judged: Judged, entry: Entry
    ) -> None:
        server = self._server
        reply = self._reply(fault, request, judged)
        if latency + fault.seconds > 0:
            await asyncio.sleep(latency + fault.seconds)
        if fault.kind in ("hold", "hang"):
            parked = _Parked(self._region, judged.app_id, fault.kind)
            server.parked.append(parked)
            server.journal.touch()
            try:
                await parked.go.wait()
            finally:
                if parked in server.parked:
                    server.parked.remove(parked)
        if fault.at == "departure":
            reply = self._reply(fault, request, judged)
        self._task = None  # from here on a lost connection does not stop us
        if fault.kind in ("drop", "hang"):
            self._end(complete=False)
            if fault.reset:
                self.reset()
            else:
                self.transport.abort()
        elif fault.kind == "half":
            whole = self._bytes_of(reply)
            body_at = whole.index(b"\r\n\r\n") + 4
            cut = body_at // 2 if fault.where == "headers" else (body_at + len(whole)) // 2
            self._departs(entry, reply)
            self.transport.write(whole[:cut])
            self._end(complete=False)
            self.transport.close()
        elif fault.kind == "drip":
            self._task = asyncio.current_task()
            await self._drip(fault, reply, entry, keep_alive=request.keep_alive)
        else:
            keep_alive = request.keep_alive and fault.kind != "close_after"
            self._send(entry, reply, keep_alive=keep_alive)

    def _reply(self, fault: Fault, request: Request, judged: Judged) -> Reply:
        """What this fault makes of the answer."""
        kind = fault.kind
        if kind == "answer_names" and not judged.refusal:
            return _good(judged.api, fault.names, fault.types)
        if kind == "bad_gateway":
            headers = {"Content-Type": "text/html"}
            return Reply(fault.status, _BAD_GATEWAY_PAGE, "other", headers)
        if kind == "code":
            info = fault.info
            if isinstance(info, str):
                info = info.replace("%URL%", request.target).replace("%USERSIG%", judged.usersig)
            body = {"ActionStatus": "FAIL", "ErrorCode": fault.code, "ErrorInfo": info}
            # The log gets the text as it was planned, not what the request put into it.
            told = fault.info if isinstance(fault.info, str) else json.dumps(fault.info)
            return Reply(fault.status, _json(body), "code", code=fault.code, info=told)
        if kind == "raw":
            raw = fault.body.replace(b"%URL%", request.target.encode("latin-1", "replace"))
            raw = raw.replace(b"%USERSIG%", judged.usersig.encode("utf-8", "replace"))
            return Reply(fault.status, raw, "other", fault.headers, fault.chunked)
        if kind == "redirect":
            return Reply(fault.status, b"", "other", {"Location": fault.location})
        true = self._server.true_reply(judged)
        if kind == "oversize":
            # Still a valid answer, only far too large.
            padding = b',"Padding":"' + b"x" * (fault.size - len(true.body) - 13) + b'"}'
            return Reply(200, true.body[:-1] + padding, "other", chunked=fault.chunked)
        if kind == "gzip_bomb":
            return Reply(200, _bomb(fault.size), "other", {"Content-Encoding": "gzip"})
        return true

    async def _drip(self, fault: Fault, reply: Reply, entry: Entry, *, keep_alive: bool) -> None:
        whole = self._bytes_of(reply)
        at = 0
        self._departs(entry, reply)
        if fault.where == "body":
            at = whole.index(b"\r\n\r\n") + 4
            self.transport.write(whole[:at])
        for byte in whole[at:]:
            await asyncio.sleep(fault.interval)
            self.transport.write(bytes([byte]))
        self._task = None
        self._end(complete=True)
        self.next_request(keep_alive=keep_alive)

    def _send(self, entry: Entry, reply: Reply, *, keep_alive: bool) -> None:
        if self.transport.is_closing():
            self._end(complete=False)
            return
        whole = self._bytes_of(reply)
        self._departs(entry, reply)
        self.transport.write(whole)
        self._end(complete=True)
        self.next_request(keep_alive=keep_alive)

    def _bytes_of(self, reply: Reply) -> bytes:
        world = self._server.world
        headers = {
            # As in the vendor's own sample there is no Content-Type.
            "Server": "nginx",
            "Date": self._server.date.at(world.now() + world.date_skew),
            "Connection": "keep-alive",
            **reply.headers,
        }
        if reply.chunked:
            return head_of(reply.status, headers, length=None) + in_chunks(reply.body)
        return head_of(reply.status, headers, length=len(reply.body)) + reply.body

    def _departs(self, entry: Entry, reply: Reply) -> None:
        entry.result, entry.status, entry.body_size = reply.result, reply.status, len(reply.body)
        entry.names, entry.types, entry.truth_us = reply.names, reply.types, reply.truth_us
        entry.code, entry.info = reply.code, reply.info
        self._server.journal.departs(entry)

    def _end(self, *, complete: bool) -> None:
        if self._open:
            self._server.journal.ended(self._open, complete=complete)
            self._open = None


def _bomb(size: int) -> bytes:
    """Gzip data that unpacks to ``size`` bytes of white space, made without holding them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * 65536
    packed = [packer.compress(block) for _ in range(size // len(block))]
    return b"".join([*packed, packer.compress(block[: size % len(block)]), packer.flush()])


class ControlConnection(Connection):
    """A test's or the launcher's connection to the control port."""

    max_body = 256 * 1024 * 1024

    def __init__(self, server: SimulatorServer) -> None:
        super().__init__()
        self._server = server
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task:
            self._task.cancel()

    def handle(self, request: Request) -> None:
        path, _, query = request.target.partition("?")
        expected = f"Bearer {self._server.token}"
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), expected.encode()):
            self._answer(request, 401, {"error": "the token in simulator.json is needed"})
            return
        try:
            command = _COMMANDS.get((request.method, path))
            if command is None:
                self._answer(request, 404, {"error": f"no such command: {request.method} {path}"})
                return
            asked = dict(parse_qsl(query)) if request.method == "GET" else json.loads(request.body)
            answer = command(self._server, asked)
        except (SimulatorError, ValueError, TypeError, KeyError) as error:
            self._answer(request, 400, {"error": f"{error}"})
            return
        if isinstance(answer, Awaitable):
            self._task = asyncio.get_running_loop().create_task(self._later(request, answer))
        else:
            self._answer(request, 200, answer)

    async def _later(self, request: Request, answer: Awaitable[object]) -> None:
        content = await answer
        self._task = None
        self._answer(request, 200, content)

    def _answer(self, request: Request, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        head = head_of(status, {"Content-Type": "application/json"}, length=len(body))
        self.transport.write(head + body)
        self.next_request(keep_alive=request.keep_alive)


# The control port's commands -----------------------------------------------------------------

_Asked = dict[str, Any]
_Command = Callable[[SimulatorServer, _Asked], object]
_COMMANDS: dict[tuple[str, str], _Command] = {}


def _command(method: str, path: str) -> Callable[[_Command], _Command]:
    def register(command: _Command) -> _Command:
        _COMMANDS[method, path] = command
        return command

    return register


def _where(asked: _Asked) -> dict[str, Any]:
    app_id = asked.get("app_id")
    return {"region": asked.get("region"), "app_id": None if app_id is None else int(app_id)}


def _by_hand(server: SimulatorServer) -> None:
    if server.story:
        server.story.end(server.world)


@_command("GET", "/health")
def _health(server: SimulatorServer, asked: _Asked) -> object:
    return {"pid": os.getpid()}


@_command("GET", "/apps")
def _list_apps(server: SimulatorServer, asked: _Asked) -> object:
    return server.world.describe()


@_command("POST", "/apps")
def _add_apps(server: SimulatorServer, asked: _Asked) -> object:
    wanted = asked["apps"]
    for app in wanted:
        if app["region"] not in server.ports:
            raise SimulatorError(f"no such region: {app['region']}")
    for app in wanted:
        server.world.add_app(**app)
    server.save()
    return {"added": len(wanted)}


@_command("POST", "/apps/remove")
def _remove_app(server: SimulatorServer, asked: _Asked) -> object:
    server.world.remove_app(asked["region"], asked["app_id"])
    _by_hand(server)
    server.save()
    return {}


@_command("POST", "/apps/configure")
def _configure(server: SimulatorServer, asked: _Asked) -> object:
    server.world.configure(asked["region"], asked["app_id"], asked["settings"])
    server.save()
    return {}


@_command("POST", "/names")
def _set_names(server: SimulatorServer, asked: _Asked) -> object:
    shown = server.world.set_names(
        asked["region"],
        asked["app_id"],
        asked["names"],
        types=asked.get("types"),
        api=asked.get("api"),
    )
    _by_hand(server)
    server.save()
    return shown.as_json()


@_command("POST", "/name")
def _set_name(server: SimulatorServer, asked: _Asked) -> object:
    shown = server.world.set_name(
        asked["region"], asked["app_id"], asked["slot"], asked["name"], api=asked.get("api")
    )
    _by_hand(server)
    server.save()
    return shown.as_json()


@_command("POST", "/key")
def _rotate_key(server: SimulatorServer, asked: _Asked) -> object:
    key = server.world.rotate_key(
        asked["region"],
        asked["app_id"],
        asked.get("key"),
        keep_old=bool(asked.get("keep_old")),
    )
    server.save()
    return {"key": key}


@_command("GET", "/connection")
def _connection(server: SimulatorServer, asked: _Asked) -> object:
    app = server.world.app(asked["region"], int(asked["app_id"]))
    return {
        "login": app.admins[0] if app.admins else "",
        "password": app.keys[-1],
        "port": server.ports[app.region],
        "app_group": app.app_group,
        "api": app.api,
    }


@_command("GET", "/truth")
def _truth(server: SimulatorServer, asked: _Asked) -> object:
    app = server.world.app(asked["region"], int(asked["app_id"]))
    return {api: [shown.as_json() for shown in shown_] for api, shown_ in app.history.items()}


@_command("POST", "/failing")
def _set_failing(server: SimulatorServer, asked: _Asked) -> object:
    region = asked["region"]
    if region not in server.ports:
        raise SimulatorError(f"no such region: {region}")
    _by_hand(server)
    if asked["failing"]:
        server.world.failing.add(region)
    else:
        server.world.failing.discard(region)
    server.save()
    return {}


@_command("GET", "/faults")
def _planned(server: SimulatorServer, asked: _Asked) -> object:
    return server.faults.planned()


@_command("POST", "/faults")
def _add_faults(server: SimulatorServer, asked: _Asked) -> object:
    rule = server.faults.add(
        [Fault.from_json(each) for each in asked["faults"]],
        api=asked.get("api"),
        times=asked["times"],
        **_where(asked),
    )
    return {"rule": rule}


@_command("POST", "/faults/clear")
def _clear_faults(server: SimulatorServer, asked: _Asked) -> object:
    server.faults.clear(**_where(asked))
    return {"dropped": server.release("hang", **_where(asked))}


@_command("POST", "/release")
def _release(server: SimulatorServer, asked: _Asked) -> object:
    return {"released": server.release("hold", **_where(asked))}


@_command("GET", "/held")
async def _held(server: SimulatorServer, asked: _Asked) -> object:
    wanted = int(asked.get("count", 0))
    kinds = ("hold", "hang")

    def enough() -> bool:
        return sum(parked.kind in kinds for parked in server.parked) >= wanted

    reached = await server.journal.wait_until(enough, float(asked.get("wait", 0)))
    return {
        "reached": reached,
        "held": [{"region": p.region, "app_id": p.app_id, "kind": p.kind} for p in server.parked],
    }


@_command("GET", "/log")
async def _log(server: SimulatorServer, asked: _Asked) -> object:
    journal, after = server.journal, int(asked.get("after", 0))
    wanted, ended = int(asked.get("count", 0)), asked.get("ended", "0") == "1"

    def enough() -> bool:
        return journal.count_after(after, ended=ended) >= wanted

    reached = await journal.wait_until(enough, float(asked.get("wait", 0))) if wanted else True
    return {"reached": reached, "let_go": journal.let_go, "entries": journal.after(after)}


@_command("GET", "/stats")
def _stats(server: SimulatorServer, asked: _Asked) -> object:
    return {
        "connections": dict(server.opened),
        "requests": dict(server.requests),
        "open": sum(isinstance(each, VendorConnection) for each in server.connections),
    }


@_command("POST", "/latency")
def _latency(server: SimulatorServer, asked: _Asked) -> object:
    where = _where(asked)
    for region in [where["region"]] if where["region"] else server.regions:
        server.latency[region, where["app_id"]] = float(asked["seconds"])
    return {}


@_command("POST", "/clock")
def _clock(server: SimulatorServer, asked: _Asked) -> object:
    world = server.world
    for name in ("clock_offset", "date_skew", "lockout_after", "lockout_seconds"):
        if asked.get(name) is not None:
            setattr(world, name, asked[name])
    world.clock_offset += asked.get("advance") or 0.0
    return {"clock_offset": world.clock_offset, "date_skew": world.date_skew}


@_command("GET", "/story")
def _story(server: SimulatorServer, asked: _Asked) -> object:
    return server.story.as_json() if server.story else None


@_command("POST", "/story/advance")
def _advance(server: SimulatorServer, asked: _Asked) -> object:
    if server.story is None:
        raise SimulatorError("this simulator was started without a story")
    server.story.advance(server.world)
    server.save()
    return server.story.as_json()


@_command("POST", "/reset")
def _reset(server: SimulatorServer, asked: _Asked) -> object:
    """Back to an empty simulator, for the next example; ports, certificates and counts stay."""
    server.faults.clear()
    server.release("hang")
    server.release("hold")
    server.latency.clear()
    ports = server.world.ports
    server.world = World()
    server.world.ports = ports
    server.journal.clear()
    _by_hand(server)
    server.save()
    return {}


def serve(
    state_dir: Path,
    *,
    regions: Sequence[str],
    story: bool = False,
    lasting: bool = True,
    die_with_parent: bool = False,
    name: str | None = None,
) -> int:
    """Run the simulator in this process until it is told to stop; the exit status.

    ``name``: serve other hosts too, under this name; else loopback alone.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StateLock(state_dir)
    if not lock.acquire(patience=2.0):
        sys.stderr.write("a simulator is running on this state folder already\n")
        return 1
    # Left by one that was killed: nobody is to find us under its address.
    (state_dir / "simulator.json").unlink(missing_ok=True)
    server = SimulatorServer(
        state_dir.resolve(), regions=regions, story=story, lasting=lasting, name=name
    )
    try:
        asyncio.run(server.run(die_with_parent=die_with_parent))
    finally:
        lock.release()
    return 0
