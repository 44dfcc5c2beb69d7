"""Reference data in the database: what outcomes and codes mean, which characters look alike.

`migrate` writes it from the package, so that a view can show what the page shows. Writing the same
again changes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

from sqlalchemy import Connection, text

from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.tencent.codes import CODES, FAMILIES

#: A UTS 39 skeleton of an RTL character is written between these marks in Unicode's file.
_MARK = "\u200e"


def load_reference_data(connection: Connection) -> None:
    """Make the reference tables of attr_audit_internal equal to the package's. Owner only."""
    for table, columns, rows in (
        (
            "outcome",
            "outcome text, meaning text, advice text, is_good boolean, is_failed boolean",
            (
                (o.name, o.meaning, o.advice or None, o.is_good, o.is_failed)
                for o in OUTCOMES.values()
            ),
        ),
        (
            "error_code",
            "code integer, meaning text, advice text",
            ((row.code, f"{row.meaning}.", f"{row.advice}.") for row in CODES.values()),
        ),
        (
            "error_code_family",
            "first_code integer, last_code integer, meaning text, advice text",
            ((f.first, f.last, f"{f.meaning}.", f"{f.advice}.") for f in FAMILIES),
        ),
        ("confusable", "source text, target text", confusables().items()),
        ("case_fold", "source text, target text", _case_folding()),
    ):
        _load(connection, table, columns, rows)


def _load(
    connection: Connection, table: str, columns: str, rows: Iterable[tuple[Any, ...]]
) -> None:
    """Replace the rows that differ from the given ones; the first column is the key."""
    key, *others = names = [column.split()[0] for column in columns.split(", ")]
    given = json.dumps([dict(zip(names, row, strict=True)) for row in rows])
    source = f"jsonb_to_recordset(cast(:rows as jsonb)) as r ({columns})"
    is_new = "row ({}) is distinct from row ({})".format(
        *(", ".join(f"{of}.{name}" for name in others) for of in ("t", "excluded"))
    )
    for statement in (
        f"delete from attr_audit_internal.{table} t "
        f"where not exists (select from {source} where r.{key} = t.{key})",
        f"insert into attr_audit_internal.{table} as t select r.* from {source} "
        f"on conflict ({key}) do update "
        f"set {', '.join(f'{name} = excluded.{name}' for name in others)} where {is_new}",
    ):
        connection.execute(text(statement), {"rows": given})


def confusables() -> Mapping[str, str]:
    """Character -> what it looks like, from Unicode's confusables.txt.

    The package keeps each line of that file as a pair in both directions, in the file's order. A
    source has one target and a target is never a source, so a character with several partners is a
    target; of a pair alone the source comes first.
    """
    file = resources.files("confusable_homoglyphs") / "confusables.json"
    partners: dict[str, list[str]] = {}
    for one, others in json.loads(file.read_text(encoding="utf-8")).items():
        partners.setdefault(_clean(one), []).extend(_clean(other["c"]) for other in others)
    found: dict[str, str] = {}
    seen: set[str] = set()
    for one, others in partners.items():
        seen.add(one)
        if len(one) > 1 or len(others) != 1:
            continue
        [other] = others
        if len(other) == 1 and len(partners[other]) == 1 and other in seen:
            continue
        found[one] = other
    return found


def _clean(characters: str) -> str:
    return characters.replace(_MARK, "") or characters


def _case_folding() -> Iterator[tuple[str, str]]:
    """Characters beyond ASCII and what they are without case: one character each."""
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        folded = character.casefold()
        if len(folded) != 1:
            folded = character.lower()
        if folded != character and len(folded) == 1:
            yield character, folded
