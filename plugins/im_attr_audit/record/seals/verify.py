"""`verify --checkpoints`: the stored record against checkpoints that are kept outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TypeAlias

from sqlalchemy import Connection, Engine, text

from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.evidence.checkpoint import Checkpoint, open_checkpoint
from im_attr_audit.evidence.note import BadNote, Verifier
from im_attr_audit.evidence.witnesses import Witness
from im_attr_audit.record.checks.parts import reading
from im_attr_audit.record.seals.checks import SealCheck, check_sealed_rows
from im_attr_audit.record.seals.lacking import at
from im_attr_audit.record.seals.left_out import notes_of_left_out
from im_attr_audit.record.seals.listed import check_listed
from im_attr_audit.record.seals.log import (
    BadWitness,
    Log,
    compare,
    compare_log_before,
    extend,
    read_seal,
    stored_seal,
    stored_seals,
)
from im_attr_audit.record.seals.rows import prepare_sealed

# Its files are being written at this moment, or never will be.
_IS_NEW = """
select exists (select from only attr_audit.seal
                where origin = :origin and sealed_at > now() - interval '1 minute')
"""

#: Seals without a run are noted where they last longer than this, as in coverage_gaps().
_IDLE_US = 60 * 60 * 1_000_000

#: A signed checkpoint that somebody kept, with where it is.
KeptNote: TypeAlias = tuple[str, bytes]


def check_seals(
    engine: Engine,
    witnesses: Sequence[Witness],
    verifier: Verifier,
    kept: Sequence[KeptNote] = (),
    *,
    patience: float = 0,
) -> tuple[Log, SealCheck]:
    """Compare the record with the checkpoints at these witnesses. Raises WitnessFailed, NotATable.

    All checkpoints are of one log, each a prefix of the next; the stored rows are those that were
    sealed; rows that no seal covers are newer than the last one. ``kept``: checkpoints that others
    were given, which must be of the same log. ``patience``: so many seconds a witness may take to
    get the file of a seal of the last minute, which another process may be writing.
    """
    with reading(engine) as connection:
        return check_seals_on(connection, witnesses, verifier, engine, kept, patience)


def check_seals_on(
    connection: Connection,
    witnesses: Sequence[Witness],
    verifier: Verifier,
    engine: Engine | None = None,
    kept: Sequence[KeptNote] = (),
    patience: float = 0,
) -> tuple[Log, SealCheck]:
    """The same in a transaction that is open; without an engine, in this process alone."""
    log = Log(verifier)
    findings: list[str] = []
    known: list[tuple[str, Checkpoint]] = []
    there = [witness.sizes() for witness in witnesses]
    for witness, sizes in zip(witnesses, there, strict=True):
        findings += _read(witness, sizes, 0, log, known)
    # Only now: rows that are recorded and sealed from here on are in no file that was read.
    prepare_sealed(connection)
    stored = stored_seals(connection, verifier.name)
    if len(stored) > len(log.seals):
        given = {"origin": verifier.name}
        if connection.execute(text(_IS_NEW), given).scalar_one():
            _wait_for(witnesses, len(stored), patience)
        for witness, sizes in zip(witnesses, there, strict=True):
            last = max(sizes, default=0)
            newer = [size for size in witness.sizes() if last < size <= len(stored)]
            findings += _read(witness, newer, last, log, known)
    findings += _read_kept(kept, log, known)
    findings += _compare_copy(stored, log, partial(stored_seal, connection, verifier.name))
    findings += compare(log, known)
    notes, unlike = compare_log_before(connection, log)
    findings += unlike
    found = check_sealed_rows(connection, log, engine=engine)
    found.notes += [*notes_of_left_out(connection), *_without_runs(log.seals), *notes]
    listing = check_listed(connection, log.dated())
    found.rows += listing.rows
    found.findings += listing.findings
    found.findings[:0] = findings
    if not log.seals:
        found.findings.append("there is no checkpoint that this key has signed")
    return log, found


def _wait_for(witnesses: Sequence[Witness], size: int, seconds: float) -> None:
    """Wait until each witness has the checkpoint of that size, or so long.

    A folder, a store or an https endpoint does not announce a new file: it has to be read again.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(size not in each.sizes() for each in witnesses):
        time.sleep(0.2)


def _read(
    witness: Witness,
    sizes: Sequence[int],
    after: int,
    log: Log,
    known: list[tuple[str, Checkpoint]],
) -> list[str]:
    """Extend the log by these files of a witness, those after a size; gives what is wrong."""
    findings: list[str] = []
    beyond = [size for size in sizes if size > after]
    last = beyond[-1] if beyond else after
    # By counting: a stray file can have any number up to a million million.
    if missing := last - after - len(beyond):
        first = next(n for n, size in zip(count(after + 1), beyond, strict=False) if n != size)
        findings.append(f"{witness} lacks {missing} checkpoints, that of size {first} first")
    for size in sizes:
        try:
            seal = read_seal(witness, size)
            known.append((str(witness), open_checkpoint(seal.note.encode(), log.verifier)))
        except (BadWitness, BadNote) as error:
            findings.append(f"{witness}: the checkpoint of size {size}: {error}")
            continue
        if known[-1][1].size != size:
            findings.append(
                f"{witness}: the file of size {size} holds the checkpoint of size "
                f"{known[-1][1].size}"
            )
            continue
        again = partial(read_seal, witness, size)
        reason = log.append(seal, again) if size == len(log.seals) + 1 else None
        if reason is None and size <= len(log.seals):
            reason = log.offer(size - 1, seal, again)
        if reason:
            findings.append(f"{witness}: the checkpoint of size {size}: {reason}")
    return findings


def _read_kept(
    kept: Sequence[KeptNote], log: Log, known: list[tuple[str, Checkpoint]]
) -> list[str]:
    findings: list[str] = []
    for where, note in kept:
        try:
            checkpoint = open_checkpoint(note, log.verifier)
        except BadNote as error:
            findings.append(f"{where}: the checkpoint of size unknown: {error}")
            continue
        known.append((where, checkpoint))
        if checkpoint.size > len(log.seals):
            findings.append(
                f"the witness ends at size {len(log.seals)}, and {where} is a signed checkpoint of "
                f"size {checkpoint.size}: files are missing at the witness"
            )
    return findings


def _without_runs(seals: Sequence[Seal]) -> list[str]:
    """Notes about stretches of seals in which no run recorded anything."""
    notes: list[str] = []
    first = 0
    for number, seal in enumerate([*seals, None]):
        if seal is not None and not seal.values[-1]:
            continue
        if 0 < first < number:
            since, until = seals[first - 1].closed_us, seals[number - 1].closed_us
            if until - since > _IDLE_US:
                seals_ = f"seals {first} to {number - 1}" if first < number - 1 else f"seal {first}"
                notes.append(
                    f"no run recorded anything between {at(since)} and {at(until)} ({seals_})"
                )
        first = number + 1
    return notes


def _compare_copy(stored: Sequence[Seal], log: Log, again: Callable[[int], Seal]) -> list[str]:
    """The database's copy may lag behind the witnesses; where it is ahead, they lost something."""
    findings: list[str] = []
    newer = []
    for place, seal in enumerate(stored):
        try:
            checkpoint = open_checkpoint(seal.note.encode(), log.verifier)
        except BadNote as error:
            findings.append(f"attr_audit.seal: row {place}: {error}")
            break
        if checkpoint.size > len(log.seals):
            newer.append(checkpoint.size)
        elif log.checkpoints[checkpoint.size - 1] != checkpoint:
            findings += compare(log, [("attr_audit.seal", checkpoint)])
            break
        elif seal.leaf != log.seals[checkpoint.size - 1].leaf:
            findings.append(f"attr_audit.seal: row {place} is not the seal that was signed")
            break
    if newer:
        findings.append(
            f"the witness ends at size {len(log.seals)}, and the database has a signed checkpoint "
            f"of size {newer[-1]}: files are missing at the witness, or it has not been written to"
        )
        extend(log, stored, again)
    return findings
