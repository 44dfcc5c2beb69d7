"""`verify --checkpoints`: the stored record against checkpoints that are kept outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection, Engine, text

from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.evidence.checkpoint import Checkpoint, open_checkpoint
from im_attr_audit.evidence.note import BadNote, Verifier
from im_attr_audit.evidence.witnesses import Witness
from im_attr_audit.record.listed import check_listed
from im_attr_audit.record.parts import reading
from im_attr_audit.record.seal_checks import SealCheck, check_sealed_rows
from im_attr_audit.record.seal_log import (
    BadWitness,
    Log,
    compare,
    extend,
    read_seal,
    stored_seal,
    stored_seals,
)
from im_attr_audit.record.sealed_rows import prepare_sealed

# A connection that was planned in a run and has no poll in it. The run is over where a later run
# has planned its own targets.
_LEFT_OUT = """
select p.dag_run_id, t.conn_id
  from only attr_audit.planned as p
 cross join lateral unnest(p.conn_ids) as t (conn_id)
 where exists (select from only attr_audit.planned as l where l.planned_id > p.planned_id
                  and l.dag_run_id <> p.dag_run_id)
   and not exists (select from attr_audit.poll as q
                    where q.dag_run_id = p.dag_run_id and q.conn_id = t.conn_id)
 order by p.planned_id desc, t.conn_id
 limit 21
"""


def check_seals(
    engine: Engine, witnesses: Sequence[Witness], verifier: Verifier
) -> tuple[Log, SealCheck]:
    """Compare the record with the checkpoints at these witnesses. Raises WitnessFailed, NotATable.

    All checkpoints are of one log, each a prefix of the next; the stored rows are those that were
    sealed; rows that no seal covers are newer than the last one.
    """
    with reading(engine) as connection:
        return check_seals_on(connection, witnesses, verifier, engine)


def check_seals_on(
    connection: Connection,
    witnesses: Sequence[Witness],
    verifier: Verifier,
    engine: Engine | None = None,
) -> tuple[Log, SealCheck]:
    """The same in a transaction that is open; without an engine, in this process alone."""
    log = Log(verifier)
    findings: list[str] = []
    known: list[tuple[str, Checkpoint]] = []
    for witness in witnesses:
        findings += _read(witness, log, known)
    prepare_sealed(connection)
    findings += _compare_copy(
        stored_seals(connection, verifier.name),
        log,
        partial(stored_seal, connection, verifier.name),
    )
    findings += compare(log, known)
    found = check_sealed_rows(connection, log, engine=engine)
    for run, conn_id in connection.execute(text(_LEFT_OUT)).tuples():
        found.notes.append(f"run {run} planned {conn_id} and recorded no poll of it")
    listing = check_listed(connection, log.dated())
    found.rows += listing.rows
    found.findings += listing.findings
    found.findings[:0] = findings
    if not log.seals:
        found.findings.append("there is no checkpoint that this key has signed")
    return log, found


def _read(witness: Witness, log: Log, known: list[tuple[str, Checkpoint]]) -> list[str]:
    """Extend the log by what this witness has; gives what is wrong with its files."""
    findings: list[str] = []
    sizes = witness.sizes()
    last = sizes[-1] if sizes else 0
    missing = sorted(set(range(1, last + 1)).difference(sizes))
    if missing:
        findings.append(
            f"{witness} lacks {len(missing)} checkpoints, that of size {missing[0]} first"
        )
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
        elif size == len(log.seals) + 1 and (
            reason := log.append(seal, partial(read_seal, witness, size))
        ):
            findings.append(f"{witness}: the checkpoint of size {size}: {reason}")
    return findings


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
