"""How fast analyst queries are at 10 million polls and 1 million changes.

Fills a Postgres of its own in a temporary folder, through the product's own triggers, and measures
every view and query. It takes a quarter of an hour and 5 GB of disk.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from im_attr_audit.record.migrate import migrate, sql_directory

from launch.postgres import MAJOR, SETTINGS, THROWAWAY, EmbeddedPostgres
from tests.psql import psql

FIRST = "2026-10-01"
SLOTS = 10
TIMES = 25


@dataclass(frozen=True)
class Size:
    """How much to fill in: hourly polls of every app, and changes spread evenly over the hours."""

    apps: int
    hours: int
    changes: int

    @property
    def changes_per_hour(self) -> int:
        return round((self.changes - self.apps * SLOTS) / (self.hours - 1))


# Filling -----------------------------------------------------------------------------------------

_APPS = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, first_polled_at, first_ok_at,
                            last_polled_at, last_ok_at, last_outcome, conn_id, ok_api)
select (array['china', 'singapore', 'seoul', 'frankfurt', 'silicon_valley'])[1 + i %% 5],
       1400000000 + i, 'group ' || i / 5, 'all_member_push', t, t, t, t, 'ok', 'im_' || i,
       'all_member_push'
  from generate_series(1, %(apps)s) i, cast(%(first)s as timestamptz) as t;

insert into attr_audit.change (region, sdk_app_id, slot, new_name, is_baseline, seen_at, answer,
                               poll_id, dag_run_id)
select region, sdk_app_id, slot, 'attribute ' || slot, true,
       last_ok_at + sdk_app_id %% 60000 * interval '1 ms',
       %(answer)s, 1, 'scheduled__0'
  from attr_audit.app, generate_series(0, 9) slot
 order by region, sdk_app_id, slot;

create temporary table picked (region text, sdk_app_id bigint, slot smallint);
"""

_CHANGES = """
truncate picked;
insert into picked
select a.region, a.sdk_app_id, r.slot
  from (select distinct 1400000001 + floor(random() * %(apps)s)::bigint as sdk_app_id,
               floor(random() * 10)::smallint as slot
          from generate_series(1, %(count)s)) r
  join attr_audit.app a using (sdk_app_id);
analyze picked;
update attr_audit.app a
   set last_ok_at = cast(%(at)s as timestamptz) - interval '1 hour'
  from picked p
 where a.region = p.region and a.sdk_app_id = p.sdk_app_id;
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, answer, poll_id, dag_run_id)
select region, sdk_app_id, slot, s.name,
       case when s.name is null or random() < 0.9
            then 'attribute ' || slot || ' version ' || %(hour)s end,
       false, cast(%(at)s as timestamptz) - interval '1 hour',
       -- Every app's answer arrives at a moment of its own.
       cast(%(at)s as timestamptz) + sdk_app_id %% 60000 * interval '1 ms', %(answer)s, 1,
       'scheduled__' || %(hour)s
  from picked p
  left join attr_audit.snapshot s using (region, sdk_app_id, slot)
 order by region, sdk_app_id, slot;
"""

_POLLS = """
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_info, vendor_date)
select conn_id, region, sdk_app_id, api, 'scheduled__' || hour, 1, t, t, t + interval '0.1 s',
       case when bad then 'unavailable' else 'ok' end, 1, case when bad then 502 else 200 end,
       case when bad then 'HTTP 502' end, t
  from (select a.*, hour, (a.sdk_app_id * 7919 + hour * 104729) %% 200 = 0 as bad,
               cast(%(first)s as timestamptz) + hour * interval '1 hour'
               + a.sdk_app_id %% 60000 * interval '1 ms' as t
          from generate_series(%(hour)s, %(hour)s + 9) hour, attr_audit.app a) p
"""

_DONE = """
update attr_audit.app
   set last_ok_at = cast(%(at)s as timestamptz), last_polled_at = cast(%(at)s as timestamptz);
"""

ANSWER = (
    '{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"AttrNames":{'
    + ",".join(f'"{slot}":"attribute {slot} version 100"' for slot in range(SLOTS))
    + "}}"
)


def fill(server: EmbeddedPostgres, database: str, size: Size) -> None:
    """The given number of polls and changes, through the triggers of the product."""
    with server.connect(database) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("select setseed(0.4)")
        # Its changes come from no polls of their own.
        cursor.execute("alter table attr_audit.change disable trigger refuse_unfounded_changes")
        cursor.execute(
            "select attr_audit_internal.create_poll_partition(m::date) from generate_series("
            "date %s, now(), '1 month') m",
            (FIRST,),
        )
        values: dict[str, Any] = {
            "apps": size.apps,
            "first": f"{FIRST} 00:00Z",
            "answer": ANSWER,
            "count": size.changes_per_hour,
        }
        cursor.execute(_APPS, values)
        with timed(f"{size.changes:,} changes"):
            for hour in range(1, size.hours):
                cursor.execute(_CHANGES, {**values, "hour": hour, "at": _at(hour)})
                if hour % 20 == 0:  # what autovacuum would do in the meantime
                    cursor.execute("vacuum attr_audit.snapshot, attr_audit.app")
        with timed(f"{size.apps * size.hours:,} polls"):
            for hour in range(0, size.hours, 10):
                cursor.execute(_POLLS, {**values, "hour": hour})
        cursor.execute(_DONE, {"at": _at(size.hours - 1)})
        with timed("vacuum, analyze"):
            cursor.execute("vacuum analyze")


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


# Measuring ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One question: how much it gave, how long the server took, how busy it was, what it read."""

    question: str
    rows: int
    milliseconds: float
    fastest: float
    processor: float | None
    reads: str


MIDDLE = "2026-10-21 12:34:56Z"
ONE_APP = "region = 'seoul' and sdk_app_id = 1400000002"
STATEMENTS: dict[str, str] = {
    "`names_as_of`: the whole map, two days after the begin": (
        "select * from attr_audit.names_as_of('2026-10-03 12:34:56Z')"
    ),
    "`names_as_of`: the whole map, in the middle": (
        f"select * from attr_audit.names_as_of('{MIDDLE}')"
    ),
    "`names_as_of`: the whole map, two days before the end": (
        "select * from attr_audit.names_as_of('2026-11-09 12:34:56Z')"
    ),
    "`names_as_of`: one app": f"select * from attr_audit.names_as_of('{MIDDLE}') where {ONE_APP}",
    "the changes of one run": (
        "select * from attr_audit.change where dag_run_id = 'scheduled__500' "
        "order by region, sdk_app_id, seq"
    ),
    "`current_names`: everything": "select * from attr_audit.current_names",
    "`current_names`: one app": f"select * from attr_audit.current_names where {ONE_APP}",
    "`name_history`: everything": "select * from attr_audit.name_history",
    "`name_history`: one app": f"select * from attr_audit.name_history where {ONE_APP}",
    "`drift`": "select * from attr_audit.drift",
    "`freshness`": "select * from attr_audit.freshness",
    "`coverage_gaps()`: everything": "select * from attr_audit.coverage_gaps()",
    "`coverage_gaps()`: one app": f"select * from attr_audit.coverage_gaps() where {ONE_APP}",
    "`daily_changes`": "select * from attr_audit.daily_changes",
    "`verify_chain()`": "select * from attr_audit.verify_chain()",
}
#: What a query is asked with, where its default would look at another time than was filled in.
VARIABLES: dict[str, dict[str, str]] = {
    "slot_on_a_date": {"at": MIDDLE},
    "changes_last_week": {"until": "2026-11-11 12:00Z"},
    "failed_polls_per_day": {"until": "2026-11-11 12:00Z"},
    "stale_apps": {"at": "2026-11-11 17:30Z"},
    "gaps_in_knowledge": {"at": "2026-11-11 15:30Z"},
    "names_no_longer_there": {"names": '["attribute 3 version 500", "attribute 4"]'},
}
#: Never read whole where names are asked for (the issue of a sequential scan).
LARGE = re.compile(r"seq `(change|poll)`")


def measure_statements(server: EmbeddedPostgres, database: str, *, few: bool) -> list[Measured]:
    """Every view and function, as the reader; few rows may well be read whole."""
    measured = []
    for question, statement in STATEMENTS.items():
        row = _measure(server, database, question, statement)
        if not few and question.startswith(("`names_as_of`", "`current_names`")):
            assert not LARGE.search(row.reads), row
        measured.append(row)
    return measured


def measure_queries(server: EmbeddedPostgres, database: str) -> list[Measured]:
    """Every file of sql/queries, as the reader."""
    measured = []
    for path in sorted((sql_directory() / "queries").glob("*.sql")):
        link = f"[{path.stem}](../sql/queries/{path.name})"
        script = path.read_text(encoding="utf-8")
        # The last statement is what begins a line after the last of psql's own commands.
        own = max((m.end() for m in re.finditer(r"^ *\\.*$", script, re.MULTILINE)), default=0)
        start = re.compile(r"^(select|with|copy)\b", re.MULTILINE).search(script, own)
        assert start is not None, path
        opening, statement = script[: start.start()], script[start.start() :].strip().rstrip(";")
        if statement.startswith("copy ("):
            statement = statement.removeprefix("copy (").rpartition(") to stdout")[0]
        variables = VARIABLES.get(path.stem, {})
        measured.append(_measure(server, database, link, statement, opening, variables))
    return measured


# Counting rows is needed; what PostgreSQL 18 counts beside them unasked costs a tenth of the time.
_EXPLAIN = "explain (analyze, timing off, buffers off, format json)"


def _measure(
    server: EmbeddedPostgres,
    database: str,
    question: str,
    statement: str,
    opening: str = "",
    variables: dict[str, str] | None = None,
) -> Measured:
    """Execution time and plan, as EXPLAIN ANALYZE tells them; processor time without helpers.

    On a machine that is busy with other things the processor time is the one to trust.
    """
    statement = f"{_EXPLAIN} {statement};\n"
    variables = variables or {}
    [first] = _run(server, database, opening + statement, variables)[0]
    runs, alone = TIMES, 5
    if first["Execution Time"] > 200:
        runs, alone = (3, 1) if first["Execution Time"] < 2_000 else (1, 1)
    found, _ = _run(server, database, opening + statement * (runs + 1), variables)
    opening += "set max_parallel_workers_per_gather = 0;\n" + statement
    processor = [
        spent
        for _ in range(2)
        for spent in _run(server, database, opening, variables, looked_at=statement * alone)[1]
    ]
    times = [run["Execution Time"] for run in found[1:]]
    row = Measured(
        question,
        round(first["Plan"]["Actual Rows"]),
        statistics.median(times),
        min(times),
        min(processor) / alone if processor else None,
        _reads(first["Plan"], _parents(server, database)),
    )
    print(row, file=sys.stderr, flush=True)
    return row


def _run(
    server: EmbeddedPostgres,
    database: str,
    script: str,
    variables: dict[str, str],
    *,
    looked_at: str = "",
) -> tuple[list[dict[str, Any]], list[float]]:
    """What EXPLAIN says in one session of psql, and its milliseconds on a processor (on Linux)."""
    look = "\\! cat /proc/$PID/schedstat 2>/dev/null || true\n"
    if looked_at:
        script += (
            "select pg_backend_pid() as pid \\gset\n\\setenv PID :pid\n" + look + looked_at + look
        )
    printed = psql(server, database, script, "-At", **variables)
    spent = [int(line) for line in re.findall(r"^(\d+) \d+ \d+$", printed, re.MULTILINE)]
    blocks = re.findall(r"^\[$.*?^\]$", printed, re.MULTILINE | re.DOTALL)
    return (
        [json.loads(block)[0] for block in blocks],
        [(after - before) / 1e6 for before, after in itertools.pairwise(spent)],
    )


def _at(hour: int) -> str:
    first = datetime.fromisoformat(f"{FIRST}T00:00+00:00")
    return (first + timedelta(hours=hour)).isoformat()


@functools.cache
def _parents(server: EmbeddedPostgres, database: str) -> dict[str, str]:
    """What each month's table and indexes are parts of."""
    with server.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select inhrelid::regclass::text, inhparent::regclass::text from pg_inherits"
        )
        bare = [tuple(name.removeprefix("attr_audit.") for name in row) for row in cursor]
        return dict(bare)


def _reads(plan: dict[str, Any], parents: dict[str, str]) -> str:
    """Which tables and indexes a plan reads, and how; the months of poll as one."""
    seen: dict[str, int] = {}

    def walk(node: dict[str, Any]) -> None:
        kind = node["Node Type"]
        if "Scan" in kind and ("Index Name" in node or "Relation Name" in node):
            name = node.get("Index Name") or node["Relation Name"]
            how = "seq" if kind == "Seq Scan" else "index only" if "Only" in kind else "index"
            if kind == "Bitmap Heap Scan":
                how = "bitmap"
            parallel = "parallel " if node.get("Parallel Aware") else ""
            seen[f"{parallel}{how} `{parents.get(name, name)}`"] = 1
        for child in node.get("Plans", []):
            walk(child)

    walk(plan)
    return ", ".join(seen)


def measure_sizes(server: EmbeddedPostgres, database: str) -> list[tuple[str, int, int, int]]:
    """Each table with its rows and its bytes, without and with its indexes."""
    with server.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select regexp_replace(relname, '_\\d{4}_\\d{2}$', ''), sum(reltuples)::bigint, "
            "sum(pg_table_size(oid))::bigint, sum(pg_total_relation_size(oid))::bigint "
            "from pg_class where relnamespace::regnamespace::text like 'attr_audit%' "
            "and relkind = 'r' and relname ~ '^(app|change|snapshot|poll)' group by 1 order by 1"
        )
        return cursor.fetchall()


def measure_inserts(server: EmbeddedPostgres, database: str, size: Size) -> dict[str, float]:
    """Microseconds a change, with change_by_span and without it; nothing of it is kept."""
    taken: dict[str, list[float]] = {"with": [], "without": []}
    with server.connect(database) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        for number in range(6):
            how = "without" if number % 2 else "with"
            cursor.execute(
                "create temporary table picked (region text, sdk_app_id bigint, slot smallint)"
            )
            if how == "without":
                cursor.execute("drop index attr_audit.change_by_span")
            began = time.monotonic()
            cursor.execute(
                _CHANGES,
                {
                    "apps": size.apps,
                    "count": 5000,
                    "answer": ANSWER,
                    "hour": size.hours + 1,
                    "at": _at(size.hours + 1),
                },
            )
            cursor.execute("select count(*) from picked")
            [count] = cursor.fetchone() or (1,)
            taken[how].append((time.monotonic() - began) * 1e6 / count)
            connection.rollback()
    return {how: min(times) for how, times in taken.items()}


# The page ----------------------------------------------------------------------------------------


def report(
    size: Size,
    statements: list[Measured],
    queries: list[Measured],
    sizes: list[tuple[str, int, int, int]],
    inserts: dict[str, float],
) -> str:
    """The generated part of the page."""
    lines = [
        "### Analyst queries",
        "",
        f"PostgreSQL {MAJOR} with the embedded server's own settings "
        f"({SETTINGS['shared_buffers']} shared buffers). {size.apps:,} apps of {SLOTS} "
        f"slots, {size.apps * size.hours:,} polls and {size.changes:,} changes, all written "
        "through the product's own triggers. *ms* is the server's execution time as the reader: "
        f"the median of {TIMES} runs (3 runs above 0.2 s, one above 2 s). *fastest* is the fastest "
        "of these runs. *CPU* is the time of one process without parallel workers, planning "
        "included; on a busy machine, trust this figure.",
        "",
        "| table | rows | table | with its indexes | bytes a row |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| `{table}` | {rows:,} | {_megabytes(bare)} | {_megabytes(total)} "
            f"| {total / rows:,.0f} |"
            for table, rows, bare, total in sizes
            if rows > 0
        ),
        "",
        *_table("views and functions", statements),
        "",
        *_table("queries", queries),
        "",
        *_plan_on_paper({table: total / rows for table, rows, _, total in sizes if rows > 0}),
        "",
        f"Recording a change takes {inserts['with']:.0f} µs with `change_by_span` and "
        f"{inserts['without']:.0f} µs without it, its chain, snapshot and other indexes included.",
    ]
    return "\n".join(lines)


def _plan_on_paper(bytes_a_row: dict[str, float]) -> list[str]:
    """10,000 apps, polled every 15 minutes for two years, from the bytes measured."""
    a_month = 10_000 * 96 * 365 / 12
    lines = [
        "10,000 apps polled every 15 minutes, computed from these bytes:",
        "",
        "| months of `poll` kept | rows | bytes, indexes included |",
        "|---|---:|---:|",
    ]
    for months, why in (
        (25, "25 (the default: two years and the running one)"),
        (13, "13"),
        (4, "4"),
    ):
        rows = months * a_month
        lines.append(
            f"| {why} | {rows / 1e6:,.0f} million | {rows * bytes_a_row['poll'] / 1e9:,.0f} GB |"
        )
    changes = 10_000 * 12 * 2 * bytes_a_row["change"] / 1e6
    lines += [
        "",
        f"`change` is kept for good: at one change of every app a month, {changes:,.0f} MB in two "
        f"years. Each month of `poll` is a table of {a_month / 1e6:,.0f} million rows of its own.",
    ]
    return lines


def _table(head: str, rows: list[Measured]) -> list[str]:
    return [
        f"| {head} | rows | ms | fastest | CPU | reads |",
        "|---|---:|---:|---:|---:|---|",
        *(
            f"| {r.question} | {r.rows:,} | {_ms(r.milliseconds)} | {_ms(r.fastest)} "
            f"| {_ms(r.processor)} | {r.reads} |"
            for r in rows
        ),
    ]


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "?"
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def measure(quick: bool) -> dict[str, str]:
    """Fill and measure; what the page shows of it."""
    size = Size(100, 100, 5_000) if quick else Size(10_000, 1_000, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as directory:
        settings = {**THROWAWAY, "max_wal_size": "4GB", "autovacuum": "off"}
        server = EmbeddedPostgres(Path(directory) / "postgres", settings=settings)
        server.start()
        try:
            server.ensure_database("volume")
            migrate(server.url("volume"))
            server.ensure_role("attr_audit_reader")
            fill(server, "volume", size)
            part = report(
                size,
                measure_statements(server, "volume", few=quick),
                measure_queries(server, "volume"),
                measure_sizes(server, "volume"),
                measure_inserts(server, "volume", size),
            )
        finally:
            server.destroy()
    return {"page": part}


def render(figures: dict[str, str]) -> str:
    """The page's section."""
    return figures["page"]
