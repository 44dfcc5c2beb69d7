"""Building polls by hand, for tests without a network: `polled` is what a poll would give."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from im_attr_audit.errors import Misconfigured, PollFailed
from im_attr_audit.names import AttrName
from im_attr_audit.record.rules import Poll, Read
from im_attr_audit.tencent.answer import Answer

NamesLike = Mapping[int, str | tuple[str, int | None]]

#: What `polled` counts its seconds from: well before any database's now.
START = datetime(2026, 11, 1, tzinfo=UTC)


def names(given: NamesLike) -> dict[int, AttrName]:
    """``{0: "sex", 1: ("city", 0)}`` as the names they stand for."""
    return {
        slot: AttrName(said) if isinstance(said, str) else AttrName(*said)
        for slot, said in given.items()
    }


def answer(given: NamesLike) -> Answer:
    """The vendor's answer that says so."""
    return Answer(
        names=names(given),
        evidence=lambda: f"answer {sorted(given)}",
        http_status=200,
        vendor_date=None,
    )


def polled(
    *reads: NamesLike,
    at: float | datetime,
    region: str = "frankfurt",
    sdk_app_id: int = 1400000001,
    app_group: str = "default",
    api: str = "all_member_push",
    conn_id: str | None = None,
    took: float = 0.1,
    apart: float = 2.0,
    failure: PollFailed | Misconfigured | None = None,
) -> Poll:
    """A poll that began at ``at`` (seconds after START, or a time) and read these names in turn."""
    first = at if isinstance(at, datetime) else START + timedelta(seconds=at)
    sent = [first + timedelta(seconds=i * apart) for i in range(len(reads) + (failure is not None))]
    done = [time + timedelta(seconds=took) for time in sent]
    never_sent = isinstance(failure, Misconfigured)
    return Poll(
        conn_id=conn_id or f"im_{region}_{sdk_app_id}",
        region=region,
        sdk_app_id=sdk_app_id,
        app_group=app_group,
        api=api,
        requested_at=first,
        last_requested_at=None if never_sent else sent[-1],
        responded_at=None if never_sent else done[-1],
        sent=0 if never_sent else len(sent),
        reads=tuple(
            Read(asked, answered, answer(given))
            for asked, answered, given in zip(sent, done, reads, strict=False)
        ),
        failure=failure,
    )
