"""The rules of a chain, once for the database and for an export: text, hash, order, kind. Pure.

The canonical text of a change is what ``jsonb_build_array(…)::text`` gives for its columns in the
order of `HASHED`: integers, texts, null and booleans, times as microseconds since 1970 UTC, the
hash before as hex. A *token* is one such value as UTF-8. SHA-256 of the text is the row's hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import compress, islice, pairwise
from json import dumps, loads
from operator import ne
from typing import TypeAlias

from im_attr_audit.apps import AppKey
from im_attr_audit.record.checks.heads import Finding, Head, Watched

#: The hashed columns but ``prev_hash``, which is the last; ``_us``: microseconds.
HASHED = (
    *("change_id", "region", "sdk_app_id", "seq", "slot", "old_name", "new_name", "old_type"),
    *("new_type", "is_baseline", "not_before_us", "seen_at_us", "answer", "poll_id", "dag_run_id"),
    *("recorded_at_us", "prior_ok_at_us", "old_not_before_us", "old_seen_at_us"),
)
NULL = b"null"
QUOTE = b'"'

#: A slot's state in tokens: name, type, not before and seen at (microseconds).
State: TypeAlias = tuple[bytes, bytes, bytes, bytes]


def token(value: str | int | bool | None) -> bytes:
    """One value as the canonical text writes it."""
    return dumps(value, ensure_ascii=False).encode()


def quoted(hex_: bytes) -> bytes:
    """The token of a hash that comes as hex; null where it is empty."""
    return b'"%b"' % hex_ if hex_ else NULL


def linked_hash(tokens: Sequence[bytes], prev_hash: bytes) -> str:
    """The hash, as hex, of a row with these tokens after one with ``prev_hash`` (empty: none)."""
    return sha256(b"[" + b", ".join([*tokens, quoted(prev_hash)]) + b"]").hexdigest()


def kind_of(is_baseline: bytes, old_name: bytes, new_name: bytes) -> bytes:
    """The kind of a change, derived from its other columns; all are tokens."""
    if is_baseline == b"true":
        return b'"baseline"'
    if old_name == NULL:
        return b'"added"'
    if new_name == NULL:
        return b'"removed"'
    return b'"renamed"' if old_name != new_name else b'"retyped"'


def runs(regions: Sequence[bytes], numbers: Sequence[bytes]) -> Iterable[tuple[int, int]]:
    """Where in these rows each app's begin, and where they end."""
    apps = list(zip(regions, numbers, strict=True))
    begins = [0, *compress(range(1, len(apps)), map(ne, apps, islice(apps, 1, None))), len(apps)]
    return pairwise(begins)


class Chains:
    """Checks changes as they come: by app, and by ``seq`` within an app.

    Memory grows with apps and names, not with changes. ``heads`` are the ends of the chains,
    ``replayed`` what the changes of each app lead to.
    """

    def __init__(self, source: str, watched: Mapping[AppKey, Watched]) -> None:
        self.rows = 0
        self.heads: dict[AppKey, Head] = {}
        self.replayed: dict[AppKey, dict[bytes, State]] = {}
        self.findings: list[Finding] = []
        self._source = source
        self._watched = watched
        self._app: AppKey | None = None
        self._place: tuple[bytes, bytes] | None = None
        self._seen: Watched | None = None
        self._slots: dict[bytes, State] = {}
        self._seq = 0
        self._hash = b""
        self._broken = False

    def add(self, batch: Iterable[Sequence[bytes]]) -> None:
        """Some changes: the tokens of `HASHED`, prev_hash and row_hash as hex, kind as a token.

        The hash before the first row is empty.
        """
        for row in batch:
            (_, region, number, written, slot, old, new, _, new_type, is_baseline, *_) = row
            prev_hash, row_hash, kind = row[19:]
            if (region, number) != self._place:
                self._begin(region, number)
            before = self._hash
            text = b"[" + b", ".join(row[:19]) + (b', "%b"]' % before if before else b", null]")
            seq = int(written)
            if (
                row_hash != sha256(text).hexdigest().encode()
                or prev_hash != before
                or seq != self._seq + 1
                or kind != kind_of(is_baseline, old, new)
            ):
                self._find_break(row, text, seq)
            if self._seen is not None:
                self._note(self._seen, seq, row_hash)
            self._seq = seq
            self._hash = row_hash
            if new == NULL:
                self._slots.pop(slot, None)
            else:
                self._slots[slot] = (new, new_type, row[10], row[11])
            self.rows += 1

    def add_columns(self, columns: Sequence[Sequence[bytes]]) -> None:
        """The same, the values of each column together: several times as fast.

        What is not exactly as it must be goes to `add`, which alone knows what to find.
        """
        regions, numbers, seqs, prevs, hashes = (columns[at] for at in (1, 2, 3, 19, 20))
        derived = list(map(kind_of, columns[9], columns[5], columns[6]))
        values = zip(*(columns[at] for at in (6, 8, 10, 11)), strict=True)
        states = list(zip(columns[4], values, strict=True))
        sound = self._are_hashed(columns)
        for begin, end in runs(regions, numbers):
            rows = slice(begin, end)
            if (regions[begin], numbers[begin]) != self._place:
                self._begin(regions[begin], numbers[begin])
            follows = (
                sound
                and prevs[rows] == [self._hash, *hashes[begin : end - 1]]
                and [*map(int, seqs[rows])] == [*range(self._seq + 1, self._seq + 1 + end - begin)]
                and derived[rows] == columns[21][rows]
            )
            if not follows:
                self.add(zip(*(column[rows] for column in columns), strict=True))
                continue
            if self._seen is not None:
                self._seen.note(self._seq + 1, hashes[rows])
            self._seq += end - begin
            self._hash = hashes[end - 1]
            self._slots.update(states[rows])
            if NULL in columns[6][rows]:
                for slot in [slot for slot, state in self._slots.items() if state[0] == NULL]:
                    del self._slots[slot]
            self.rows += end - begin

    @staticmethod
    def _are_hashed(columns: Sequence[Sequence[bytes]]) -> bool:
        """Whether each row's hash is that of the row with its own ``prev_hash``."""
        prevs, hashes = columns[19], columns[20]
        rows = map(b", ".join, zip(*columns[:19], strict=True))
        digests = [
            sha256(b'[%b, "%b"]' % (row, prev) if prev else b"[%b, null]" % row).digest()
            for row, prev in zip(rows, prevs, strict=True)
        ]
        # Hashes of other lengths could give the same text together.
        return {*map(len, hashes)} == {64} and b"".join(digests).hex().encode() == b"".join(hashes)

    def end(self) -> None:
        """Close the chain that is being read; also after the last row."""
        if self._app is not None:
            hash_ = self._hash.decode(errors="replace")
            self.heads[self._app] = Head(*self._app, self._seq, hash_, self._source)

    def _begin(self, region: bytes, number: bytes) -> None:
        self.end()
        self._place = region, number
        self._app = app = AppKey(loads(region), int(number))
        self._seen = self._watched.get(app)
        self._slots = self.replayed.setdefault(app, {})
        self._seq, self._hash, self._broken = 0, b"", False
        if app in self.heads:
            self._broken = True
            self.findings.append(Finding(*app, None, "its rows do not come in one order"))

    def _find_break(self, row: Sequence[bytes], text: bytes, seq: int) -> None:
        """The first row of an app that does not follow, and what of it."""
        if self._broken or self._app is None:
            return
        self._broken = True
        what = "the chain is broken at this row"
        follows = row[19] == self._hash and seq == self._seq + 1
        if follows and row[20] == sha256(text).hexdigest().encode():
            derived = loads(kind_of(row[9], row[5], row[6]))
            what = f"kind is {row[21].strip(QUOTE).decode(errors='replace')}, not {derived}"
        self.findings.append(Finding(*self._app, seq, what))

    def _note(self, seen: Watched, seq: int, row_hash: bytes) -> None:
        if seq > self._seq + 1:
            seen.gaps.append((self._seq + 1, seq - 1))
        seen.note(seq, [row_hash])
