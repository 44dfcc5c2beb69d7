"""Check most chains without an object for each value; what does not follow at once is left over.

Postgres writes each change as a line of CSV that is the canonical text but for its separators:
texts in quotes with ``"`` and ``\\`` escaped by a backslash, as JSON has them, times as
microseconds. One replacement of separators therefore makes the texts of a whole block, and their
hashes are compared with those stored.

Nothing wrong passes. A control character in a value, which JSON escapes and CSV does not, ends a
line or a column early or stays in the text. Such a text is not canonical (a string in it is not
closed, or holds a control character), so it has none of the hashes. A line with a column too many
needs one with a column too few, and that is the beginning of a string. Whatever is not exactly as
it must be makes every app of its block doubtful, and `app_rows` reads the doubtful apps
again, value by value. Only that decides what is a finding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from json import loads

from psycopg2 import DataError
from sqlalchemy import Connection

from im_attr_audit.apps import AppKey
from im_attr_audit.record.checks.canonical import HASHED, NULL, State, runs
from im_attr_audit.record.checks.heads import Head, Watched
from im_attr_audit.record.checks.tables import TABLES, Range, copy_lines

#: What the database derives from a change's other columns. Sums of times are compared, not
#: differences: those of an infinite time raise an error.
SPAN_FOLLOWS = """
case when c.span_from is distinct from coalesce(c.old_seen_at, c.not_before, c.prior_ok_at)
          then false
     when c.span_from is null then c.span_class is null
     when c.span_class = 0 then c.seen_at < c.span_from + interval '1 hour'
     when c.span_class = 6 then c.seen_at >= c.span_from + interval '1024 hours'
     when c.span_class between 1 and 5
     then c.seen_at >= c.span_from + interval '1 hour' * 4 ^ (c.span_class - 1)
          and c.seen_at < c.span_from + interval '1 hour' * 4 ^ c.span_class
     else false end"""
_KIND_FOLLOWS = """
c.kind collate "C" is not distinct from
case when c.is_baseline then 'baseline' when c.old_name is null then 'added'
     when c.new_name is null then 'removed'
     when c.old_name collate "C" <> c.new_name collate "C" then 'renamed' else 'retyped' end"""
_FOLLOWS = b"["
# In double precision a microsecond is exact from 1970 to 2100, where every recorded time is. With
# another one the hash does not agree.
_WRITTEN = {
    "timestamptz": "(date_part('epoch', c.{0}) * 1e6::float8)::int8 as {0}",
    "bool": "c.{0}::text as {0}",
    "bytea": "encode(c.{0}, 'hex') as {0}",
}
_CHANGE = TABLES["change"]
_COLUMNS = ("row_hash", "follows", *list(_CHANGE)[: len(HASHED)], "prev_hash")
_QUOTED = [c for c in _COLUMNS if _CHANGE.get(c) in ("text", "bytea")]
_WIDTH = len(_COLUMNS)
_AT = {column: at for at, column in enumerate(_COLUMNS)}
#: Where the canonical text begins in a line: after the hash in quotes, and what `_FOLLOWS` is.
_HASH, _BEGIN = 66, 66 + len(b", [, ")
_STRING = rb'"(?:[^"\\]|\\.)*"'
_APP = re.compile(rb'"[0-9a-f]*"\t[][]\t[0-9]+\t' + _STRING + rb"\t([0-9]+)\t", re.DOTALL)


class QuickChains:
    """Checks changes as they come, as `canonical.Chains` does, and finds nothing.

    ``doubtful`` are SDKAppIDs of which nothing is known here; None: nothing is known of any app.
    `results` are those of all other apps.
    """

    def __init__(self, source: str, watched: Mapping[AppKey, Watched]) -> None:
        self.doubtful: set[int] | None = set()
        self._source = source
        self._watched = watched
        self._heads: dict[AppKey, Head] = {}
        self._replayed: dict[AppKey, dict[bytes, State]] = {}
        self._app: AppKey | None = None
        self._place: tuple[bytes, bytes] | None = None
        self._slots: dict[bytes, State] = {}
        self._seq = 0
        self._hash = NULL

    def read(self, connection: Connection, apps: Range) -> None:
        """Read and check the changes of these apps, in the transaction that is open."""
        names = (_written(column) for column in _COLUMNS)
        statement = (
            f"copy (select {', '.join(names)} from only attr_audit.change as c "  # noqa: S608
            f"{apps.condition()} order by c.region, c.sdk_app_id, c.seq) to stdout "
            "(format csv, delimiter E'\\t', null 'null', quote '\"', escape '\\', "
            f"force_quote ({', '.join(_QUOTED)}))"
        )
        savepoint = connection.begin_nested()
        try:
            copy_lines(connection, statement, self.add)
        except DataError:  # an infinite time
            savepoint.rollback()
            self.doubtful = None
        else:
            savepoint.commit()
            self._end()

    def add(self, block: bytes) -> None:
        """Some lines, without the last line end."""
        values = block.replace(b"\n", b"\t").split(b"\t")
        columns = [values[at::_WIDTH] for at in range(_WIDTH)] if _is_whole(block, values) else None
        if columns is None or not self._follow(columns):
            self._doubt(block)

    def results(self) -> tuple[int, dict[AppKey, Head], dict[AppKey, dict[bytes, State]]]:
        """Rows, heads and replayed names of the apps that are not doubtful."""
        if self.doubtful is None:
            return 0, {}, {}
        heads = {a: h for a, h in self._heads.items() if a.sdk_app_id not in self.doubtful}
        rows = sum(head.seq for head in heads.values())  # from 1 on, without gaps
        return rows, heads, {app: self._replayed[app] for app in heads}

    def _follow(self, columns: Sequence[Sequence[bytes]]) -> bool:
        """Whether these rows, whose hashes agree, follow each other and those before."""
        regions, numbers, seqs = (columns[_AT[c]] for c in ("region", "sdk_app_id", "seq"))
        slots, hashes, prevs = columns[_AT["slot"]], columns[0], columns[-1]
        names, types = columns[_AT["new_name"]], columns[_AT["new_type"]]
        not_befores, seen_ats = columns[_AT["not_before"]], columns[_AT["seen_at"]]
        for begin, end in runs(regions, numbers):
            if (regions[begin], numbers[begin]) != self._place:
                self._begin(regions[begin], numbers[begin])
            if self._app is None:  # it is doubtful
                continue
            first = self._seq + 1
            if (
                prevs[begin] != self._hash
                or prevs[begin + 1 : end] != hashes[begin : end - 1]
                or [*map(int, seqs[begin:end])] != [*range(first, first + end - begin)]
            ):
                return False
            newest = dict(zip(slots[begin:end], range(begin, end), strict=True))
            for slot, at in newest.items():
                if names[at] == NULL:
                    self._slots.pop(slot, None)
                else:
                    self._slots[slot] = (names[at], types[at], not_befores[at], seen_ats[at])
            if (seen := self._watched.get(self._app)) is not None:
                seen.note(first, [hash_[1:-1] for hash_ in hashes[begin:end]])
            self._seq += end - begin
            self._hash = hashes[end - 1]
        return True

    def _begin(self, region: bytes, number: bytes) -> None:
        self._end()
        self._place = region, number
        app = AppKey(loads(region), int(number))
        self._seq, self._hash, self._slots = 0, NULL, {}
        if app in self._heads and self.doubtful is not None:  # its rows do not come in one order
            self.doubtful.add(app.sdk_app_id)
        if self.doubtful is not None and app.sdk_app_id not in self.doubtful:
            self._app = app
            self._replayed[app] = self._slots

    def _end(self) -> None:
        if self._app is not None:
            hash_ = self._hash[1:-1].decode()
            self._heads[self._app] = Head(*self._app, self._seq, hash_, self._source)
        self._app = self._place = None

    def _doubt(self, block: bytes) -> None:
        """Each app with a row in this block, or one that reaches into it, is to be read again."""
        if self.doubtful is None:
            return
        if self._app is not None:
            self.doubtful.add(self._app.sdk_app_id)
        self._end()
        for line in block.split(b"\n"):
            app = _APP.match(line)
            if app is None:  # part of a row
                self.doubtful = None
                return
            self.doubtful.add(int(app[1]))


def _written(column: str) -> str:
    if column == "follows":
        return f"case when ({_KIND_FOLLOWS}) and ({SPAN_FOLLOWS}) then '[' else ']' end as follows"
    return _WRITTEN.get(_CHANGE[column], "c.{0}").format(column)


def _is_whole(block: bytes, values: Sequence[bytes]) -> bool:
    """Whether all rows have all columns, what is derived follows, and their hashes agree."""
    lines = block.replace(b"\t", b", ").split(b"\n")
    if len(values) != len(lines) * _WIDTH or {*values[1::_WIDTH]} != {_FOLLOWS}:
        return False
    digests = [sha256(b"[%b]" % line[_BEGIN:]).digest() for line in lines]
    hashes = values[::_WIDTH]
    # Hashes of other lengths could give the same text together.
    stored = b"".join(hashes).replace(b'"', b"")
    return {*map(len, hashes)} == {_HASH} and b"".join(digests).hex().encode() == stored
