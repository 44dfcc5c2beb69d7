"""What a witness keeps of one seal: leaf, signed checkpoint, and what helps to find a forged row.

One file per checkpoint, written once: `000000000012.json` holds the checkpoint of 12 leaves and the
last of them. The signature covers the leaf and, since marks show what is left of a folded seal, a
hash of the marks. The rest (last ids, time) only helps to name what is not as it was sealed: where
it was edited, the rows no longer give the roots in the leaf.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from operator import mul

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.canonical import RUN, Value
from im_attr_audit.evidence.merkle import leaf_hash

FORMAT = "im-attr-audit-seal-v1"
#: Bytes of each row's leaf hash that are kept: of a poll, a change, a planned target. Where folded
#: polls are gone, the others are compared by their marks alone, which must not be found by trying.
MARKS = (16, 4, 4)
#: Those of earlier versions.
_EARLIER_MARKS = (4, 4, 4)


class BadBundle(AttrAuditError):
    """A file that is not one of a seal."""


@dataclass(frozen=True)
class Seal:
    """One seal. ``leaf``: its canonical bytes as text. ``last``: the last poll_id, change_id and
    planned_id in it. ``marks``: the beginnings of the rows' leaf hashes, polls first, then changes,
    then planned targets; empty where there are too many. ``polls_from``: the earliest requested_at
    of its polls in microseconds.
    """

    leaf: str
    note: str
    timestamp: bytes | None
    last: tuple[int, int, int]
    polls_from: int | None
    marks: bytes = field(compare=False)

    @cached_property
    def values(self) -> list[Value]:
        """The leaf's values. Raises BadBundle."""
        try:
            values = json.loads(self.leaf)
            kinds = [type(value) for value in values]
        except (ValueError, TypeError, RecursionError):
            raise BadBundle("its leaf is not JSON") from None
        form = [str, int, int, int, str, int, str, int, str, list]
        if kinds != form or values[0] != RUN:
            raise BadBundle("its leaf is not the leaf of a seal")
        return list(values)

    @property
    def n(self) -> int:
        """The seal's index in the log."""
        return int(str(self.values[1]))

    @property
    def closed_us(self) -> int:
        """When it closed, in microseconds since 1970 UTC."""
        return int(str(self.values[2]))

    def rows(self, kind: int) -> tuple[int, str]:
        """How many polls (0), changes (1) or planned targets (2) it has, and their root."""
        return int(str(self.values[3 + 2 * kind])), str(self.values[4 + 2 * kind])

    def marks_of(self, kind: int) -> list[bytes] | None:
        """The marks of its polls, changes or planned targets; None: they were not kept."""
        counts = [self.rows(each)[0] for each in range(3)]
        for sizes in (MARKS, _EARLIER_MARKS):
            ends = list(accumulate(map(mul, sizes, counts), initial=0))
            if len(self.marks) == ends[-1]:
                size = sizes[kind]
                return [
                    self.marks[at : at + size] for at in range(ends[kind], ends[kind + 1], size)
                ]
        return None

    @property
    def leaf_hash(self) -> bytes:
        """The hash of the leaf in the log's tree."""
        return leaf_hash(self.leaf.encode())

    def to_json(self) -> bytes:
        """The file."""
        document = {
            "format": FORMAT,
            "leaf": self.leaf,
            "note": self.note,
            "timestamp": self.timestamp and base64.b64encode(self.timestamp).decode(),
            "last": list(self.last),
            "polls_from": self.polls_from,
            "marks": base64.b64encode(self.marks).decode(),
        }
        return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def read_bundle(content: bytes) -> Seal:
    """A seal from its file; no signature is checked. Raises BadBundle."""
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise BadBundle(f"it is not of the format {FORMAT}")
        polls, changes, planned = map(int, found["last"])
        seal = Seal(
            leaf=str(found["leaf"]),
            note=str(found["note"]),
            timestamp=found["timestamp"] and base64.b64decode(found["timestamp"]),
            last=(polls, changes, planned),
            polls_from=None if found["polls_from"] is None else int(found["polls_from"]),
            marks=base64.b64decode(found["marks"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadBundle("it is not a seal's file") from None
    _ = seal.values
    return seal
