"""`prove`: one sealed row with its paths to a signed checkpoint, for `evidence.proof`."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.evidence.canonical import Value
from im_attr_audit.evidence.checkpoint import read_text
from im_attr_audit.evidence.merkle import root_of
from im_attr_audit.evidence.note import Verifier, signatures_of
from im_attr_audit.evidence.proof import Proof, check_proof, make_proof
from im_attr_audit.record.checks.parts import reading
from im_attr_audit.record.seals.log import newest_log, stored_seals
from im_attr_audit.record.seals.rows import (
    KINDS,
    Kind,
    prepare_sealed,
    read_batches,
    read_history,
)

_POLL_AT = """
select poll_id, requested_at from attr_audit.poll
 where region = :region and sdk_app_id = :number and requested_at <= :at
 order by requested_at desc, poll_id desc limit 1
"""
# A folded poll can be newer than the newest that is left.
_FOLDED = """
select max(from_at) from only attr_audit.coverage
 where region = :region and sdk_app_id = :number and from_at <= :at
   and (to_at > :found) is not false
"""
_CHANGE_AT = """
select change_id from only attr_audit.change
 where region = :region and sdk_app_id = :number and seq = :seq
"""


class NotProvable(AttrAuditError):
    """There is no proof of that; the text says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a proof may cost: seconds for each statement (0: no limit), and rows of its seal."""

    seconds: int = 0
    rows: int | None = None


def prove_poll(engine: Engine, app: AppKey, at: datetime, verifier: Verifier | None) -> Proof:
    """The app's newest poll that was requested at or before ``at``. Raises NotProvable."""
    with reading(engine) as connection:
        return prove_poll_on(connection, app, at, verifier)


def prove_change(engine: Engine, app: AppKey, seq: int, verifier: Verifier | None) -> Proof:
    """The app's change ``seq``. Raises NotProvable."""
    with reading(engine) as connection:
        return prove_change_on(connection, app, seq, verifier)


def prove_poll_on(
    connection: Connection,
    app: AppKey,
    at: datetime,
    verifier: Verifier | None = None,
    bounds: Bounds = Bounds(),
) -> Proof:
    """As `prove_poll`, in a transaction that reads one snapshot and reads nothing else after."""
    _prepare(connection, bounds)
    given = {"region": app.region, "number": app.sdk_app_id, "at": at}
    poll = connection.execute(text(_POLL_AT), given).one_or_none()
    found = {"found": poll.requested_at if poll else None}
    folded = connection.execute(text(_FOLDED), {**given, **found}).scalar_one()
    if folded is not None:
        raise NotProvable(
            f"Good polls of {app.address} of {folded.astimezone(UTC):%Y-%m} are folded, so the "
            f"newest one at {at} cannot be proven."
        )
    if poll is None:
        raise NotProvable(f"No poll of {app.address} was requested at or before {at}.")
    return _prove(connection, KINDS[0], poll.poll_id, verifier, bounds)


def prove_change_on(
    connection: Connection,
    app: AppKey,
    seq: int,
    verifier: Verifier | None = None,
    bounds: Bounds = Bounds(),
) -> Proof:
    """As `prove_change`, in a transaction that reads one snapshot and reads nothing else after."""
    _prepare(connection, bounds)
    given = {"region": app.region, "number": app.sdk_app_id, "seq": seq}
    change_id = connection.execute(text(_CHANGE_AT), given).scalar_one_or_none()
    if change_id is None:
        raise NotProvable(f"{app.address} has no change with seq {seq}.")
    return _prove(connection, KINDS[1], change_id, verifier, bounds)


def _prepare(connection: Connection, bounds: Bounds) -> None:
    prepare_sealed(connection)
    # After it: it lifts the limit of time.
    connection.execute(text(f"set local statement_timeout = '{int(bounds.seconds)}s'"))


def _prove(
    connection: Connection, kind: Kind, id_: int, verifier: Verifier | None, bounds: Bounds
) -> Proof:
    origin = verifier.name if verifier else newest_log(connection)
    seals = stored_seals(connection, origin)
    number = bisect_left([seal.last[kind.number] for seal in seals], id_)
    if number == len(seals):
        raise NotProvable(
            f"The {kind.name} with {kind.id} {id_} is not sealed yet. Run `im-attr-audit "
            "checkpoint` first."
        )
    seal = seals[number]
    if bounds.rows is not None and seal.rows(kind.number)[0] > bounds.rows:
        raise NotProvable(
            f"Seal {number} holds {seal.rows(kind.number)[0]} {kind.plural}, which is too many to "
            "be read here. Run `im-attr-audit prove`."
        )
    after = seals[number - 1].last[kind.number] if number else 0
    hashes: list[bytes] = []
    row: list[bytes] = []
    index = 0
    for batch in read_batches(connection, kind, after, seal.last[kind.number]):
        place = batch.until(id_) - 1
        if not row and place >= 0 and int(batch.columns[0][place]) == id_:
            row, index = batch.row(place), len(hashes) + place
        hashes += batch.hashes
    count, _ = seal.rows(kind.number)
    if kind.number == 0 and len(hashes) < count:
        raise NotProvable(
            f"Seal {number} lacks {count - len(hashes)} of its {count} polls, so none of them can "
            "be proven. `im-attr-audit verify --checkpoints` shows whether they were folded, or "
            "dropped with their month."
        )
    if (len(hashes), root_of(hashes).hex()) != seal.rows(kind.number):
        raise NotProvable(
            f"The {kind.plural} of seal {number} are not as they were sealed, so none of them can "
            "be proven. Run `im-attr-audit verify --checkpoints`."
        )
    values: list[Value] = [kind.type, *map(json.loads, row)]
    history = read_history(connection, row[2], row[3], row[-2]) if kind.number == 0 else []
    proof = make_proof(
        row=values,
        row_hashes=hashes,
        row_index=index,
        leaf=seal.values,
        leaf_hashes=[each.leaf_hash for each in seals],
        note=seals[-1].note.encode(),
        history=history,
        timestamp=seals[-1].timestamp,
    )
    _check(proof, seals, verifier)
    return proof


def _check(proof: Proof, seals: list[Seal], verifier: Verifier | None) -> None:
    """Nothing is given away that does not prove what it claims."""
    if verifier is not None:
        check_proof(proof, verifier)
        return
    signed, _ = signatures_of(proof.note)
    checkpoint = read_text(signed)
    hashes = [seal.leaf_hash for seal in seals]
    if (checkpoint.size, checkpoint.root) != (len(hashes), root_of(hashes)):
        raise NotProvable(
            "attr_audit.seal is not the log that was signed. Run `im-attr-audit verify "
            "--checkpoints`."
        )
