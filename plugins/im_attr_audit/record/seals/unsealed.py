"""What no seal covers yet, gathered for the next one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from im_attr_audit.evidence.bundle import MARKS
from im_attr_audit.record.checks.canonical import NULL
from im_attr_audit.record.seals.hashes import newest_time
from im_attr_audit.record.seals.months import Months, count_months
from im_attr_audit.record.seals.rows import Batch, Kind, microseconds_of
from im_attr_audit.record.seals.rows_root import Root

#: A seal with more rows keeps no marks: its file would be too long for a witness to read.
MOST_MARKS = 2_000_000


@dataclass(slots=True)
class NewRows:
    """The rows of a seal that is being made. ``last``: the last id; ``until``: none lies beyond."""

    last: int
    until: int
    root: Root = field(default_factory=Root)
    runs: set[bytes] = field(default_factory=set)
    newest: int = 0
    marks: bytearray = field(default_factory=bytearray)
    requested_from: int | None = None
    months: Months = field(default_factory=Counter)

    def add(self, kind: Kind, batch: Batch) -> None:
        """Add those of these rows that belong to the seal."""
        end = batch.until(self.until)
        if not end:
            return
        self.root.extend(batch.hashes[:end])
        self.runs.update(set(batch.columns[kind.run][:end]) - {NULL})
        if self.root.size <= MOST_MARKS:
            size = MARKS[kind.number]
            self.marks += b"".join(hash_[:size] for hash_ in batch.hashes[:end])
        self.last = int(batch.columns[0][end - 1])
        self.newest = max(self.newest, newest_time(kind, batch, end))
        if kind.requested_at is not None and kind.outcome is not None:
            requested = batch.columns[kind.requested_at][:end]
            self.months += count_months(requested, batch.columns[kind.outcome][:end])
            times = [microseconds_of(each) for each in set(requested)]
            known = [each for each in (*times, self.requested_from) if each is not None]
            self.requested_from = min(known, default=None)
