"""Asks the database for its time, and lets it correct times that its clock cannot have reached."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.record.arrays import Rows
from im_attr_audit.record.clock import Clock


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
 cross join attr_audit_internal.correct_future_times(r.regions, r.ids, :caller_at) c
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
