"""One JSON file that shows an outsider one sealed row, with the public key alone. Pure.

The file holds the row, its path to a root in the leaf of its seal, the leaf, its path to the root
that the checkpoint signs, and the checkpoint. `docs/evidence.md` prints a program of about thirty
lines that checks such a file; `check_proof` does the same here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.canonical import (
    CHANGE,
    POLL,
    RUN,
    TARGET,
    NotCanonical,
    Value,
    canonical,
)
from im_attr_audit.evidence.checkpoint import open_checkpoint
from im_attr_audit.evidence.merkle import (
    BadPath,
    inclusion_proof,
    leaf_hash,
    root_from_path,
    verify_inclusion,
)
from im_attr_audit.evidence.note import BadNote, Verifier, decode_base64

FORMAT = "im-attr-audit-proof-v1"

#: What follows the type in a sealed row. ``_us``: integer microseconds since 1970 UTC. A poll's
#: head is the app's newest change when the poll was recorded, before the poll's own changes; null
#: where none is known.
POLL_COLUMNS = (
    *("poll_id", "conn_id", "region", "sdk_app_id", "api", "dag_run_id", "try_number"),
    *("requested_at_us", "responded_at_us", "outcome", "reads", "http_status", "error_code"),
    *("error_info", "answer", "vendor_date_us", "recorded_at_us", "last_requested_at_us"),
    *("names_read", "first_responded_at_us", "head_seq", "head_hash"),
)
#: The columns that the database's own chain hashes, in its order; ``prev_hash`` is null at seq 1.
CHAIN_COLUMNS = (
    *("change_id", "region", "sdk_app_id", "seq", "slot", "old_name", "new_name", "old_type"),
    *("new_type", "is_baseline", "not_before_us", "seen_at_us", "answer", "poll_id", "dag_run_id"),
    *("recorded_at_us", "prior_ok_at_us", "old_not_before_us", "old_seen_at_us", "prev_hash"),
)
CHANGE_COLUMNS = (*CHAIN_COLUMNS, "row_hash")
TARGET_COLUMNS = ("planned_id", "dag_run_id", "conn_id", "region", "sdk_app_id", "recorded_at_us")

COLUMNS: Mapping[str, tuple[str, ...]] = {
    POLL: POLL_COLUMNS,
    CHANGE: CHANGE_COLUMNS,
    TARGET: TARGET_COLUMNS,
}
#: Where the leaf has the number of rows of a type; their root follows it.
_COUNT_IN_LEAF: Mapping[str, int] = {POLL: 3, CHANGE: 5, TARGET: 7}
_LEAF_LENGTH = 10


class BadProof(AttrAuditError):
    """A proof that does not show what it claims, or is not a proof."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the file holds.

    ``row`` begins with its type and has the columns of `COLUMNS`; it is row ``row_index`` of its
    seal's tree. ``history``: for a poll, the changes of its app from seq 1 to the poll's head, each
    as the values of `CHAIN_COLUMNS`, from which the names follow; else empty. ``timestamp``: an RFC
    3161 response over the note, or None.
    """

    row: Sequence[Value]
    row_index: int
    row_path: Sequence[bytes]
    history: Sequence[Sequence[Value]]
    leaf: Sequence[Value]
    leaf_path: Sequence[bytes]
    note: bytes
    timestamp: bytes | None = None

    def to_json(self) -> str:
        """The text of the file."""
        document = {
            "format": FORMAT,
            "row": self.row,
            "row_index": self.row_index,
            "row_path": [node.hex() for node in self.row_path],
            "history": self.history,
            "leaf": self.leaf,
            "leaf_path": [node.hex() for node in self.leaf_path],
            "note": self.note.decode(),
            "timestamp": self.timestamp and base64.b64encode(self.timestamp).decode(),
        }
        lines = (f"  {json.dumps(k)}: {_one_line(v)}" for k, v in document.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a checked proof shows.

    ``row``: the values by column. ``seal``: the number of the seal, closed at ``closed_us``.
    ``size``: the number of seals that the checkpoint covers. ``names``: for a poll, slot → name at
    the poll's head, else None; None too where the poll has no head. ``found_names``: the poll is
    good and found exactly these names.
    """

    type: str
    row: Mapping[str, Value]
    seal: int
    closed_us: int
    origin: str
    size: int
    names: Mapping[int, str] | None
    found_names: bool


def make_proof(
    *,
    row: Sequence[Value],
    row_hashes: Sequence[bytes],
    row_index: int,
    leaf: Sequence[Value],
    leaf_hashes: Sequence[bytes],
    note: bytes,
    history: Sequence[Sequence[Value]] = (),
    timestamp: bytes | None = None,
) -> Proof:
    """A proof of one row of a seal.

    ``row_hashes``: the leaf hashes of all rows of this type in the seal. ``leaf_hashes``: those of
    the log's leaves that the checkpoint in ``note`` covers. Raises BadPath. The proof is not
    checked here: call `check_proof` before handing it out.
    """
    return Proof(
        row=row,
        row_index=row_index,
        row_path=inclusion_proof(row_hashes, row_index),
        history=history,
        leaf=leaf,
        leaf_path=inclusion_proof(leaf_hashes, _integer(leaf[1], "the leaf's number")),
        note=note,
        timestamp=timestamp,
    )


def read_proof(text: str) -> Proof:
    """A proof from its file's text; nothing of it is checked yet. Raises BadProof."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise BadProof(f"the file is not a proof of the format {FORMAT}")
        timestamp = document["timestamp"]
        return Proof(
            row=_array(document["row"]),
            row_index=_integer(document["row_index"], "row_index"),
            row_path=[bytes.fromhex(node) for node in _array(document["row_path"])],
            history=[_array(change) for change in _array(document["history"])],
            leaf=_array(document["leaf"]),
            leaf_path=[bytes.fromhex(node) for node in _array(document["leaf_path"])],
            note=document["note"].encode(),
            timestamp=None if timestamp is None else decode_base64(timestamp) or b"",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadProof("the file is not a proof") from None


def check_proof(proof: Proof, verifier: Verifier) -> Claim:
    """What the proof shows, if this key is trusted. Raises BadProof.

    The time stamp is not checked here (`evidence.timestamps`).
    """
    try:
        checkpoint = open_checkpoint(proof.note, verifier)
        leaf, row = proof.leaf, proof.row
        if len(leaf) != _LEAF_LENGTH or leaf[0] != RUN:
            raise BadProof("the leaf is not one of this log")
        seal = _integer(leaf[1], "the leaf's number")
        path = proof.leaf_path
        if not verify_inclusion(
            leaf_hash(canonical(leaf)), seal, checkpoint.size, path, checkpoint.root
        ):
            raise BadProof("the leaf is not in the log that the checkpoint signs")
        type_ = row[0] if row and isinstance(row[0], str) else ""
        columns = COLUMNS.get(type_)
        if columns is None or len(row) != 1 + len(columns):
            raise BadProof("the row is not one of a known type")
        count = _integer(leaf[_COUNT_IN_LEAF[type_]], "a count in the leaf")
        root = root_from_path(leaf_hash(canonical(row)), proof.row_index, count, proof.row_path)
        if root.hex() != leaf[_COUNT_IN_LEAF[type_] + 1]:
            raise BadProof("the row is not in this seal")
    except (BadNote, BadPath, NotCanonical) as error:
        raise BadProof(str(error)) from None
    values = dict(zip(columns, row[1:], strict=True))
    names = _check_values(type_, values, proof.history)
    return Claim(
        type=type_,
        row=values,
        seal=seal,
        closed_us=_integer(leaf[2], "the time of the seal"),
        origin=checkpoint.origin,
        size=checkpoint.size,
        names=names,
        # A good poll that has names_read found a difference, or another poll was under way.
        found_names=names is not None and (values["outcome"], values["names_read"]) == ("ok", None),
    )


def chain_hash(change: Sequence[Value]) -> str:
    """The ``row_hash`` of the values of `CHAIN_COLUMNS`: of their text as PostgreSQL's jsonb."""
    return sha256(json.dumps(list(change), ensure_ascii=False).encode()).hexdigest()


def _check_values(
    type_: str, values: Mapping[str, Value], history: Sequence[Sequence[Value]]
) -> Mapping[int, str] | None:
    if type_ == POLL:
        return _names(values, history)
    if history:
        raise BadProof("only the proof of a poll has a history")
    if type_ == CHANGE:
        chained = [values[column] for column in CHAIN_COLUMNS]
        if chain_hash(chained) != values["row_hash"]:
            raise BadProof("the change's own hash is not that of its values")
    return None


def _names(poll: Mapping[str, Value], history: Sequence[Sequence[Value]]) -> dict[int, str] | None:
    """The names that the changes lead to, once they are shown to end at the poll's head."""
    head: str | None = None
    names: dict[int, str] = {}
    for seq, change in enumerate(history, 1):
        values = dict(zip(CHAIN_COLUMNS, change, strict=False))
        place = values["region"], values["sdk_app_id"], values["seq"], values["prev_hash"]
        expected = poll["region"], poll["sdk_app_id"], seq, head
        if len(change) != len(CHAIN_COLUMNS) or place != expected:
            raise BadProof(f"change {seq} of the history does not follow the one before")
        head = chain_hash(change)
        slot, name = _integer(values["slot"], "a slot"), values["new_name"]
        if isinstance(name, str):
            names[slot] = name
        else:
            names.pop(slot, None)
    if (len(history) or None, head) != (poll["head_seq"], poll["head_hash"]):
        raise BadProof("the history does not end at the poll's head")
    return names if history else None


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _array(value: Any) -> Any:
    if not isinstance(value, list):
        raise BadProof("the file is not a proof")
    return value


def _integer(value: object, what: str) -> int:
    if type(value) is not int:
        raise BadProof(f"{what} is not an integer")
    return value
