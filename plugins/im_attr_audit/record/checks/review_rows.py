"""What the stored rows of reviews must be: a chain per app, and each of a change that exists."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection, text

from im_attr_audit.apps import AppKey
from im_attr_audit.record.checks.canonical import linked_hash
from im_attr_audit.record.checks.heads import Finding, Head
from im_attr_audit.record.checks.tables import Range, read_rows

# Whether the change is a baseline is asked of the column, which is hashed, not of the derived kind.
_UNFOUNDED = """
select r.region, r.sdk_app_id, r.review_seq, r.seq
  from only attr_audit.review as r
 where not exists (select from only attr_audit.change as c
                    where c.region = r.region and c.sdk_app_id = r.sdk_app_id and c.seq = r.seq
                      and not c.is_baseline)
 order by r.region, r.sdk_app_id, r.review_seq
"""


class ReviewChains:
    """Checks reviews as they come: by app, and by ``review_seq`` within an app."""

    def __init__(self) -> None:
        self.rows = 0
        self.heads: dict[AppKey, Head] = {}
        self.findings: list[Finding] = []
        self._broken: set[AppKey] = set()

    def add_columns(self, columns: list[list[bytes]]) -> None:
        """The tokens of some rows, a list for each column of ``TABLES``."""
        for *row, prev_hash, row_hash in zip(*columns, strict=True):
            app = AppKey(json.loads(row[1]), int(row[2]))
            seq = int(row[3])
            head = self.heads.get(app)
            before = head.hash.encode() if head else b""
            digest = linked_hash(row, prev_hash).encode()
            follows = prev_hash == before and seq == (head.seq if head else 0) + 1
            if (not follows or row_hash != digest) and app not in self._broken:
                self._broken.add(app)
                what = f"the chain of reviews is broken at review {seq}"
                self.findings.append(Finding(*app, int(row[4]), what, "review"))
            self.heads[app] = Head(*app, seq, row_hash.decode(errors="replace"), "database")
            self.rows += 1


def read_reviews(connection: Connection, take: Callable[[list[list[bytes]]], None]) -> None:
    """All reviews as `ReviewChains` takes them."""
    read_rows(connection, "review", Range(), "c.region, c.sdk_app_id, c.review_seq", take)


def check_reviews(connection: Connection) -> ReviewChains:
    """Check all reviews, in the transaction that is open."""
    chains = ReviewChains()
    read_reviews(connection, chains.add_columns)
    for row in connection.execute(text(_UNFOUNDED)):
        what = f"review {row.review_seq} is of a change that does not exist, or of a baseline"
        chains.findings.append(Finding(row.region, row.sdk_app_id, row.seq, what, "review"))
    return chains
