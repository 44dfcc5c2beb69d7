"""The marks of a seal are not in its leaf, so its checkpoint signs their hash in a line."""

from __future__ import annotations

import json
from hashlib import sha256

from im_attr_audit.evidence.canonical import MARKED, canonical
from im_attr_audit.evidence.checkpoint import Checkpoint


def hash_of_marks(marks: bytes) -> str:
    """Their SHA-256 as hex; empty where there are none."""
    return sha256(marks).hexdigest() if marks else ""


def line_of_marks(marks: bytes) -> tuple[str, ...]:
    """The line by which a checkpoint signs these marks; none where there are none."""
    return (canonical([MARKED, hash_of_marks(marks)]).decode(),) if marks else ()


def signed_hash(checkpoint: Checkpoint) -> str | None:
    """The hash that the checkpoint signs; None: there are no marks, or an earlier version made it.

    Earlier versions kept marks and signed nothing about them.
    """
    for line in checkpoint.extensions:
        type_, *values = json.loads(line)
        if type_ == MARKED:
            return str(values[0])
    return None
