"""Close a seal: recompute what is due, sign what came since, write it to every witness.

The order makes it safe to be killed anywhere. The database's copy is committed first: a checkpoint
that was signed is then never signed in another form. Witnesses get it after that, and the next run
writes what one of them lacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Engine, text

from im_attr_audit.errors import AttrAuditError, LockTimeout
from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.evidence.canonical import run_leaf
from im_attr_audit.evidence.checkpoint import Checkpoint
from im_attr_audit.evidence.merkle import leaf_hash
from im_attr_audit.evidence.note import Signer
from im_attr_audit.evidence.witnesses import Witness, WitnessFailed
from im_attr_audit.record.checks.parts import reading
from im_attr_audit.record.seals.checks import SealCheck, check_sealed_rows
from im_attr_audit.record.seals.lacking import at
from im_attr_audit.record.seals.listed import CLOCKS_US, Listing, check_listed
from im_attr_audit.record.seals.log import (
    BadWitness,
    Log,
    compare,
    extend,
    line_of_log_before,
    newest,
    read_seal,
    stored_seal,
    stored_seals,
)
from im_attr_audit.record.seals.marks import line_of_marks
from im_attr_audit.record.seals.months import line_of_months
from im_attr_audit.record.seals.rows import prepare_sealed
from im_attr_audit.record.seals.unsealed import MOST_MARKS, NewRows

#: How long one wait for running transactions takes, in seconds; what begins then waits as long.
_WAIT = 2.0
#: How long it is tried again.
_PATIENCE = 60.0
#: The rows of each seal are read again at every so many checkpoints: a day of those of 15 minutes.
SHARE = 96
#: A record of no more rows is read as a whole each time.
_SMALL = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_INSERT = """
insert into attr_audit.seal (origin, n, leaf, note, timestamp_token, last_poll_id, last_change_id,
                             last_planned_id, polls_from, marks)
values (:origin, :n, :leaf, :note, :token, :poll, :change, :planned,
        timestamptz '1970-01-01 00:00:00+00'
        + cast(:polls_from as bigint) * interval '1 microsecond',
        :marks)
"""

_NUMBERS = "select n from only attr_audit.seal where origin = :origin"
_INSERT_WITNESSED = """
insert into attr_audit.witnessed (origin, size, target) values (:origin, :size, :target)
on conflict do nothing
"""


class SealingRefused(AttrAuditError):
    """Nothing was sealed; ``findings`` say what is not as it was sealed."""

    def __init__(self, sentence: str, findings: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.findings = tuple(findings)


@dataclass(slots=True)
class Sealed:
    """What a run sealed. ``failed``: witnesses that lack it, with the reason."""

    seal: Seal
    check: SealCheck
    written: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def make_checkpoint(
    engine: Engine,
    signer: Signer,
    witnesses: Sequence[Witness],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    stamp: Callable[[bytes], bytes | None] = lambda _: None,
    at_site: Callable[[str], None] = lambda _: None,
    full: bool = False,
) -> Sealed:
    """Seal what was recorded since the last seal, and witness it.

    ``full``: read the rows of all earlier seals again, not only a share of them (`rows_due`).
    ``engine``: the sealer's. ``stamp``: asks a time-stamp authority for a token over the note.
    ``at_site``: is called where tests kill. Raises SealingRefused where what is sealed is not a
    prefix of what is stored, or no witness can be reached.
    """
    failed: list[str] = []
    with engine.begin() as lock:
        lock.execute(text("select attr_audit_internal.begin_seal()"))
        log, witnessed = _read_log(lock, engine, signer, witnesses, failed)
        at_site("log read")
        last, closed_us = _close(engine, now)
        at_site("closed")
        with reading(engine) as connection:
            before = log.seals[-1].last if log.seals else (0, 0, 0)
            new = [NewRows(*ids) for ids in zip(before, last, strict=True)]
            chosen = None if full else rows_due(log.seals, witnessed)
            check, listing = _check_and_gather(connection, engine, log, new, chosen)
            _refuse_times_to_come(max(listing.newest, *(each.newest for each in new)), closed_us)
            lines = listing.lines if log.seals else listing.lines + line_of_log_before(lock)
            seal = _next_seal(log, new, lines, closed_us, signer, stamp)
        at_site("signed")
        refused = log.append(seal, lambda: seal)
        if refused:
            raise SealingRefused(f"Nothing was sealed: {refused}.")
        _insert(lock, signer.name, seal)
        at_site("inserted")
    at_site("committed")
    sealed = Sealed(seal, check, failed=failed)
    for witness in witnesses:
        _publish(witness, log, sealed, at_site)
    at_site("published")
    _note_witnesses(engine, signer.name, sealed)
    return sealed


def _check_and_gather(
    connection: Connection,
    engine: Engine,
    log: Log,
    new: Sequence[NewRows],
    chosen: Sequence[int] | None,
) -> tuple[SealCheck, Listing]:
    """Check the sealed rows that are ``chosen`` (None: all); the unsealed ones go into ``new``.

    Raises SealingRefused where a sealed row is not what is stored.
    """
    prepare_sealed(connection)
    check = check_sealed_rows(
        connection,
        log,
        lambda kind, batch: new[kind.number].add(kind, batch),
        engine=engine,
        chosen=chosen,
    )
    listing = check_listed(
        connection,
        log.dated(),
        lambda fold: chosen is None or fold % SHARE == len(log.seals) % SHARE,
    )
    check.rows += listing.rows
    check.findings += listing.findings
    if check.findings:
        raise SealingRefused(
            "Nothing was sealed: stored rows differ from what was sealed.", check.findings
        )
    return check, listing


def _refuse_times_to_come(newest: int, closed_us: int) -> None:
    """A row that is dated later than its seal's end would be a finding for ever."""
    ahead = newest - closed_us
    if ahead > CLOCKS_US:
        raise SealingRefused(
            f"Nothing was sealed: the newest row is dated {at(newest)}, but this machine's clock "
            f"shows {at(closed_us)}. The database's clock was {ahead // 1_000_000} s ahead, or "
            f"this machine's is behind: correct it. A run after {at(newest)} seals the rows."
        )


def _refuse_clock_ahead(closed_us: int, database_us: int) -> None:
    """Rows that are recorded until this time comes would lie before their own seal, for ever."""
    ahead = closed_us - database_us
    if ahead > CLOCKS_US:
        raise SealingRefused(
            f"Nothing was sealed: this machine's clock shows {at(closed_us)}, the database's "
            f"{at(database_us)}. This machine's clock is {ahead // 1_000_000} s ahead, or the "
            "database's is behind: correct it."
        )


def rows_due(seals: Sequence[Seal], witnessed: int) -> list[int] | None:
    """The seals whose rows are read again before the next one is made; None: those of all.

    A long record cannot be read every quarter of an hour. Those of seal i are read at every
    `SHARE`-th checkpoint after it. ``witnessed``: the size of the newest checkpoint at a witness;
    its own seal, and what no witness has, are always read.
    """
    if sum(seal.rows(kind)[0] for seal in seals for kind in range(3)) <= _SMALL:
        return None
    due = set(range(len(seals) % SHARE, len(seals), SHARE))
    return sorted(due.union(range(max(witnessed - 1, 0), len(seals))))


def _read_log(
    connection: Connection,
    engine: Engine,
    signer: Signer,
    witnesses: Sequence[Witness],
    failed: list[str],
) -> tuple[Log, int]:
    """The whole log so far, and the size of its newest checkpoint at a witness.

    It is the database's copy, and what only a witness has. The newest checkpoint at a witness is
    verified, and so is each that is newer or that lists reviews or declarations. The root of the
    newest covers all leaves before it.
    """
    found = _newest(signer, witnesses, failed)
    witnessed = max((checkpoint.size for _, checkpoint, _ in found), default=0)
    log = Log(signer.verifier)
    stored = stored_seals(connection, signer.name)
    again = partial(_stored_again, engine, signer.name)
    unlike = extend(log, stored, again, trusted=witnessed - 1)
    if stored and not log.seals:
        raise SealingRefused(
            f"Nothing was sealed: the database has a log {signer.name} that this key did not sign. "
            "A new key needs a new name, and a folder of its own."
        )
    for witness, checkpoint, _ in found:
        try:
            for size in range(len(log.seals) + 1, checkpoint.size + 1):
                seal = read_seal(witness, size)
                if reason := log.append(seal, partial(read_seal, witness, size)):
                    raise SealingRefused(
                        f"Nothing was sealed: {witness}, seal {size - 1}: {reason}."
                    )
        except WitnessFailed as error:
            failed.append(str(error))
        except BadWitness as error:
            raise SealingRefused(f"Nothing was sealed: {error}.") from None
    if len(log.seals) < witnessed:
        raise SealingRefused(
            f"Nothing was sealed: a witness has the checkpoint of size {witnessed}, and the seals "
            f"before it cannot be read now ({'; '.join(failed)})."
        )
    if len(log.seals) < len(stored):
        raise SealingRefused(
            f"Nothing was sealed: the database's copy differs ({unlike}), and no witness that was "
            "named has these seals. Name the witness with the log's newest checkpoint."
        )
    if split := compare(log, [(str(witness), checkpoint) for witness, checkpoint, _ in found]):
        raise SealingRefused("Nothing was sealed: a witness holds another log.", split)
    for witness, checkpoint, seal in found:
        # No signature covers the last ids; what they exclude would never be sealed.
        if checkpoint.size <= len(log.seals) and log.seals[checkpoint.size - 1].last != seal.last:
            raise SealingRefused(
                f"Nothing was sealed: seal {seal.n} ends at other ids in attr_audit.seal than at "
                f"{witness}."
            )
    # A copy that was lost, by a restore for example, is filled up. One that differs stays.
    there = connection.execute(text(_NUMBERS), {"origin": signer.name}).scalars()
    for number in sorted(set(range(len(log.seals))).difference(there)):
        _insert(connection, signer.name, log.whole(number))
    return log, witnessed


def _newest(
    signer: Signer, witnesses: Sequence[Witness], failed: list[str]
) -> list[tuple[Witness, Checkpoint, Seal]]:
    """The newest checkpoint and seal of each witness that has one. Raises SealingRefused."""
    found = []
    for witness in witnesses:
        try:
            if (there := newest(witness, signer.verifier)) is not None:
                found.append((witness, *there))
        except WitnessFailed as error:
            failed.append(str(error))
        except BadWitness as error:
            raise SealingRefused(f"Nothing was sealed: {error}.") from None
    if len(failed) == len(witnesses):
        raise SealingRefused(
            f"Nothing was sealed: no witness can be reached ({'; '.join(failed)})."
        )
    return found


def _stored_again(engine: Engine, origin: str, n: int) -> Seal:
    with engine.connect() as connection:
        return stored_seal(connection, origin, n)


def _close(engine: Engine, now: Callable[[], datetime]) -> tuple[tuple[int, int, int], int]:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(text(f"set local lock_timeout = '{round(1000 * _WAIT)}ms'"))
                row = connection.execute(
                    text("select * from attr_audit_internal.close_seal()")
                ).one()
                closed = (now() - _EPOCH) // timedelta(microseconds=1)
                _refuse_clock_ahead(closed, (row.closed_at - _EPOCH) // timedelta(microseconds=1))
                return (row.last_poll_id, row.last_change_id, row.last_planned_id), closed
        except LockTimeout:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _next_seal(
    log: Log,
    rows: Sequence[NewRows],
    lines: tuple[str, ...],
    closed_us: int,
    signer: Signer,
    stamp: Callable[[bytes], bytes | None],
) -> Seal:
    polls, changes, planned = rows
    leaf = run_leaf(
        len(log.seals),
        closed_us,
        *(polls.root.size, polls.root.hex(), changes.root.size, changes.root.hex()),
        *(planned.root.size, planned.root.hex()),
        sorted(json.loads(run) for run in polls.runs | changes.runs | planned.runs),
    )
    root = log.root_with(leaf_hash(leaf))
    total = sum(each.root.size for each in rows)
    marks = b"".join(each.marks for each in rows) if total <= MOST_MARKS else b""
    lines += line_of_months(polls.months) + line_of_marks(marks)
    note = Checkpoint(signer.name, len(log.seals) + 1, root, lines).sign(signer)
    return Seal(
        leaf=leaf.decode(),
        note=note.decode(),
        timestamp=stamp(note),
        # No further than the rows that were seen, whatever the database's function says.
        last=(polls.last, changes.last, planned.last),
        polls_from=polls.requested_from,
        marks=marks,
    )


def _insert(connection: Connection, origin: str, seal: Seal) -> None:
    poll, change, planned = seal.last
    connection.execute(
        text(_INSERT),
        {
            "origin": origin,
            "n": seal.n,
            "leaf": seal.leaf,
            "note": seal.note,
            "token": seal.timestamp,
            "poll": poll,
            "change": change,
            "planned": planned,
            "polls_from": seal.polls_from,
            "marks": seal.marks,
        },
    )


def _note_witnesses(engine: Engine, origin: str, sealed: Sealed) -> None:
    """For the page. The files at the witnesses are what counts."""
    rows = [
        {"origin": origin, "size": sealed.seal.n + 1, "target": target} for target in sealed.written
    ]
    if rows:
        with engine.begin() as connection:
            connection.execute(text(_INSERT_WITNESSED), rows)


def _publish(witness: Witness, log: Log, sealed: Sealed, at_site: Callable[[str], None]) -> None:
    """Write what the witness lacks: also a checkpoint that an interrupted run left out."""
    try:
        there = set(witness.sizes())
        for size in range(1, len(log.seals) + 1):
            if size not in there:
                witness.write(size, log.whole(size - 1).to_json())
                at_site("witnessed")
    except WitnessFailed as error:
        if str(error) not in sealed.failed:
            sealed.failed.append(str(error))
    else:
        sealed.written.append(str(witness))
