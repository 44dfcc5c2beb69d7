"""Compare what a second pair of eyes was answered with what the record says of that time.

The record's good polls on both sides of an answer, and its changes between them, give every name
that a slot can have had. An answer with another one disagrees: the vendor answered the two of them
differently, or a name was changed and changed back between two polls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import Connection, text

from im_attr_audit.apps import AppKey
from im_attr_audit.evidence.canonical import canonical
from im_attr_audit.record.clock import CLOCKS_APART
from im_attr_audit.text_format import time_text

_POLL = """
select p.poll_id, coalesce((select max(c.seq) from only attr_audit.change as c
                             where c.region = p.region and c.sdk_app_id = p.sdk_app_id
                               and c.poll_id = p.poll_id), p.head_seq, 0) as seq
  from attr_audit.poll as p
 where p.region = :region and p.sdk_app_id = :number and p.outcome = 'ok' and p.api = :api
   and p.requested_at {test} :at
 order by p.requested_at {order}, p.poll_id {order}
 limit 1
"""
_CHANGES = """
select c.seq, c.slot, c.new_name
  from only attr_audit.change as c
 where c.region = :region and c.sdk_app_id = :number and c.seq <= :until
 order by c.seq
"""


@dataclass(frozen=True, slots=True)
class Look:
    """One answer of the vendor. ``asked_at``, ``answered_at``: aware times around the request."""

    app: AppKey
    api: str
    asked_at: datetime
    answered_at: datetime
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Compared:
    """``disagreement``: a sentence, or None: the record agrees. Both digests are hex."""

    disagreement: str | None
    answer_digest: str
    record_digest: str


def digest_of(names: Mapping[int, str]) -> str:
    """SHA-256 of the canonical array of slots and names, in the order of the slots."""
    return sha256(canonical([[slot, names[slot]] for slot in sorted(names)])).hexdigest()


def compare_look(connection: Connection, look: Look) -> Compared | None:
    """Compare an answer with the record; None: no good poll of the app follows it yet."""
    given = {"region": look.app.region, "number": look.app.sdk_app_id, "api": look.api}
    before = connection.execute(
        text(_POLL.format(test="<=", order="desc")), {**given, "at": look.asked_at - CLOCKS_APART}
    ).one_or_none()
    after = connection.execute(
        text(_POLL.format(test=">=", order="asc")), {**given, "at": look.answered_at + CLOCKS_APART}
    ).one_or_none()
    if after is None:
        return None
    first = before.seq if before is not None else 0
    names: dict[int, str] = {}
    possible: dict[int, set[str | None]] = {}
    changes = connection.execute(text(_CHANGES), {**given, "until": after.seq}).tuples()
    for seq, slot, name in changes:
        if seq > first:
            possible.setdefault(slot, {names.get(slot)}).add(name)
        if name is None:
            names.pop(slot, None)
        else:
            names[slot] = name
    digests = digest_of(look.names), digest_of(names)
    for slot in sorted({*names, *look.names}):
        seen = look.names.get(slot)
        if seen not in possible.get(slot, {names.get(slot)}):
            return Compared(
                f"{look.app.address} slot {slot}: the vendor answered {_quoted(seen)} at "
                f"{time_text(look.asked_at)}, and the record has "
                f"{_quoted(names.get(slot))} up to poll {after.poll_id}. SHA-256 of the answer's "
                f"names {digests[0]}, of the record's {digests[1]}",
                *digests,
            )
    return Compared(None, *digests)


def _quoted(name: str | None) -> str:
    return "no name" if name is None else ascii(name)
