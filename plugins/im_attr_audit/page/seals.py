"""The database's copy of the seals, for the page.

Its texts are what the sealer's login wrote, and nothing in the database checks them: a row that is
not the row of a seal is left out, and is named.
"""

from __future__ import annotations

from sqlalchemy import Connection

from im_attr_audit.evidence.bundle import BadBundle, Seal
from im_attr_audit.page import queries
from im_attr_audit.page.queries import Row, Rows

#: Rows that are read at once, and at most: unreadable ones take no more time than this.
_AT_ONCE, _AT_MOST = 20, 1000


def read_seal(
    connection: Connection, query: str, /, **parameters: object
) -> tuple[Row | None, Rows]:
    """The first row of a statement that is of a seal, and the unreadable rows before it.

    ``unreadable`` has at most 20 rows, as model UnreadableSeal has them.
    """
    unreadable: Rows = []
    for skip in range(0, _AT_MOST, _AT_ONCE):
        part = {"skip": skip, "at_most": _AT_ONCE}
        rows = queries.read(connection, query, **parameters, **part)
        for row in rows:
            if _is_readable(row.pop("leaf"), row["n"]):
                return row, unreadable[:_AT_ONCE]
            unreadable.append({name: row[name] for name in ("origin", "n", "sealed_at")})
        if len(rows) < _AT_ONCE:
            break
    return None, unreadable[:_AT_ONCE]


def _is_readable(leaf: str, n: int) -> bool:
    seal = Seal(leaf, note="", timestamp=None, last=(0, 0, 0), polls_from=None, marks=b"")
    try:
        return seal.n == n
    except BadBundle:
        return False
