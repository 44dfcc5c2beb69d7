"""The database's clock, read once and advanced by the machine's monotonic clock. Pure.

Two regions' workers and the database may have different times; bounds that are compared with one
another must come from one clock. The reading itself takes a moment, so the clock gives two times:
one that is surely not after the true one, and one that is surely not before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

#: How much a clock that is being adjusted gains or loses in the longest task.
TOLERANCE = timedelta(seconds=1)
#: How far the clocks of the database and of a machine that seals or looks may be apart.
CLOCKS_APART = timedelta(minutes=5)


class Clock:
    """``at`` (aware) was read somewhere between the monotonic times ``asked`` and ``answered``."""

    def __init__(
        self,
        at: datetime,
        *,
        asked: float,
        answered: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at = at
        self._asked = asked
        self._answered = answered
        self._monotonic = monotonic

    def earliest(self) -> datetime:
        """Now, or a moment before: for the sending of a request."""
        return self._at + timedelta(seconds=self._monotonic() - self._answered)

    def latest(self) -> datetime:
        """Now, or a moment after: for the arrival of an answer."""
        return self._at + timedelta(seconds=self._monotonic() - self._asked)

    def differs_from(self, later: Clock) -> timedelta | None:
        """By how much a later reading surely differs from this one; None within tolerance.

        The monotonic clock does not count while a machine is suspended, and a database's clock may
        be set: times that this clock gave since then are false.
        """
        off = max(later.earliest() - self.latest(), self.earliest() - later.latest())
        return off if off > TOLERANCE else None
