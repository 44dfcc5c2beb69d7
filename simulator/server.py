"""The simulator's process: an HTTPS port per region for the clients, a control port for the tests.

One thread, one event loop: what a request sees and what a command changes never interleave.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from simulator.certificates import ensure_certificates
from simulator.commands import ControlConnection
from simulator.faults import FaultPlan
from simulator.files import StateLock, write_private
from simulator.http11 import Connection, DateHeader
from simulator.journal import Journal
from simulator.replies import Reply, good, refused
from simulator.signature import Refusal
from simulator.story import REGIONS, Story
from simulator.vendor import Parked, VendorConnection
from simulator.world import Judged, World

_LOOPBACK = "127.0.0.1"


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
        self.parked: list[Parked] = []
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

    def was_asked(self, region: str) -> None:
        """A client asked for the names of an app; the story may continue once its regions were."""
        if self.story and self.story.asked(region) and self.lasting:
            self.story.save()

    async def run(self, *, die_with_parent: bool) -> None:
        """Serve until it is asked to stop."""
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
        ports = ", ".join(f"{region} {port}" for region, port in self.ports.items())
        sys.stdout.write(f"ready: simulated vendor on {self.host}: {ports}\n")
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
        # Another program has taken last time's port.
        return await loop.create_server(factory, address, 0, backlog=512, **options)

    def _watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(self.stopping.set)

    def latency_of(self, region: str, app_id: int | None) -> float:
        """The standing delay of this app's answers."""
        if not self.latency:
            return 0.0
        own = self.latency.get((region, app_id))
        return self.latency.get((region, None), 0.0) if own is None else own

    def true_reply(self, judged: Judged) -> Reply:
        """What the vendor would answer at this moment to a request so judged."""
        if judged.refusal or not judged.app or not judged.api:
            return refused(judged.refusal or Refusal(91000, "Internal error"))
        shown = judged.app.shown(judged.api)
        return good(
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


def serve(
    state_dir: Path,
    *,
    regions: Sequence[str],
    story: bool = False,
    lasting: bool = True,
    die_with_parent: bool = False,
    name: str | None = None,
) -> int:
    """Run the simulator in this process until it is asked to stop; the exit status.

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
