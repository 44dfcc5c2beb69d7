"""Reviews, declarations and folds: no leaf has a root for them, so checkpoints sign them by name.

A line of the checkpoint (an extension line, as C2SP's tlog-checkpoint allows) is a JSON array in
canonical form: how many of each were listed so far, the newest review of an app whose reviews have
become more, a new declaration, or a new fold, each with its hash. A review's hash covers all
earlier ones of its app. What is committed late is listed by a later checkpoint, so nothing needs a
lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from sqlalchemy import Connection

from im_attr_audit.evidence.canonical import COVERAGE, DECLARATION, LISTED, REVIEW, canonical
from im_attr_audit.evidence.checkpoint import Checkpoint
from im_attr_audit.record.checks.canonical import linked_hash, quoted, token
from im_attr_audit.record.checks.review_rows import read_reviews
from im_attr_audit.record.checks.tables import TABLES, copy_rows
from im_attr_audit.record.clock import CLOCKS_APART
from im_attr_audit.record.seals.listed_folds import FoldCheck, Folds, read_folds

CLOCKS_US = CLOCKS_APART // timedelta(microseconds=1)
#: A note is bounded; what does not fit is listed by the next checkpoint.
_MOST_LINES = 4_000
_REVIEW_AT = list(TABLES["review"]).index("recorded_at")
DECLARATION_TYPES = {
    "declaration_id": "int8",
    "recorded_at": "timestamptz",
    "dag_run_id": "text",
    "source": "text",
    "revision": "text",
    "digest": "bytea",
    "document": "jsonb",
    "text_digest": "bytea",
}

#: An app's region and SDKAppID, as tokens.
_App = tuple[bytes, bytes]


@dataclass(slots=True)
class _Found:
    """What is stored: per app the hash and recorded_at of each review, and of each declaration."""

    reviews: dict[_App, list[tuple[str, bytes]]] = field(default_factory=dict)
    declarations: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class Listing:
    """The lines of the next checkpoint, and what is not as earlier ones listed it."""

    lines: tuple[str, ...] = ()
    findings: list[str] = field(default_factory=list)
    rows: int = 0
    #: When the newest row was recorded that no checkpoint lists, in microseconds since 1970 UTC.
    newest: int = 0


def check_listed(
    connection: Connection,
    checkpoints: Sequence[tuple[Checkpoint, int]],
    is_due: Callable[[int], bool] = lambda _: True,
) -> Listing:
    """Compare with what these checkpoints of one log list, in the transaction of `prepare_sealed`.

    Each comes with the time at which its seal closed, in microseconds since 1970 UTC. ``is_due``:
    whether the rows of the listed fold of this number are read again.
    """
    check = _Check(_read(connection), read_folds(connection), is_due)
    for number, (checkpoint, closed_us) in enumerate(checkpoints):
        check.add(number, [json.loads(line) for line in checkpoint.extensions], closed_us)
    check.end()
    rows = check.rows + check.folds.rows
    return Listing(check.next_lines(), check.findings, rows, check.newest)


def _read(connection: Connection) -> _Found:
    found = _Found()

    def take_reviews(columns: list[list[bytes]]) -> None:
        for *row, prev_hash, row_hash in zip(*columns, strict=True):
            own = linked_hash(row, prev_hash)
            chain = found.reviews.setdefault((row[1], row[2]), [])
            # A row that does not follow has no hash that was ever listed.
            before = chain[-1][0] if chain else ""
            follows = own == row_hash.decode() and before == prev_hash.decode()
            follows = follows and int(row[3]) == len(chain) + 1
            chain.append((own if follows else "", row[_REVIEW_AT]))

    def take_declarations(columns: list[list[bytes]]) -> None:
        for at in (5, 7):
            columns[at] = list(map(quoted, columns[at]))
        for row in zip(*columns, strict=True):
            text = b'["%b",%b]' % (DECLARATION.encode(), b",".join(row))
            found.declarations[int(row[0])] = sha256(b"\0" + text).hexdigest(), row[1]

    read_reviews(connection, take_reviews)
    columns = ["d.document::text" if c == "document" else f"d.{c}" for c in DECLARATION_TYPES]
    statement = (
        f"select {', '.join(columns)} from only attr_audit.declaration as d "  # noqa: S608
        "order by d.declaration_id"
    )
    types = ["text" if type_ == "jsonb" else type_ for type_ in DECLARATION_TYPES.values()]
    copy_rows(connection, statement, types, take_declarations)
    return found


class _Check:
    def __init__(self, stored: _Found, folds: Folds, is_due: Callable[[int], bool]) -> None:
        self.findings: list[str] = []
        self.rows = self.newest = 0
        self.folds = FoldCheck(folds, is_due, self._find)
        self._stored = stored
        #: Up to which review of an app, and which declarations, were listed.
        self._reviews: dict[_App, int] = {}
        self._declarations: set[int] = set()
        #: Since when recorded_at must be; None: earlier checkpoints listed nothing.
        self._since: int | None = None
        #: How many of each the newest checkpoint says that they list.
        self._counts: list[object] | None = None
        self._bad: set[object] = set()

    def add(self, number: int, lines: Sequence[list[object]], closed_us: int) -> None:
        """The lines of the next checkpoint."""
        until = closed_us + CLOCKS_US
        for type_, *values in lines:
            if type_ == REVIEW:
                region, sdk_app_id, seq, hash_ = values
                app = token(str(region)), b"%d" % int(str(sdk_app_id))
                self._review(number, app, int(str(seq)), str(hash_), until)
            elif type_ == DECLARATION:
                id_, hash_ = values
                self._declaration(number, int(str(id_)), str(hash_), until)
            elif type_ == COVERAGE:
                folded_us, count, root = values
                rows = int(str(count)), str(root)
                self.folds.add(number, int(str(folded_us)), rows, _when(int(str(folded_us))))
            elif type_ == LISTED:
                self._counts = values
        if lines and len(lines) < _MOST_LINES:
            self._since = closed_us - CLOCKS_US

    def end(self) -> None:
        """All counts must agree, and what is not listed yet be newer than the last checkpoint."""
        counts = self._count()
        if self._counts is not None and self._counts != counts[: len(self._counts)]:
            self.findings.append(
                f"checkpoints list {counts} reviews, declarations and folds, and the newest one "
                f"counts {self._counts}: a line was taken out of a copy"
            )
        for app, chain in self._stored.reviews.items():
            listed = self._reviews.get(app, 0)
            for seq, (_, at) in enumerate(chain[listed:], listed + 1):
                self._date(None, _review_label(app, seq), at, None)
        for id_, (_, at) in self._stored.declarations.items():
            if id_ not in self._declarations:
                self._date(None, f"declaration {id_}", at, None)
        # Earlier versions listed no folds and counted none.
        dated = self.folds.new() if len(self._counts or ()) > 2 else ()
        for folded_us in dated:
            label = f"coverage folded at {_when(folded_us)}"
            self._date(None, label, b"%d" % folded_us, None)

    def _count(self) -> list[str | int]:
        reviews = sum(self._reviews.values())
        return [reviews, len(self._declarations), len(self.folds.listed)]

    def next_lines(self) -> tuple[str, ...]:
        """The lines that list what is new."""
        lines: list[list[str | int]] = []
        for app, chain in sorted(self._stored.reviews.items()):
            if len(chain) > self._reviews.get(app, 0) and len(lines) < _MOST_LINES - 1:
                lines.append([REVIEW, json.loads(app[0]), int(app[1]), len(chain), chain[-1][0]])
                self._reviews[app] = len(chain)
        for id_, (hash_, _) in sorted(self._stored.declarations.items()):
            if id_ not in self._declarations and len(lines) < _MOST_LINES - 1:
                lines.append([DECLARATION, id_, hash_])
                self._declarations.add(id_)
        for folded_us in self.folds.new():
            if len(lines) < _MOST_LINES - 1:
                lines.append(self.folds.line(folded_us))
                self.folds.listed.add(folded_us)
        return tuple(canonical(line).decode() for line in [[LISTED, *self._count()], *lines])

    def _review(self, number: int, app: _App, seq: int, hash_: str, until: int) -> None:
        chain = self._stored.reviews.get(app, [])
        begin = self._reviews.get(app, 0)
        self._reviews[app] = seq
        self.rows += seq - begin
        if app in self._bad:
            return
        if len(chain) < seq:
            self._find(app, f"seal {number}: {_review_label(app, len(chain) + 1)} is gone")
        elif chain[seq - 1][0] != hash_:
            first = next((at for at in range(begin, seq) if not chain[at][0]), begin)
            self._find(
                app, f"seal {number}: {_review_label(app, first + 1)} is not as it was sealed"
            )
        else:
            for at in range(begin, seq):
                self._date(number, _review_label(app, at + 1), chain[at][1], until)

    def _declaration(self, number: int, id_: int, hash_: str, until: int) -> None:
        self._declarations.add(id_)
        self.rows += 1
        stored = self._stored.declarations.get(id_)
        if stored is None:
            self._find(id_, f"seal {number}: declaration {id_} is gone")
        elif stored[0] != hash_:
            self._find(id_, f"seal {number}: declaration {id_} is not as it was sealed")
        else:
            self._date(number, f"declaration {id_}", stored[1], until)

    def _date(self, number: int | None, label: str, time: bytes, until: int | None) -> None:
        try:
            at: int | None = int(time)
        except ValueError:
            at = None
        if number is None:
            self.newest = max(self.newest, at or 0)
        if at is None or (self._since or at) > at or (until is not None and at > until):
            where = "no seal yet" if number is None else f"seal {number}"
            self._find(label, f"{label} has a false date: it is in {where}")

    def _find(self, what: object, sentence: str) -> None:
        if what not in self._bad:
            self._bad.add(what)
            self.findings.append(sentence)


def _when(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}Z"


def _review_label(app: _App, seq: int) -> str:
    return f"review {seq} of {json.loads(app[0])}/{app[1].decode()}"
