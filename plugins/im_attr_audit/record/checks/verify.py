"""Whether the record is still what was recorded: chains, snapshot, polls, and heads kept elsewhere.

Everything is recomputed here from the stored rows (`tables`), streaming: memory grows with
apps and names, not with changes. A chain alone shows every edit that leaves it inconsistent. The
tables' owner can also rewrite a whole chain consistently, cut its tail or drop an app; that is
found only against heads that something outside witnessed (`heads`).

Nothing here writes to the record.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from im_attr_audit.record.checks.canonical import HASHED, NULL, Chains, token
from im_attr_audit.record.checks.heads import Finding, Head, NotAnExport, check_heads, watch
from im_attr_audit.record.checks.parts import check_in_parts, processes_for, reading
from im_attr_audit.record.checks.quick_chains import SPAN_FOLLOWS
from im_attr_audit.record.checks.review_rows import check_reviews
from im_attr_audit.record.checks.tables import KEPT_SINCE, prepare
from im_attr_audit.text_format import counted


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the heads of what it read, and the findings (none: all is well).

    ``notes`` are worth a look and are not findings. ``reviews``: how many were checked.
    """

    rows: int
    heads: tuple[Head, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    reviews: int = 0


def check_database(
    engine: Engine, witnessed: Iterable[Head] = (), *, processes: int | None = None
) -> Checked:
    """Verify chains, snapshot, polls and reviews of the database, and compare with witnessed heads.

    ``processes``: how many check at once; None: what suits the record and the machine. Raises
    NotATable where the record's tables are not plain tables, and PartFailed where a part of the
    record could not be checked.
    """
    witnessed = tuple(witnessed)
    watched = watch(witnessed)
    # One moment for everything: a sync that commits in between is not a finding.
    with reading(engine) as connection:
        prepare(connection)
        parts = check_in_parts(engine, connection, watched, processes or processes_for(connection))
        findings = [*chain.from_iterable(part.findings for part in parts)]
        if not all(part.spans_follow for part in parts):
            findings += _check_spans(connection)
        findings += _check_polls(connection)
        reviews = check_reviews(connection)
        findings += reviews.findings
    for part in parts:
        watched |= part.watched
    findings += check_heads(witnessed, watched)
    return Checked(
        sum(part.rows for part in parts),
        tuple(chain.from_iterable(part.heads for part in parts)),
        tuple(findings),
        tuple(chain.from_iterable(part.notes for part in parts)),
        reviews.rows,
    )


def _check_spans(connection: Connection) -> list[Finding]:
    """The columns by which ``names_as_of`` finds a change follow from its times."""
    found = []
    for row in connection.execute(text(_SPANS)):
        what = "span_from or span_class does not follow from its times"
        what = _and_more(what, row.changes)
        found.append(Finding(row.region, row.sdk_app_id, row.seq, what, "span"))
    return found


def _and_more(what: str, changes: int) -> str:
    return what if changes == 1 else f"{what}; the same holds for {changes - 1} more of its changes"


def _check_polls(connection: Connection) -> list[Finding]:
    """A change comes from a good poll of its app and run; a poll is recorded when it is made."""
    findings = []
    for row in connection.execute(text(_CITES)):
        what = f"cites poll {row.poll_id}, which is not a good poll of this app and run"
        what = _and_more(what, row.changes)
        findings.append(Finding(row.region, row.sdk_app_id, row.seq, what, "poll"))
    for row in connection.execute(text(_BACKDATED_POLLS)):
        what = (
            f"{counted(row.polls, 'poll')} {'is' if row.polls == 1 else 'are'} dated more than "
            f"1 hour before they were recorded, poll {row.first_poll} first"
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


# As far back as every poll is kept, by the months that retention left; an hour's margin for polls
# that span its beginning. No month at all: the polls were not dropped, they are gone.
_CITES = f"""
select distinct on (c.region, c.sdk_app_id) c.region, c.sdk_app_id, c.seq, c.poll_id,
       count(*) over (partition by c.region, c.sdk_app_id) as changes
  from only attr_audit.change as c
 where c.seen_at >= coalesce(({KEPT_SINCE}) + interval '1 hour', '-infinity')
   and not exists (select from attr_audit.poll as p
                    where p.poll_id = c.poll_id and p.region = c.region
                      and p.sdk_app_id = c.sdk_app_id and p.outcome = 'ok'
                      and p.dag_run_id is not distinct from c.dag_run_id)
 order by c.region, c.sdk_app_id, c.seq
"""  # noqa: S608 - no value in it
# A poll is recorded by the task that made it, and no task runs for an hour.
_BACKDATED_POLLS = """
select p.region, p.sdk_app_id, count(*) as polls, min(p.poll_id) as first_poll
  from attr_audit.poll as p
 where p.recorded_at - p.requested_at > interval '1 hour'
 group by p.region, p.sdk_app_id
 order by p.region, p.sdk_app_id
"""

_SPANS = f"""
select distinct on (c.region, c.sdk_app_id) c.region, c.sdk_app_id, c.seq,
       count(*) over (partition by c.region, c.sdk_app_id) as changes
  from only attr_audit.change as c
 where ({SPAN_FOLLOWS}) is not true
 order by c.region, c.sdk_app_id, c.seq
"""  # noqa: S608 - no value in it
