"""One round of polling: read every app, confirm what differs, record what came of each.

Knows nothing of Airflow. HTTP happens outside the database's transactions; an app that fails
is recorded as failed and stops no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from im_attr_audit.errors import Misconfigured, PollFailed, Unavailable
from im_attr_audit.record.clock import Clock
from im_attr_audit.record.rules import Attempt, Read, needs_confirmation
from im_attr_audit.record.store import (
    App,
    Recorded,
    read_clock,
    record_attempts,
    record_unchanged,
    recorded_as,
)
from im_attr_audit.tencent.client import Pool, TencentImClient
from im_attr_audit.tencent.target import Broken, Target

log = logging.getLogger(__name__)

#: Apps asked at the same time by one task: enough to hide the vendor's latency, and far below its
#: limit of 100 calls a second, which counts per app.
THREADS = 8
#: A vendor's clock further off than this is worth a warning.
CLOCK_TOLERANCE = timedelta(minutes=1)


def sync_apps(
    engine: Engine,
    targets: Sequence[Target | Broken],
    *,
    dag_run_id: str,
    try_number: int | None,
    confirm_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Recorded]:
    """Poll and record the targets, each app at most once; see `Recorded` for what is given back.

    ``confirm_seconds``: how long after a first read a differing app is read again. Raises database
    errors only; what goes wrong with an app is in its poll's outcome.
    """
    clock = read_clock(engine)
    broken = [_attempt_of_broken(t, clock) for t in targets if isinstance(t, Broken)]
    sound = [t for t in targets if isinstance(t, Target)]
    attempts = dict(zip(sound, _read_all(sound, clock), strict=True))

    run: dict[str, Any] = {"dag_run_id": dag_run_id, "try_number": try_number}
    unlike = record_unchanged(engine, attempts.values(), **run)
    unchanged = [a for t, a in attempts.items() if a.reads and _app(t) not in unlike]
    attempts = {t: a for t, a in attempts.items() if not a.reads or _app(t) in unlike}
    differing = [
        t
        for t, a in attempts.items()
        if a.reads and needs_confirmation(unlike[_app(t)], a.reads[0].answer.names)
    ]
    if differing:
        # One wait for all of them, from the last first answer on: its request was surely sent
        # before, and connecting may have taken long after `requested_at` was noted.
        answered = max(attempts[t].reads[0].responded_at for t in differing)
        go_on = answered + timedelta(seconds=confirm_seconds)
        wait = (go_on - clock.earliest()).total_seconds()
        if wait > 0:
            sleep(wait)
        for target, second in zip(differing, _read_all(differing, clock), strict=True):
            attempts[target] = _join(attempts[target], second)

    _warn_of_clocks([*unchanged, *attempts.values()])
    if any(attempt.reads for attempt in attempts.values()):
        later = read_clock(engine)
        if off := clock.differs_from(later):
            attempts = {t: _mistimed(a, off, later) for t, a in attempts.items()}
    rest = record_attempts(engine, [*broken, *attempts.values()], as_read=unlike, **run)
    return [*(recorded_as(attempt, "ok") for attempt in unchanged), *rest]


def _app(target: Target) -> App:
    return target.region, target.sdk_app_id


def _read_all(targets: Sequence[Target], clock: Clock) -> list[Attempt]:
    """One read of each, over connections of this round only."""
    if not targets:
        return []
    threads = min(THREADS, len(targets))
    with (
        Pool(max_connections=threads) as pool,
        ThreadPoolExecutor(threads, thread_name_prefix="im-attr-audit") as executor,
    ):
        return list(executor.map(lambda target: _read_one(target, pool, clock), targets))


def _read_one(target: Target, pool: Pool, clock: Clock) -> Attempt:
    client = TencentImClient(target, pool)
    requested_at = clock.earliest()
    attempt = Attempt(
        conn_id=target.conn_id,
        region=target.region,
        sdk_app_id=target.sdk_app_id,
        app_group=target.app_group,
        api=target.api,
        requested_at=requested_at,
        last_requested_at=requested_at,
        sent=1,
    )
    try:
        answer = client.get_attr_names()
    except PollFailed as failure:
        return replace(attempt, responded_at=clock.latest(), failure=failure)
    except Misconfigured as failure:
        return replace(attempt, last_requested_at=None, sent=0, failure=failure)
    responded_at = clock.latest()
    return replace(
        attempt, responded_at=responded_at, reads=(Read(requested_at, responded_at, answer),)
    )


def _join(first: Attempt, second: Attempt) -> Attempt:
    return replace(
        first,
        last_requested_at=second.last_requested_at or first.last_requested_at,
        responded_at=second.responded_at or first.responded_at,
        sent=first.sent + second.sent,
        reads=first.reads + second.reads,
        failure=second.failure,
    )


def _mistimed(attempt: Attempt, off: timedelta, clock: Clock) -> Attempt:
    """The attempt where it got an answer, as one that failed just now."""
    if not attempt.reads:
        return attempt
    now = clock.earliest()
    reason = (
        f"this machine stood still or a clock was set meanwhile ({off.total_seconds():.0f} s): "
        "the bounds of a change would be false"
    )
    return replace(
        attempt,
        requested_at=now,
        last_requested_at=now,
        responded_at=now,
        reads=(),
        failure=Unavailable(reason, error_info=reason),
    )


def _attempt_of_broken(broken: Broken, clock: Clock) -> Attempt:
    return Attempt(
        conn_id=broken.conn_id,
        region=broken.region,
        sdk_app_id=broken.sdk_app_id,
        app_group=None,
        api=None,
        requested_at=clock.earliest(),
        failure=broken.problem,
    )


def _warn_of_clocks(attempts: Iterable[Attempt]) -> None:
    worst: tuple[timedelta, Attempt, datetime] | None = None
    for attempt in attempts:
        for read in attempt.reads:
            date = read.answer.vendor_date
            if date is None:
                continue
            off = max(read.requested_at - date, date - read.responded_at)
            if worst is None or off > worst[0]:
                worst = (off, attempt, date)
    if worst and worst[0] > CLOCK_TOLERANCE:
        log.warning(
            "The vendor's clock in %s and the database's are %.0f s apart (%s said %s): bounds of "
            "changes are the database's. Check both clocks.",
            worst[1].region,
            worst[0].total_seconds(),
            worst[1].conn_id,
            worst[2].isoformat(),
        )
