"""The log of seals: read from witnesses and from the database's copy, and compared.

A checkpoint that is signed with the key is evidence, wherever it is kept. Leaves are believed only
where the root over them is the one that a checkpoint signs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, text

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.bundle import BadBundle, Seal, read_bundle
from im_attr_audit.evidence.canonical import COVERAGE, DECLARATION, FOLLOWS, REVIEW, canonical
from im_attr_audit.evidence.checkpoint import Checkpoint, open_checkpoint, read_text
from im_attr_audit.evidence.merkle import Tree
from im_attr_audit.evidence.note import BadNote, Verifier, signatures_of
from im_attr_audit.evidence.witnesses import Witness
from im_attr_audit.record.seals.marks import hash_of_marks, signed_hash

_SEALS = """
select n, leaf, note, timestamp_token, last_poll_id, last_change_id, last_planned_id,
       case when polls_from between timestamptz '0002-01-01' and timestamptz '9999-01-01'
            then polls_from end as polls_from, -- a datetime of Python has no other year
       case when :marks then marks else '' end as marks
  from only attr_audit.seal
 where origin = :origin and (n = :n or :n is null)
 order by n
"""
_NEWEST_LOG = "select origin from only attr_audit.seal order by sealed_at desc, n desc limit 1"
_NEWEST_NOTE = "select note from only attr_audit.seal order by sealed_at desc, n desc limit 1"
_NOTE = "select note from only attr_audit.seal where origin = :origin and n = :n"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LISTS = tuple(f'["{type_}"' for type_ in (REVIEW, DECLARATION, COVERAGE, FOLLOWS))


@dataclass(slots=True)
class Log:
    """Seals in order, each proven by its checkpoint. ``roots``: of the first 0, 1, 2 … leaves.

    Marks are most of a seal and are seldom needed, so the log keeps none: `whole` reads them again.
    """

    verifier: Verifier
    seals: list[Seal] = field(default_factory=list)
    _tree: Tree = field(default_factory=Tree)
    roots: list[bytes] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    #: How each seal is read again, and the hash of the marks that this gives, as far as known.
    _again: list[Callable[[], Seal]] = field(default_factory=list)
    _marks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roots.append(self._tree.root())

    def append(self, seal: Seal, again: Callable[[], Seal], *, signed: bool = True) -> str | None:
        """Add the next seal. Gives the reason where it cannot follow, and adds nothing.

        ``again``: reads the seal with its marks. ``signed``: verify the signature; else a newer
        checkpoint, whose root covers this leaf, must be verified.
        """
        try:
            checkpoint = self._checkpoint(seal.note.encode(), signed)
            n, closed = seal.n, seal.closed_us
        except (BadNote, BadBundle, UnicodeEncodeError) as error:
            return str(error)
        before = self.seals[-1] if self.seals else None
        if n != len(self.seals) or checkpoint.size != n + 1:
            return f"it is seal {n} with a checkpoint of size {checkpoint.size}"
        leaf = seal.leaf_hash
        if self.root_with(leaf) != checkpoint.root:
            return "its leaf does not lead to the root that its checkpoint signs"
        if before is not None and (
            closed <= before.closed_us
            or any(b > now for b, now in zip(before.last, seal.last, strict=True))
        ):
            return "it does not follow the seal before it"
        self._tree.append(leaf)
        self.seals.append(replace(seal, marks=b"") if seal.marks else seal)
        self.checkpoints.append(checkpoint)
        self.roots.append(checkpoint.root)
        self._again.append(again)
        self._marks.append(hash_of_marks(seal.marks))
        return None

    def offer(self, number: int, seal: Seal, again: Callable[[], Seal]) -> str | None:
        """Another file of a seal: its marks are used where the log knows none that are right.

        Gives what is wrong with the marks. ``again``: reads the file.
        """
        if seal.leaf != self.seals[number].leaf:
            return None
        own, known = hash_of_marks(seal.marks), self._marks[number]
        signed = signed_hash(self.checkpoints[number])
        if signed is not None and own != signed:
            return "its marks are missing or edited: its checkpoint signs others"
        if own == known:
            return None
        if signed is not None or not known:
            self._again[number], self._marks[number] = again, own
        if signed is not None:
            return None
        return "the files of two witnesses have different marks, or one has none"

    def whole(self, number: int) -> Seal:
        """A seal with its marks, without any that were edited. Raises BadWitness, WitnessFailed."""
        seal = self._again[number]()
        if seal.leaf != self.seals[number].leaf:
            return self.seals[number]
        signed = signed_hash(self.checkpoints[number])
        is_edited = signed is not None and hash_of_marks(seal.marks) != signed
        return replace(seal, marks=b"") if is_edited else seal

    def signed(self, number: int) -> Checkpoint:
        """A seal's checkpoint, its signature verified. Raises BadNote."""
        return open_checkpoint(self.seals[number].note.encode(), self.verifier)

    def _checkpoint(self, note: bytes, signed: bool) -> Checkpoint:
        if not signed:
            checkpoint = read_text(signatures_of(note)[0])
            # The tree does not cover what a checkpoint lists: its signature alone does.
            lists = any(line.startswith(_LISTS) for line in checkpoint.extensions)
            if not lists and checkpoint.origin == self.verifier.name:
                return checkpoint
        return open_checkpoint(note, self.verifier)

    def dated(self) -> list[tuple[Checkpoint, int]]:
        """Each checkpoint with the time at which its seal closed."""
        return [(c, s.closed_us) for c, s in zip(self.checkpoints, self.seals, strict=True)]

    def root_with(self, leaf: bytes) -> bytes:
        """The root that the log would have with one more leaf hash."""
        return self._tree.root_with(leaf)


class BadWitness(AttrAuditError):
    """A witness whose checkpoint is not of this log."""


def newest_log(connection: Connection) -> str:
    """The origin of the log that was sealed last; empty where nothing was."""
    return connection.execute(text(_NEWEST_LOG)).scalar_one_or_none() or ""


def line_of_log_before(connection: Connection) -> tuple[str, ...]:
    """The line by which a new log's first checkpoint says which log was sealed here before it.

    None where there is none, or where the newest note of the copy is not a checkpoint.
    """
    note = connection.execute(text(_NEWEST_NOTE)).scalar_one_or_none()
    try:
        before = read_text(signatures_of(note.encode())[0]) if note else None
    except (BadNote, UnicodeEncodeError):
        before = None
    if before is None:
        return ()
    line = canonical([FOLLOWS, before.origin, before.size, before.root.hex()])
    return (line.decode(),)


def compare_log_before(connection: Connection, log: Log) -> tuple[list[str], list[str]]:
    """A note about the log that this one follows, and a finding where the copy has another one."""
    notes, findings = [], []
    for line in log.checkpoints[0].extensions if log.checkpoints else ():
        type_, *values = json.loads(line)
        if type_ != FOLLOWS:
            continue
        origin, size, root = str(values[0]), int(values[1]), str(values[2])
        notes.append(f"this log follows the log {origin}, which had {size} seals when it began")
        given = {"origin": origin, "n": size - 1}
        note = connection.execute(text(_NOTE), given).scalar_one_or_none()
        try:
            copied = read_text(signatures_of(note.encode())[0]).root.hex() if note else root
        except (BadNote, UnicodeEncodeError):
            copied = ""
        if copied != root:
            findings.append(
                f"attr_audit.seal: row {size - 1} of {origin} does not lead to the root that this "
                "log follows"
            )
    return notes, findings


def stored_seals(connection: Connection, origin: str) -> list[Seal]:
    """The database's copy of a log, unchecked and without marks, which are most of it."""
    return _stored(connection, origin, None)


def stored_seal(connection: Connection, origin: str, n: int) -> Seal:
    """One seal of the copy, unchecked, with its marks. Raises BadWitness where it is gone."""
    for seal in _stored(connection, origin, n):
        return seal
    raise BadWitness(f"attr_audit.seal has no seal {n} of {origin} any more")


def _stored(connection: Connection, origin: str, n: int | None) -> list[Seal]:
    return [
        Seal(
            leaf=row.leaf,
            note=row.note,
            timestamp=row.timestamp_token and bytes(row.timestamp_token),
            last=(row.last_poll_id, row.last_change_id, row.last_planned_id),
            polls_from=row.polls_from and (row.polls_from - _EPOCH) // timedelta(microseconds=1),
            marks=bytes(row.marks),
        )
        for row in connection.execute(
            text(_SEALS), {"origin": origin, "n": n, "marks": n is not None}
        )
    ]


def extend(
    log: Log, seals: Iterable[Seal], again: Callable[[int], Seal], *, trusted: int = 0
) -> str | None:
    """Add seals from the log's end on, as far as they follow; gives why the next one does not.

    ``again``: reads a seal by its number, with its marks. ``trusted``: of so many first seals the
    signatures are not verified; see `Log.append`.
    """
    for number, seal in enumerate(seals):
        if number >= len(log.seals) and (
            reason := log.append(seal, partial(again, number), signed=number >= trusted)
        ):
            return f"seal {number}: {reason}"
    return None


def read_seal(witness: Witness, size: int) -> Seal:
    """One file of a witness. Raises BadWitness where it is not a seal, and WitnessFailed."""
    try:
        return read_bundle(witness.read(size))
    except BadBundle as error:
        raise BadWitness(f"{witness}: the checkpoint of size {size}: {error}") from None


def newest(witness: Witness, verifier: Verifier) -> tuple[Checkpoint, Seal] | None:
    """The largest checkpoint there with its seal, its signature verified.

    Raises BadWitness, WitnessFailed.
    """
    sizes = witness.sizes()
    if not sizes:
        return None
    try:
        seal = read_seal(witness, sizes[-1])
        return open_checkpoint(seal.note.encode(), verifier), seal
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
