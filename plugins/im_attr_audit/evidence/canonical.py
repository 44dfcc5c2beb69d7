"""The one byte string that a sealed row or leaf is hashed as. Pure.

An array is written as JSON without spaces, in UTF-8, with no escape that JSON does not require:
``["run-v1",0,null,true,"é"]``. Two arrays are equal exactly where their bytes are. Every array
begins with its type and version, so a leaf can never be read as a row, nor a poll as a change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeAlias

from im_attr_audit.errors import AttrAuditError

#: A value of a canonical array: no float (its text differs by language) and no object (its order
#: does). Times are integers, microseconds since 1970 UTC; hashes are lower-case hex.
Value: TypeAlias = "str | int | bool | Sequence[Value] | None"

#: The types that a row or leaf begins with.
RUN, POLL, CHANGE, TARGET = "run-v1", "poll-v1", "change-v1", "target-v1"
#: What a line of a checkpoint begins with.
LISTED, REVIEW, DECLARATION = "listed-v1", "review-v1", "declaration-v1"
COVERAGE, FOLLOWS = "coverage-v1", "follows-v1"
MARKED, MONTHS = "marks-v1", "months-v1"

#: `json.dumps` builds an encoder per call where options are given; this one is built once.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class NotCanonical(AttrAuditError):
    """A value has no canonical form: a float, an object, or text that is not Unicode."""


def canonical(array: Sequence[Value]) -> bytes:
    """The bytes of an array of text, integers, booleans, null and such arrays.

    Raises NotCanonical.
    """
    _check(array)
    try:
        return _encode(array).encode()
    except UnicodeEncodeError:
        raise NotCanonical("a text with a lone surrogate has no canonical form") from None


def run_leaf(
    n: int,
    closed_us: int,
    polls: int,
    poll_root: str,
    changes: int,
    change_root: str,
    expected: int,
    expected_root: str,
    dag_run_ids: Sequence[str],
) -> bytes:
    """The bytes of leaf ``n`` of the log, the seal that closed at ``closed_us``.

    ``n``: the leaf's index, counted from 0, so a log with this leaf as its last has n + 1 leaves.
    ``polls``, ``changes``, ``expected``: how many rows each root covers; the roots are the RFC 9162
    roots of those rows as lower-case hex (of no row: the SHA-256 of nothing).
    """
    return canonical(
        [
            *(RUN, n, closed_us, polls, poll_root, changes, change_root, expected, expected_root),
            list(dag_run_ids),
        ]
    )


def _check(array: Value) -> None:
    if not isinstance(array, (list, tuple)):
        raise NotCanonical(f"a {type(array).__name__} has no canonical form")
    if not _PLAIN.issuperset(map(type, array)):
        for value in array:
            if type(value) not in _PLAIN:
                _check(value)


_PLAIN = frozenset((str, int, bool, type(None)))
