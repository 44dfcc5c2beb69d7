"""The database's clock, read once and advanced by the machine's monotonic clock.

Two regions' workers and the database may have different times; bounds that are compared with one
another must come from one clock. The reading itself takes a moment, so the clock gives two times:
one that is surely not after the true one, and one that is surely not before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.record.arrays import Rows

#: How much a clock that is being adjusted gains or loses in the longest task.
TOLERANCE = timedelta(seconds=1)


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


def read_clock(engine: Engine) -> Clock:
    """The database's clock."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        asked = time.monotonic()
        at = connection.execute(text("select clock_timestamp()")).scalar_one()
        return Clock(at, asked=asked, answered=time.monotonic())


class FutureTimes(NamedTuple):
    """One app that has times in the future, and whether the database has corrected them."""

    app: AppKey
    ahead: timedelta
    is_corrected: bool


_APPS = Rows("app", "region text, sdk_app_id bigint")
_CORRECT = text(f"""
select c.region, c.sdk_app_id, c.ahead, c.is_corrected
  from (select array_agg(region) as regions, array_agg(sdk_app_id) as ids from ({_APPS.sql}) r) r
 cross join attr_audit.correct_future_times(r.regions, r.ids, :caller_at) c
""")


def correct_future_times(
    engine: Engine, apps: Iterable[AppKey], *, caller_at: datetime | None = None
) -> Sequence[FutureTimes]:
    """Let the database correct what it says of these apps in times later than now + 1 minute.

    Such times were recorded while its clock was wrong; without a correction every poll until then
    would be late. ``caller_at`` (aware; default: this machine's clock): where that time has come
    already by the caller's clock, the database's clock is behind now and nothing is corrected.
    """
    given = {**_APPS.parameters(apps), "caller_at": caller_at or datetime.now(UTC)}
    with engine.connect() as connection:
        found = [
            FutureTimes(AppKey(region, sdk_app_id), ahead, is_corrected)
            for region, sdk_app_id, ahead, is_corrected in connection.execute(_CORRECT, given)
        ]
        if found:  # nearly always there is nothing to commit
            connection.commit()
        return found
