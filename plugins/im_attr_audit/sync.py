"""One sync: read every app, confirm what differs, record the outcome of each.

Knows nothing of Airflow. HTTP happens outside the database's transactions; an app that fails
is recorded as failed and stops no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from im_attr_audit.errors import Misconfigured, PollFailed, Unavailable
from im_attr_audit.record.clock import Clock
from im_attr_audit.record.database_clock import correct_future_times, read_clock
from im_attr_audit.record.rules import Poll, Read, needs_confirmation
from im_attr_audit.record.store import Recorded, record_polls, record_unchanged, recorded_as
from im_attr_audit.tencent.client import Pool, TencentImClient
from im_attr_audit.tencent.target import Target, Unresolved

log = logging.getLogger(__name__)

#: Apps asked at the same time by one task: enough to hide the vendor's latency, and far below its
#: limit of 100 calls a second, which counts per app.
THREADS = 8
#: A vendor's clock that differs by more than this is worth a warning.
CLOCK_TOLERANCE = timedelta(minutes=1)


def sync_apps(
    engine: Engine,
    targets: Sequence[Target | Unresolved],
    *,
    dag_run_id: str,
    try_number: int | None,
    confirm_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Recorded]:
    """Poll and record the targets, each app at most once; gives what was recorded of each.

    ``confirm_seconds``: how long after a first read an app whose names differ is read again.
    Raises database errors only; what goes wrong with an app is in its poll's outcome.
    """
    _correct_future_times(engine, targets)
    clock = read_clock(engine)
    not_sent = [_poll_not_sent(t, clock) for t in targets if isinstance(t, Unresolved)]
    usable = [t for t in targets if isinstance(t, Target)]
    polls = dict(zip(usable, _read_all(usable, clock), strict=True))

    run: dict[str, Any] = {"dag_run_id": dag_run_id, "try_number": try_number}
    differing = record_unchanged(engine, polls.values(), clock=clock, **run)
    unchanged = [poll for poll in polls.values() if poll.reads and poll.app not in differing]
    polls = {t: poll for t, poll in polls.items() if not poll.reads or poll.app in differing}
    to_confirm = {
        t: poll
        for t, poll in polls.items()
        if poll.reads and needs_confirmation(differing[t.app], poll.reads[0].answer.names)
    }
    if to_confirm:
        polls |= _confirm(to_confirm, clock, confirm_seconds, sleep)

    _warn_of_vendors_clock([*unchanged, *polls.values()])
    rest = _with_certain_times(engine, [*not_sent, *polls.values()], clock)
    recorded = record_polls(engine, rest, as_read=differing, **run)
    return [*(recorded_as(poll, "ok") for poll in unchanged), *recorded]


def _correct_future_times(engine: Engine, targets: Sequence[Target | Unresolved]) -> None:
    """Before anything is asked; one warning says which clock is wrong, and by how much."""
    apps = [target.app for target in targets if isinstance(target, Target)]
    found = correct_future_times(engine, apps)
    if not found:
        return
    worst = max(found, key=lambda each: each.ahead)
    seconds = worst.ahead.total_seconds()
    if worst.is_corrected:
        log.warning(
            "The database's clock was wrong: it was %.0f s ahead when %s was last polled "
            "(%d apps have times in the future). The database has corrected what it goes by; the "
            "rows recorded then keep their times. Check the clock of the database server.",
            seconds,
            worst.app.address,
            len(found),
        )
    else:
        log.warning(
            "The database's clock is wrong: it is at least %.0f s behind, by the times recorded "
            "for %s and by this machine's clock (%d apps). Their polls are late until the clock "
            "is right. Set the clock of the database server.",
            seconds,
            worst.app.address,
            len(found),
        )


def _read_all(targets: Sequence[Target], clock: Clock) -> list[Poll]:
    """One read of each, over new connections."""
    if not targets:
        return []
    threads = min(THREADS, len(targets))
    with (
        Pool(max_connections=threads) as pool,
        ThreadPoolExecutor(threads, thread_name_prefix="im-attr-audit") as executor,
    ):
        return list(executor.map(lambda target: _read_one(target, pool, clock), targets))


def _read_one(target: Target, pool: Pool, clock: Clock) -> Poll:
    client = TencentImClient(target, pool)
    requested_at = clock.earliest()
    poll = Poll(
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
        return replace(poll, responded_at=clock.latest(), failure=failure)
    except Misconfigured as failure:
        return replace(poll, last_requested_at=None, sent=0, failure=failure)
    responded_at = clock.latest()
    return replace(
        poll, responded_at=responded_at, reads=(Read(requested_at, responded_at, answer),)
    )


def _confirm(
    polls: Mapping[Target, Poll], clock: Clock, seconds: float, sleep: Callable[[float], None]
) -> dict[Target, Poll]:
    """The polls with a second read, ``seconds`` after the first or later."""
    # One wait for all of them, counted from the last first answer: its request was surely sent
    # before, and connecting may have taken long after `requested_at` was noted.
    answered = max(poll.reads[0].responded_at for poll in polls.values())
    wait = (answered + timedelta(seconds=seconds) - clock.earliest()).total_seconds()
    if wait > 0:
        sleep(wait)
    second = _read_all([*polls], clock)
    return {t: _join(polls[t], read) for t, read in zip(polls, second, strict=True)}


def _join(first: Poll, second: Poll) -> Poll:
    return replace(
        first,
        last_requested_at=second.last_requested_at or first.last_requested_at,
        responded_at=second.responded_at or first.responded_at,
        sent=first.sent + second.sent,
        reads=first.reads + second.reads,
        failure=second.failure,
    )


def _with_certain_times(engine: Engine, polls: list[Poll], clock: Clock) -> list[Poll]:
    """The polls; without their times where a clock was changed since ``clock`` was read."""
    if not polls:
        return polls
    later = read_clock(engine)
    off = clock.differs_from(later)
    return [_without_times(poll, off, later) for poll in polls] if off else polls


def _without_times(poll: Poll, off: timedelta, clock: Clock) -> Poll:
    """The poll as one made just now: its times cannot be trusted, nor can an answer be dated."""
    now = clock.earliest()
    if not poll.reads:
        sent_at = now if poll.sent else None
        return replace(poll, requested_at=now, last_requested_at=sent_at, responded_at=sent_at)
    reason = (
        "the machine was suspended or a clock was changed during the poll "
        f"({off.total_seconds():.0f} s), so its times cannot be trusted"
    )
    return replace(
        poll,
        requested_at=now,
        last_requested_at=now,
        responded_at=now,
        reads=(),
        failure=Unavailable(reason, error_info=reason),
    )


def _poll_not_sent(target: Unresolved, clock: Clock) -> Poll:
    return Poll(
        conn_id=target.conn_id,
        region=target.region,
        sdk_app_id=target.sdk_app_id,
        app_group=target.app_group,
        api=target.api,
        requested_at=clock.earliest(),
        failure=target.failure,
    )


def _warn_of_vendors_clock(polls: Iterable[Poll]) -> None:
    worst: tuple[timedelta, Poll, datetime] | None = None
    for poll in polls:
        for read in poll.reads:
            date = read.answer.vendor_date
            if date is None:
                continue
            off = max(read.requested_at - date, date - read.responded_at)
            if worst is None or off > worst[0]:
                worst = (off, poll, date)
    if worst and worst[0] > CLOCK_TOLERANCE:
        log.warning(
            "The vendor's clock in %s and the database's are %.0f s apart (%s reported %s): bounds "
            "of changes are the database's. Check both clocks.",
            worst[1].region,
            worst[0].total_seconds(),
            worst[1].conn_id,
            worst[2].isoformat(),
        )
