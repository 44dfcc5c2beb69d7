"""The control port: what a test or the launcher can ask of a running simulator."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from simulator.faults import Fault
from simulator.http11 import Connection, Request, head_of
from simulator.vendor import VendorConnection
from simulator.world import SimulatorError, World

if TYPE_CHECKING:
    from simulator.server import SimulatorServer


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
_Command = Callable[["SimulatorServer", _Asked], object]
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


@_command("GET", "/signatures")
def _list_signatures(server: SimulatorServer, asked: _Asked) -> object:
    return sorted(server.world.signatures - {""})


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


@_command("POST", "/log/forget")
def _forget_log(server: SimulatorServer, asked: _Asked) -> object:
    server.journal.clear()
    return {}


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
