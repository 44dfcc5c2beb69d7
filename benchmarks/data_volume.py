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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im_attr_audit.record.upkeep.migrate import migrate, sql_directory

from benchmarks.volume_fill import CHANGES, PICKED, POLLS, SLOTS, Size, all_apps, fill
from benchmarks.volume_questions import GOALS, STATEMENTS, VARIABLES
from launch.postgres import MAJOR, SETTINGS, THROWAWAY, EmbeddedPostgres
from tests.psql import psql

TIMES = 25


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


#: Never read whole where names are asked for (the issue of a sequential scan).
LARGE = re.compile(r"seq `(change|poll)`")


def measure_statements(server: EmbeddedPostgres, database: str, *, few: bool) -> list[Measured]:
    """Every view and function, as the reader; few rows may well be read whole."""
    measured = []
    for question, statement in STATEMENTS.items():
        row = _measure(server, database, question, statement)
        by_index = ("`names_as_of`", "`current_names`", "`daily_changes`: a week")
        if not few and question.startswith(by_index):
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
    """Execution time and plan, as EXPLAIN ANALYZE reports them; processor time without helpers.

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
    hourly, _ = all_apps(size)
    values = {**hourly.values(hourly.polls + 1), "count": 5000}
    with server.connect(database) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        for number in range(6):
            how = "without" if number % 2 else "with"
            cursor.execute(PICKED)
            cursor.execute(POLLS, values)
            if how == "without":
                cursor.execute("drop index attr_audit.change_by_span")
            began = time.monotonic()
            cursor.execute(CHANGES, values)
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
        "through the product's own triggers; and a group of six apps with a poll every 15 minutes "
        "for a quarter. *ms* is the server's execution time as the reader: "
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
        *_table("views and functions", [row for row in statements if row.question not in GOALS]),
        "",
        "*A group* is five apps with a poll an hour. *Goal* is the most milliseconds it may take.",
        "",
        *_questions_table([row for row in statements if row.question in GOALS]),
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
        (25, "25 (the default), and the running month"),
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


def _questions_table(rows: list[Measured]) -> list[str]:
    return [
        "| questions of a window or a group | rows | ms | fastest | CPU | goal |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {r.question} | {r.rows:,} | {_ms(r.milliseconds)} | {_ms(r.fastest)} "
            f"| {_ms(r.processor)} | {GOALS[r.question] or 'by an index'} |"
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
