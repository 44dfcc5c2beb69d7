"""The simulator's log: every request in order, and what was truly answered. The tests' oracle.

No UserSig, key or URL is ever written into it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from simulator.world import now_us


@dataclass(slots=True)
class Entry:
    """One request. Times are microseconds since 1970 UTC.

    ``result``: ``pending``, ``names`` (a good answer with ``names`` and ``types``), ``code`` (the
    vendor's, with ``info``), ``other`` (anything else was sent), ``nothing`` (no answer at all).
    ``departed_us`` is when its first byte was handed over, ``departure`` the order of that among
    all answers; ``complete`` whether the whole of it was, ``ended`` that nothing more comes.
    ``truth_us`` is the ``since_us`` of the truth that a good answer shows; null where its names
    were made up.
    """

    seq: int
    connection: int
    region: str
    port: int
    method: str
    app_id: int | None
    api: str | None
    arrived_us: int
    result: str = "pending"
    names: Mapping[str, str] | None = None
    types: Mapping[str, int] | None = None
    truth_us: int | None = None
    code: int | None = None
    info: str | None = None
    status: int | None = None
    body_size: int | None = None
    fault: str | None = None
    departed_us: int | None = None
    departure: int | None = None
    complete: bool = False
    ended: bool = False


_FIELDS = tuple(field.name for field in fields(Entry))


class Journal:
    """Entries in the order of arrival; the oldest are let go beyond ``keep``, and counted."""

    def __init__(self, keep: int = 500_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._seqs = count(1)
        self._departures = count(1)
        self._changed = asyncio.Event()
        self.let_go = 0

    def arrived(
        self,
        *,
        connection: int,
        region: str,
        port: int,
        method: str,
        app_id: int | None,
        api: str | None,
        at_us: int,
    ) -> Entry:
        """Note a request."""
        if len(self._entries) == self._entries.maxlen:
            self.let_go += 1
        entry = Entry(next(self._seqs), connection, region, port, method, app_id, api, at_us)
        self._entries.append(entry)
        self._changed.set()
        return entry

    def departs(self, entry: Entry) -> None:
        """Note that its answer is about to be sent."""
        entry.departed_us = now_us()
        entry.departure = next(self._departures)
        self._changed.set()

    def ended(self, entry: Entry, *, complete: bool) -> None:
        """Note that nothing more comes for this request."""
        entry.complete, entry.ended = complete, True
        if entry.result == "pending":
            entry.result = "nothing"
        self._changed.set()

    def _newer_than(self, seq: int) -> list[Entry]:
        recent: list[Entry] = []
        for entry in reversed(self._entries):
            if entry.seq <= seq:
                break
            recent.append(entry)
        recent.reverse()
        return recent

    def after(self, seq: int) -> list[dict[str, Any]]:
        """The entries with a higher ``seq``."""
        return [{name: getattr(entry, name) for name in _FIELDS} for entry in self._newer_than(seq)]

    def count_after(self, seq: int, *, ended: bool) -> int:
        """How many there are; ``ended``: only those for which nothing more comes."""
        return sum(entry.ended or not ended for entry in self._newer_than(seq))

    def clear(self) -> None:
        """Forget the entries; the counts continue."""
        self._entries.clear()
        self.let_go = 0

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """True as soon as the condition holds, False when it did not in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not condition():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - loop.time())
            except TimeoutError:
                return condition()
        return True

    def touch(self) -> None:
        """Something else that may be waited for has changed."""
        self._changed.set()
