"""Checkpoints: how long a log is and its root, as https://c2sp.org/tlog-checkpoint specifies. Pure.

The text of a checkpoint is at least three lines: the origin, the number of leaves, and the root in
base64. It is signed as a note (`evidence.note`).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from im_attr_audit.evidence.note import BadNote, Signer, Verifier, decode_base64, open_note


class BadCheckpoint(BadNote):
    """A note whose text is not a checkpoint, or is one of another log."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: ``size`` leaves with this 32-byte ``root``.

    ``origin`` names the log and equals the name of its key. ``extensions`` are further lines; the
    specification advises against them, because the tree does not cover them.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The lines that are signed. Raises BadCheckpoint where a value does not fit its line."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        lines += self.extensions
        text = "".join(line + "\n" for line in lines)
        if read_text(text) != self:
            raise BadCheckpoint("an origin or extension line is empty or contains a newline")
        return text

    def sign(self, signer: Signer) -> bytes:
        """The signed note. Raises BadCheckpoint where the key has another name than the log."""
        if signer.name != self.origin:
            raise BadCheckpoint(f"the key of {signer.name} does not sign for {self.origin}")
        return signer.sign(self.text()).encode()


def read_text(text: str) -> Checkpoint:
    """A checkpoint from its lines; no signature is checked. Raises BadCheckpoint."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise BadCheckpoint("a checkpoint has at least three lines, none of them empty")
    origin, size, encoded, *extensions = lines
    root = decode_base64(encoded)
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size, re.ASCII):
        raise BadCheckpoint("the second line is not a number of leaves")
    if root is None or len(root) != 32:
        raise BadCheckpoint("the third line is not a root (32 bytes in base64)")
    return Checkpoint(origin, int(size), root, tuple(extensions))


def open_checkpoint(note: bytes, verifier: Verifier) -> Checkpoint:
    """The checkpoint of a signed note, once its signature is verified.

    Raises BadNote; BadCheckpoint where the key's name is not the checkpoint's origin.
    """
    checkpoint = read_text(open_note(note, verifier))
    if checkpoint.origin != verifier.name:
        raise BadCheckpoint(f"the checkpoint is of {checkpoint.origin}, not of {verifier.name}")
    return checkpoint
