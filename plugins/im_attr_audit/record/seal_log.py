"""The log of seals: read from witnesses and from the database's copy, and compared.

A checkpoint that is signed with the key is evidence, wherever it is kept. Leaves are believed only
where the root over them is the one that a checkpoint signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.bundle import BadBundle, Seal, read_bundle
from im_attr_audit.evidence.checkpoint import Checkpoint, open_checkpoint
from im_attr_audit.evidence.merkle import Tree
from im_attr_audit.evidence.note import BadNote, Verifier
from im_attr_audit.evidence.witnesses import Witness

_SEALS = """
select n, leaf, note, timestamp_token, last_poll_id, last_change_id, last_planned_id, polls_from,
       case when :marks then marks else '' end as marks
  from only attr_audit.seal
 where origin = :origin
 order by n
"""
_NEWEST_LOG = "select origin from only attr_audit.seal order by sealed_at desc, n desc limit 1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Log:
    """Seals in order, each proven by its checkpoint. ``roots``: of the first 0, 1, 2 … leaves."""

    verifier: Verifier
    seals: list[Seal] = field(default_factory=list)
    _tree: Tree = field(default_factory=Tree)
    roots: list[bytes] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roots.append(self._tree.root())

    def append(self, seal: Seal) -> str | None:
        """Add the next seal. Gives the reason where it cannot follow, and adds nothing."""
        try:
            checkpoint = open_checkpoint(seal.note.encode(), self.verifier)
            n, closed = seal.n, seal.closed_us
        except (BadNote, BadBundle, UnicodeEncodeError) as error:
            return str(error)
        before = self.seals[-1] if self.seals else None
        if n != len(self.seals) or checkpoint.size != n + 1:
            return f"it is seal {n} with a checkpoint of size {checkpoint.size}"
        if self.root_with(seal.leaf_hash) != checkpoint.root:
            return "its leaf does not lead to the root that its checkpoint signs"
        if before is not None and (
            closed <= before.closed_us
            or any(b > now for b, now in zip(before.last, seal.last, strict=True))
        ):
            return "it does not follow the seal before it"
        self._tree.append(seal.leaf_hash)
        self.seals.append(seal)
        self.checkpoints.append(checkpoint)
        self.roots.append(self._tree.root())
        return None

    def dated(self) -> list[tuple[Checkpoint, int]]:
        """Each checkpoint with the time at which its seal closed."""
        return [(c, s.closed_us) for c, s in zip(self.checkpoints, self.seals, strict=True)]

    def root_with(self, leaf: bytes) -> bytes:
        """The root that the log would have with one more leaf hash."""
        tree = deepcopy(self._tree)
        tree.append(leaf)
        return tree.root()


class BadWitness(AttrAuditError):
    """A witness whose checkpoint is not of this log."""


def newest_log(connection: Connection) -> str:
    """The origin of the log that was sealed last; empty where nothing was."""
    return connection.execute(text(_NEWEST_LOG)).scalar_one_or_none() or ""


def stored_seals(connection: Connection, origin: str, *, marks: bool = True) -> list[Seal]:
    """The database's copy of a log, unchecked; ``marks``: with those, which are most of it."""
    return [
        Seal(
            leaf=row.leaf,
            note=row.note,
            timestamp=row.timestamp_token and bytes(row.timestamp_token),
            last=(row.last_poll_id, row.last_change_id, row.last_planned_id),
            polls_from=row.polls_from and (row.polls_from - _EPOCH) // timedelta(microseconds=1),
            marks=bytes(row.marks),
        )
        for row in connection.execute(text(_SEALS), {"origin": origin, "marks": marks})
    ]


def extend(log: Log, seals: Iterable[Seal]) -> str | None:
    """Add seals from the log's end on, as far as they follow; gives why the next one does not."""
    for number, seal in enumerate(seals):
        if number >= len(log.seals) and (reason := log.append(seal)):
            return f"seal {number}: {reason}"
    return None


def read_seal(witness: Witness, size: int) -> Seal:
    """One file of a witness. Raises BadWitness where it is not a seal, and WitnessFailed."""
    try:
        return read_bundle(witness.read(size))
    except BadBundle as error:
        raise BadWitness(f"{witness}: the checkpoint of size {size}: {error}") from None


def newest(witness: Witness, verifier: Verifier) -> Checkpoint | None:
    """The largest checkpoint there, its signature verified. Raises BadWitness, WitnessFailed."""
    sizes = witness.sizes()
    if not sizes:
        return None
    try:
        return open_checkpoint(read_seal(witness, sizes[-1]).note.encode(), verifier)
    except BadNote as error:
        raise BadWitness(f"{witness}: the checkpoint of size {sizes[-1]}: {error}") from None


def compare(log: Log, checkpoints: Sequence[tuple[str, Checkpoint]]) -> list[str]:
    """What of these checkpoints is not of the log: another root at the same size."""
    return [
        f"{where} holds a checkpoint of size {checkpoint.size} with another root or other lines: "
        "two logs were signed with this key (split view)"
        for where, checkpoint in checkpoints
        if 0 < checkpoint.size < len(log.roots)
        and log.checkpoints[checkpoint.size - 1] != checkpoint
    ]
