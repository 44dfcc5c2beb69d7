"""The rules of a chain, once for the database and for an export: text, hash, order, kind. Pure.

The canonical text of a change is what ``jsonb_build_array(…)::text`` gives for its columns in the
order of `HASHED`: integers, texts, null and booleans, times as microseconds since 1970 UTC, the
hash before as hex. A *token* is one such value as UTF-8. SHA-256 of the text is the row's hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from json import dumps, loads

from im_attr_audit.apps import AppKey
from im_attr_audit.record.heads import Finding, Head, Watched

#: The hashed columns but ``prev_hash``, which is the last; ``_us``: microseconds.
HASHED = (
    *("change_id", "region", "sdk_app_id", "seq", "slot", "old_name", "new_name", "old_type"),
    *("new_type", "is_baseline", "not_before_us", "seen_at_us", "answer", "poll_id", "dag_run_id"),
    *("recorded_at_us", "prior_ok_at_us", "old_not_before_us", "old_seen_at_us"),
)
NULL = b"null"
_SHORT = {8: rb"\b", 9: rb"\t", 10: rb"\n", 12: rb"\f", 13: rb"\r"}
_CONTROL = re.compile(rb"[\x00-\x1f]")


def token(value: str | int | bool | None) -> bytes:
    """One value as the canonical text writes it."""
    return dumps(value, ensure_ascii=False).encode()


def escape_controls(quoted: bytes) -> bytes:
    """A text that is quoted already, its control characters as JSON writes them."""
    return _CONTROL.sub(lambda m: _SHORT.get(m[0][0]) or b"\\u%04x" % m[0][0], quoted)


def kind_of(tokens: Sequence[bytes]) -> str:
    """The kind of a change, derived from its other columns (`HASHED`)."""
    old, new = tokens[5], tokens[6]
    if tokens[9] == b"true":
        return "baseline"
    if old == NULL:
        return "added"
    if new == NULL:
        return "removed"
    return "renamed" if old != new else "retyped"


class Chains:
    """Checks changes as they come: by app, and by ``seq`` within an app.

    Memory grows with the number of apps, not of changes. ``heads`` are the ends of the chains.
    """

    def __init__(self, source: str, watched: Mapping[AppKey, Watched]) -> None:
        self.rows = 0
        self.heads: dict[AppKey, Head] = {}
        self.findings: list[Finding] = []
        self._source = source
        self._watched = watched
        self._place: tuple[bytes, bytes] | None = None
        self.app = AppKey("", 0)
        self._seen: Watched | None = None
        self._seq = 0
        self._hash: bytes | None = None
        self._broken = False

    def add(self, tokens: Sequence[bytes], prev_hash: bytes, row_hash: bytes, kind: bytes) -> bool:
        """One change; ``prev_hash`` is hex or empty. True: the first of its app."""
        place = (tokens[1], tokens[2])
        begins = place != self._place
        if begins:
            self.end_app()
            self._begin_app(place)
        self.rows += 1
        seq = int(tokens[3])
        before = self._hash
        text = b", ".join(tokens) + (b', "' + before + b'"]' if before else b", null]")
        found = sha256(b"[" + text).hexdigest().encode()
        if not self._broken and (
            seq != self._seq + 1
            or row_hash != found
            or prev_hash != (before or b"")
            or kind.decode() != kind_of(tokens)
        ):
            self._broken = True
            what = "the chain is broken at this row"
            if row_hash == found and seq == self._seq + 1 and prev_hash == (before or b""):
                what = f"kind is {kind.decode(errors='replace')}, not {kind_of(tokens)}"
            self.findings.append(Finding(*self.app, seq, what))
        if self._seen is not None:
            if seq > self._seq + 1:
                self._seen.gaps.append((self._seq + 1, seq - 1))
            if seq in self._seen.wanted:
                self._seen.hashes[seq] = row_hash.decode(errors="replace")
            self._seen.last = seq
        self._seq = seq
        self._hash = row_hash
        return begins

    def _begin_app(self, place: tuple[bytes, bytes]) -> None:

        self._place = place
        self.app = AppKey(loads(place[0]), int(place[1]))
        self._seen = self._watched.get(self.app)
        self._seq, self._hash, self._broken = 0, None, False
        if self.app in self.heads:
            self._broken = True
            self.findings.append(Finding(*self.app, None, "its rows do not come in one order"))

    def end_app(self) -> None:
        """Close the chain that is being read; also after the last row."""
        if self._place is not None and self._hash is not None:
            self.heads[self.app] = Head(
                *self.app, self._seq, self._hash.decode(errors="replace"), self._source
            )
