"""Whether the record is still what was recorded: the chain, the snapshot, and heads kept elsewhere.

The chain alone shows every edit that leaves it inconsistent. Who can write the tables as their
owner can also rewrite a whole chain consistently, cut its tail or drop an app; that is found only
against a head that was witnessed outside: in Airflow's asset events, or in a file saved earlier.

Nothing here writes to the record.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Engine, text

from im_attr_audit.errors import AttrAuditError

App: TypeAlias = tuple[str, int]


class NotAnExport(AttrAuditError):
    """A file that is not what it was given as; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of an app's chain as it was witnessed: ``seq`` and the row's hash in hex."""

    region: str
    sdk_app_id: int
    seq: int
    hash: str
    witness: str


@dataclass(frozen=True, slots=True)
class Row:
    """What of a change row a check needs: its place, its hash as stored and as recomputed."""

    region: str
    sdk_app_id: int
    seq: int
    prev_hash: str | None
    row_hash: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was recorded; ``seq`` is the first bad row, where known."""

    region: str
    sdk_app_id: int
    seq: int | None
    text: str

    def __str__(self) -> str:
        at = f" seq {self.seq}" if self.seq is not None else ""
        return f"{self.region}/{self.sdk_app_id}{at}: {self.text}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the heads of what it read, and the findings (none: all is well)."""

    rows: int
    heads: tuple[Head, ...]
    findings: tuple[Finding, ...]


def check_database(engine: Engine) -> Checked:
    """Verify every chain in the database, and that replaying it gives the snapshot."""
    with engine.connect() as connection:
        # One moment for chain and snapshot: a sync that commits in between is no finding.
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        chains = connection.execute(text("select * from attr_audit.verify_chain()")).all()
        unlike = connection.execute(text(_REPLAY)).all()
        digests = connection.execute(text(_DIGESTS)).all()
        hidden = connection.execute(text(_HIDDEN)).all()
    findings = [
        Finding(c.region, c.sdk_app_id, c.first_bad_seq, "the chain is broken at this row")
        for c in chains
        if not c.ok
    ]
    findings += [
        Finding(
            r.region,
            r.sdk_app_id,
            None,
            f"snapshot slot {r.slot} is not what replaying its changes gives",
        )
        for r in unlike
    ]
    findings += [
        Finding(r.region, r.sdk_app_id, None, "app.snapshot_digest is not that of the snapshot")
        for r in digests
    ]
    findings += [
        Finding(
            r.region, r.sdk_app_id, None, "has changes, but no row in app that lets views show them"
        )
        for r in hidden
    ]
    heads = [
        Head(c.region, c.sdk_app_id, c.head_seq, bytes(c.head_hash).hex(), "database")
        for c in chains
        if c.head_seq is not None
    ]
    return Checked(sum(c.rows_checked for c in chains), tuple(heads), tuple(findings))


def check_export(path: Path) -> Checked:
    """Verify the chains in a CSV written by ``sql/queries/export_for_auditor.sql``."""
    rows = sorted(read_export(path), key=lambda row: (row.region, row.sdk_app_id, row.seq))
    findings: list[Finding] = []
    heads: dict[App, Head] = {}
    broken: set[App] = set()
    for row in rows:
        app = (row.region, row.sdk_app_id)
        before = heads.get(app)
        follows = (
            row.seq == (before.seq + 1 if before else 1)
            and row.prev_hash == (before.hash if before else None)
            and row.row_hash == row.recomputed
        )
        if not follows and app not in broken:
            broken.add(app)
            findings.append(Finding(*app, row.seq, "the chain is broken at this row"))
        heads[app] = Head(*app, row.seq, row.row_hash, "export")
    return Checked(len(rows), tuple(heads.values()), tuple(findings))


def check_heads(
    witnessed: Iterable[Head], rows: Mapping[App, Mapping[int, str]]
) -> tuple[Finding, ...]:
    """Compare heads witnessed earlier with the rows as they are now (app → seq → hash in hex).

    A chain that is longer than its newest witness is not yet witnessed there, and fine. The finding
    names the first witnessed row that is gone or another one, and the last that still agrees.
    """
    findings = []
    by_app: dict[App, list[Head]] = {}
    for head in witnessed:
        by_app.setdefault((head.region, head.sdk_app_id), []).append(head)
    for app, heads in sorted(by_app.items()):
        chain = rows.get(app, {})
        agreed = 0
        for head in sorted(heads, key=lambda head: head.seq):
            there = chain.get(head.seq)
            if there == head.hash:
                agreed = head.seq
                continue
            first = agreed + 1
            if there is None:
                first = next(seq for seq in range(first, head.seq + 1) if seq not in chain)
                what = f"rows from here to seq {head.seq}, witnessed by {head.witness}, are gone"
            else:
                what = (
                    f"rewritten: seq {head.seq} had another hash when witnessed by "
                    f"{head.witness}; the edit is in seq {first} to {head.seq}"
                )
            findings.append(Finding(*app, first, what))
            break
    return tuple(findings)


def read_rows(engine: Engine, apps: Sequence[App]) -> dict[App, dict[int, str]]:
    """The hash of every change row of the apps."""
    rows: dict[App, dict[int, str]] = {}
    with engine.connect() as connection:
        result = connection.execute(
            text(_HASHES),
            {"regions": [region for region, _ in apps], "ids": [number for _, number in apps]},
        )
        for row in result:
            rows.setdefault((row.region, row.sdk_app_id), {})[row.seq] = row.hash
    return rows


def rows_of_export(path: Path) -> dict[App, dict[int, str]]:
    """The same of a CSV export."""
    rows: dict[App, dict[int, str]] = {}
    for row in read_export(path):
        rows.setdefault((row.region, row.sdk_app_id), {})[row.seq] = row.row_hash
    return rows


def save_heads(heads: Iterable[Head], path: Path, at: datetime) -> None:
    """Write heads to a file that `read_heads` reads; keep it where the database's owner is not."""
    document = {
        "saved_at": at.isoformat(),
        "heads": [
            {"region": h.region, "sdk_app_id": h.sdk_app_id, "seq": h.seq, "hash": h.hash}
            for h in sorted(heads, key=lambda h: (h.region, h.sdk_app_id))
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_heads(path: Path) -> list[Head]:
    """Heads from a file that was saved earlier. Raises NotAnExport."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [
            Head(str(h["region"]), int(h["sdk_app_id"]), int(h["seq"]), str(h["hash"]), str(path))
            for h in document["heads"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnExport(
            f"{path} is not a file of `im-attr-audit verify --save-heads`: {error}"
        ) from None


def heads_of_event(extra: Any, witness: str) -> Iterator[Head]:
    """The heads in the ``extra`` of one im-attr-audit/changes asset event."""
    if not isinstance(extra, Mapping):
        return
    heads = extra.get("chain_heads")
    if not isinstance(heads, Mapping):
        return
    for sdk_app_id, head in heads.items():
        yield Head(
            str(extra["region"]), int(sdk_app_id), int(head["seq"]), str(head["hash"]), witness
        )


def read_export(path: Path) -> list[Row]:
    """The rows of an auditor's CSV, each hash recomputed from its columns. Raises NotAnExport."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {*_COLUMNS, "old_known", "new_known"} - set(reader.fieldnames or ())
        if missing:
            raise NotAnExport(
                f"{path} lacks the columns {', '.join(sorted(missing))}: write it with "
                "sql/queries/export_for_auditor.sql"
            )
        try:
            return [_row(record) for record in reader]
        except (ValueError, KeyError, TypeError) as error:
            raise NotAnExport(f"{path}: a row cannot be read: {error}") from None


# The columns of the canonical form, in its order (attr_audit.change_canonical), with their kinds.
_COLUMNS = {
    "change_id": int,
    "region": str,
    "sdk_app_id": int,
    "seq": int,
    "slot": int,
    "old_name": str,
    "new_name": str,
    "old_type": int,
    "new_type": int,
    "is_baseline": bool,
    "not_before_us": int,
    "seen_at_us": int,
    "answer": str,
    "poll_id": int,
    "dag_run_id": str,
    "recorded_at_us": int,
    "prior_ok_at_us": int,
    "old_not_before_us": int,
    "old_seen_at_us": int,
    "prev_hash": str,
}


def _row(record: Mapping[str, str]) -> Row:
    values: list[Any] = []
    for column, kind in _COLUMNS.items():
        value: Any = record[column]
        if column in ("old_name", "new_name"):
            # An empty name and no name are the same text in a CSV.
            value = value if record[column.replace("name", "known")] == "t" else None
        elif value == "":
            value = None
        elif kind is bool:
            value = {"t": True, "f": False}[value]
        else:
            value = kind(value)
        values.append(value)
    canonical = json.dumps(values, ensure_ascii=False, separators=(", ", ": "))
    return Row(
        region=record["region"],
        sdk_app_id=int(record["sdk_app_id"]),
        seq=int(record["seq"]),
        prev_hash=record["prev_hash"] or None,
        row_hash=record["row_hash"],
        recomputed=hashlib.sha256(canonical.encode()).hexdigest(),
    )


_HASHES = """
select c.region, c.sdk_app_id, c.seq, encode(c.row_hash, 'hex') as hash
  from attr_audit.change c
  join unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
    on c.region = u.region and c.sdk_app_id = u.sdk_app_id
"""

_REPLAY = """
with replayed as (
    select * from (
        select distinct on (region, sdk_app_id, slot)
               region, sdk_app_id, slot, new_name as name, new_type as attr_type, not_before,
               seen_at
          from attr_audit.change
         order by region, sdk_app_id, slot, seq desc) newest
     where name is not null
)
select coalesce(r.region, s.region) as region, coalesce(r.sdk_app_id, s.sdk_app_id) as sdk_app_id,
       coalesce(r.slot, s.slot) as slot
  from replayed r
  full join attr_audit.snapshot s
    on s.region = r.region and s.sdk_app_id = r.sdk_app_id and s.slot = r.slot
 where (r.name, r.attr_type, r.not_before, r.seen_at)
       is distinct from (s.name, s.attr_type, s.not_before, s.seen_at)
 order by 1, 2, 3
"""

_HIDDEN = """
select c.region, c.sdk_app_id
  from attr_audit.change c
  left join attr_audit.app a using (region, sdk_app_id)
 where c.seq = 1 and a.first_ok_at is null
 order by 1, 2
"""

_DIGESTS = """
select region, sdk_app_id
  from attr_audit.app
 where first_ok_at is not null
   and snapshot_digest is distinct from attr_audit.snapshot_digest_of(region, sdk_app_id)
 order by 1, 2
"""
