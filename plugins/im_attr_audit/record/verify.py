"""Whether the record is still what was recorded: chains, snapshot, polls, and heads kept elsewhere.

Everything is recomputed here from the stored rows (`record.tables`), streaming: memory grows with
apps and names, not with changes. A chain alone shows every edit that leaves it inconsistent. The
tables' owner can also rewrite a whole chain consistently, cut its tail or drop an app; that is
found only against heads that something outside witnessed (`record.heads`).

Nothing here writes to the record.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.record.canonical import HASHED, NULL, Chains, State, token
from im_attr_audit.record.heads import Finding, Head, NotAnExport, check_heads, watch
from im_attr_audit.record.tables import Microseconds, prepare, read_rows

Replayed = dict[AppKey, dict[bytes, State]]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the heads of what it read, and the findings (none: all is well).

    ``notes`` are worth a look and are not findings.
    """

    rows: int
    heads: tuple[Head, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


def check_database(engine: Engine, witnessed: Iterable[Head] = ()) -> Checked:
    """Verify chains, snapshot and polls of the database, and compare with witnessed heads.

    Raises NotATable where the record's tables are not plain tables.
    """
    witnessed = tuple(witnessed)
    watched = watch(witnessed)
    # One moment for everything: a sync that commits in between is not a finding.
    with engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ).connect() as connection:
        prepare(connection)
        chains = Chains("database", watched)
        _read_changes(connection, chains)
        replayed = chains.replayed
        unlike, digests = _compare_snapshot(connection, replayed)
        hidden, notes = _compare_apps(connection, replayed, digests)
        findings = [*chains.findings, *unlike, *hidden, *_check_polls(connection)]
    findings += check_heads(witnessed, watched)
    return Checked(chains.rows, tuple(chains.heads.values()), tuple(findings), notes)


def _read_changes(connection: Connection, chains: Chains) -> None:
    times = Microseconds()

    def take(batch: list[list[bytes]]) -> None:
        for row in batch:
            try:
                row[10] = times[row[10]]
                row[11] = times[row[11]]
                row[15] = times[row[15]]
                row[16] = times[row[16]]
                row[17] = times[row[17]]
                row[18] = times[row[18]]
            except ValueError:
                pass  # no hash can have held such a time, so the chain is broken here
            row[19] = b"" if row[19] == NULL else row[19][2:]  # after the \x
            row[20] = row[20][2:]
        chains.add(batch)

    read_rows(connection, "change", "c.region, c.sdk_app_id, c.seq", take)
    chains.end()


def _compare_snapshot(
    connection: Connection, replayed: Replayed
) -> tuple[list[Finding], dict[AppKey, bytes]]:
    """The stored snapshot must be what replaying gives; also its digest for each app."""
    findings: list[Finding] = []
    digests: dict[AppKey, bytes] = {}
    times = Microseconds()
    place: tuple[bytes, bytes] | None = None
    stored: dict[bytes, State] = {}

    def end_app() -> None:
        if place is None:
            return
        app = AppKey(json.loads(place[0]), int(place[1]))
        digests[app] = _digest(stored)
        slots = replayed.get(app, {})
        unlike = {slot for slot in slots.keys() | stored if slots.get(slot) != stored.get(slot)}
        findings.extend(_unlike(app, slot) for slot in sorted(unlike, key=int))

    def take(batch: list[list[bytes]]) -> None:
        nonlocal place, stored
        for region, number, slot, name, attr_type, not_before, seen_at in batch:
            if (region, number) != place:
                end_app()
                place, stored = (region, number), {}
            try:
                stored[slot] = (name, attr_type, times[not_before], times[seen_at])
            except ValueError:  # no change can have led to it
                stored[slot] = (name, attr_type, not_before, seen_at)

    read_rows(connection, "snapshot", "c.region, c.sdk_app_id, c.slot", take)
    end_app()
    for app in sorted(app for app, slots in replayed.items() if slots and app not in digests):
        findings += [_unlike(app, slot) for slot in sorted(replayed[app], key=int)]
    return findings, digests


def _unlike(app: AppKey, slot: bytes) -> Finding:
    what = f"snapshot slot {slot.decode()} is not what replaying its changes gives"
    return Finding(*app, None, what, "snapshot")


def _compare_apps(
    connection: Connection, replayed: Replayed, digests: Mapping[AppKey, bytes]
) -> tuple[list[Finding], tuple[str, ...]]:
    """An app's digest must be that of its snapshot, and no app with changes may be hidden."""
    findings: list[Finding] = []
    notes: list[str] = []
    hidden = set(replayed)

    def take(batch: list[list[bytes]]) -> None:
        for region, number, first_ok_at, digest in batch:
            app = AppKey(json.loads(region), int(number))
            if app not in replayed and (not _is_label(app.region) or app.sdk_app_id <= 0):
                notes.append(
                    f"attr_audit.app has a row for region {app.region!r}, SDKAppID "
                    f"{app.sdk_app_id}, which cannot be an app and has no changes. It was added "
                    "without polling; the owner can delete it."
                )
                continue
            if first_ok_at == NULL:
                continue
            hidden.discard(app)
            if _hex(digest) != digests.get(app, _digest({})):
                what = "app.snapshot_digest is not that of the snapshot"
                findings.append(Finding(*app, None, what, "snapshot"))

    read_rows(connection, "app", "c.region, c.sdk_app_id", take)
    findings += [
        Finding(*app, None, "has changes, but no row in app that lets views show them", "app")
        for app in sorted(hidden)
    ]
    return findings, tuple(notes)


def _check_polls(connection: Connection) -> list[Finding]:
    """A change comes from a good poll of its app and run; a poll is recorded when it is made."""
    findings = []
    for row in connection.execution_options(stream_results=True).execute(text(_CITES)):
        what = f"cites poll {row.poll_id}, which is not a good poll of this app and run"
        findings.append(Finding(row.region, row.sdk_app_id, row.seq, what, "poll"))
    for row in connection.execute(text(_BACKDATED_POLLS)):
        what = (
            f"{row.polls} polls are dated more than 1 hour before they were recorded, "
            f"poll {row.first_poll} first"
        )
        findings.append(Finding(row.region or "?", row.sdk_app_id or 0, None, what, "poll"))
    return findings


def check_export(path: Path, witnessed: Iterable[Head] = ()) -> Checked:
    """Verify a CSV of ``sql/queries/export_for_auditor.sql``. Raises NotAnExport."""
    witnessed = tuple(witnessed)
    watched = watch(witnessed)
    chains = Chains("export", watched)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {*HASHED, "prev_hash", "row_hash", "kind", "old_known", "new_known"}
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise NotAnExport(
                f"{path} lacks the columns {', '.join(sorted(missing))}: write it with "
                "sql/queries/export_for_auditor.sql"
            )
        try:
            for record in reader:
                row = [_token(record, column) for column in HASHED]
                row += [record["prev_hash"].encode(), record["row_hash"].encode()]
                chains.add([[*row, token(record["kind"])]])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotAnExport(f"{path}: a row cannot be read: {error}") from None
    chains.end()
    findings = (*chains.findings, *check_heads(witnessed, watched))
    return Checked(chains.rows, tuple(chains.heads.values()), findings)


_TEXTS = ("region", "answer", "dag_run_id")


def _token(record: Mapping[str, str], column: str) -> bytes:
    value = record[column]
    if column in ("old_name", "new_name"):
        # An empty name and no name are the same text in a CSV.
        known = {"t": True, "f": False}[record[column.replace("name", "known")]]
        return token(value if known else None)
    if value == "":
        return NULL
    if column == "is_baseline":
        return token({"t": True, "f": False}[value])
    return token(value if column in _TEXTS else int(value))


def _hex(written: bytes) -> bytes:
    return b"" if written == NULL else written[2:]  # after the \x


def _digest(slots: Mapping[bytes, State]) -> bytes:
    items = sorted(slots.items(), key=lambda item: int(item[0]))
    inner = b", ".join(b"[%b, %b, %b]" % (slot, s[0], s[1]) for slot, s in items)
    return sha256(b"[" + inner + b"]").hexdigest().encode()


def _is_label(region: str) -> bool:
    return bool(re.fullmatch(r"[^/\x00-\x1f\s](?:[^/\x00-\x1f]*[^/\x00-\x1f\s])?", region))


# As far back as every poll is kept; an hour's margin for polls that span its beginning.
_CITES = """
select c.region, c.sdk_app_id, c.seq, c.poll_id
  from only attr_audit.change as c
 where c.seen_at >= (select min(p.requested_at) + interval '1 hour' from attr_audit.poll as p)
   and not exists (select from attr_audit.poll as p
                    where p.poll_id = c.poll_id and p.region = c.region
                      and p.sdk_app_id = c.sdk_app_id and p.outcome = 'ok'
                      and p.dag_run_id is not distinct from c.dag_run_id)
 order by c.region, c.sdk_app_id, c.seq
"""

# A poll is recorded by the task that made it, and no task runs for an hour.
_BACKDATED_POLLS = """
select p.region, p.sdk_app_id, count(*) as polls, min(p.poll_id) as first_poll
  from attr_audit.poll as p
 where p.recorded_at - p.requested_at > interval '1 hour'
 group by p.region, p.sdk_app_id
 order by p.region, p.sdk_app_id
"""
