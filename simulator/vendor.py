"""A client's connection to one region: what the vendor answers, and every way it can fail to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from simulator.faults import Fault
from simulator.http11 import Connection, Request, head_of, in_chunks
from simulator.journal import Entry
from simulator.replies import Reply, faulty, refused
from simulator.signature import Refusal
from simulator.world import Judged

if TYPE_CHECKING:
    from simulator.server import SimulatorServer

_FAILING = Fault("bad_gateway", status=502)


@dataclass(eq=False, slots=True)
class Parked:
    """A request that waits for a command: a held answer, or one that never comes."""

    region: str
    app_id: int | None
    kind: str
    go: asyncio.Event = field(default_factory=asyncio.Event)


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
        reply = refused(Refusal(60008, "service timeout or request format error"))
        self.transport.write(self._bytes_of(reply))
        self.transport.close()

    def handle(self, request: Request) -> None:
        server, region = self._server, self._region
        path, _, query = request.target.partition("?")
        judged = server.world.judge(region, request.method, path, query, request.body)
        server.requests[region] += 1
        if judged.app is not None and judged.refusal is None:
            server.was_asked(region)
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
        reply = faulty(fault, request.target, judged, partial(server.true_reply, judged))
        if latency + fault.seconds > 0:
            await asyncio.sleep(latency + fault.seconds)
        if fault.kind in ("hold", "hang"):
            parked = Parked(self._region, judged.app_id, fault.kind)
            server.parked.append(parked)
            server.journal.touch()
            try:
                await parked.go.wait()
            finally:
                if parked in server.parked:
                    server.parked.remove(parked)
        if fault.at == "departure":
            reply = faulty(fault, request.target, judged, partial(server.true_reply, judged))
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
