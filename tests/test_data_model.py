"""docs/data-model.md says what the database says, and its program checks an export by itself."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from im_attr_audit.record.checks.verify import check_export
from im_attr_audit.record.store import record_polls
from sqlalchemy import text

from launch.postgres import EmbeddedPostgres
from tests import story
from tests.conftest import AuditDb
from tests.data_model import COMMAND, PAGE, Page
from tests.history import NamesLike, polled
from tests.psql import QUERIES, psql

EXPORT = (QUERIES / "export_for_auditor.sql").read_text(encoding="utf-8")
Records: TypeAlias = list[dict[str, str]]


@pytest.fixture(scope="module")
def week(postgres: EmbeddedPostgres, template: str) -> str:
    return story.week(postgres, template)


def test_the_page_says_what_the_database_says(postgres: EmbeddedPostgres, week: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert Page(postgres, week).regenerate(page) == page, f"run `{COMMAND}`"


def test_the_page_has_every_relation_and_names_its_command(
    postgres: EmbeddedPostgres, week: str
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert COMMAND in page
    listed = psql(
        postgres,
        week,
        "select 'relation ' || relname from pg_class "
        "where relnamespace = 'attr_audit'::regnamespace "
        "and relkind in ('r', 'v', 'p') and not relispartition and relname <> 'alembic_version' "
        "and has_table_privilege(oid, 'select') "
        "union all select 'function ' || proname from pg_proc "
        "where pronamespace = 'attr_audit'::regnamespace and proretset "
        "and has_function_privilege(oid, 'execute')",
        "-At",
    ).split("\n")
    for relation in filter(None, listed):
        assert f"<!-- generated: {relation} -->" in page
    for link in re.findall(r"\]\(#([^)]+)\)", page):
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        assert link in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


# The auditor's program --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very block that the page prints, as a file."""
    page = PAGE.read_text(encoding="utf-8")
    [block] = re.findall(r"tests run this very block -->\n```python\n(.+?)```", page, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 22
    path = tmp_path_factory.mktemp("auditor") / "check.py"
    path.write_text(block, encoding="utf-8")
    return path


def check(program: Path, export: Path) -> tuple[int, str]:
    """How the program ends, and what it says; in a Python without anything installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program), str(export)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


HOSTILE = [
    "",
    " ",
    "NULL",
    "\\.",
    "\\N",
    'say "hi", ok',
    "two\nlines\r\nand\ttab",
    "\x01\x1f\x7f\u2028",
    "会员等级 🎟️ e\u0301",
    "\\u0000 \\\\ /",
    "-- ' ; drop",
    "a" * 1024,
]


@pytest.fixture
def export(audit_db: AuditDb, tmp_path: Path) -> Path:
    """An export with every kind of change, and names that a careless reader of CSV mangles."""
    with audit_db.owner.begin() as connection:
        connection.execute(
            text("select attr_audit_internal.create_poll_partition(date '2026-11-01')")
        )
    hostile: NamesLike = dict(enumerate(HOSTILE))
    steps: list[tuple[str, NamesLike]] = [
        ("all_member_push", hostile),
        ("all_member_push", {slot: name for slot, name in hostile.items() if slot % 2}),
        ("all_member_push", {slot + 1: name for slot, name in hostile.items()}),
        ("timpush", {0: ("", 0), 1: ("", 1), 2: "x"}),  # another source: '' may become none
        ("timpush", {0: ("", 1), 1: ("y", 1)}),
        ("timpush", {0: ("", 1), 1: ("", 1)}),
    ]
    for number, (api, names) in enumerate(steps):
        polls = [
            polled(names, names, at=900 * number, api=api),
            polled(hostile, hostile, at=900 * number, region="seoul"),
        ]
        record_polls(audit_db.writer, polls, dag_run_id=f"run {number}", try_number=1)
    path = tmp_path / "export.csv"
    path.write_bytes(psql(audit_db.server, audit_db.name, EXPORT).encode())
    return path


def edit(export: Path, change: Callable[[Records], object]) -> None:
    """Forge the file."""
    with export.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    change(records)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, records[0].keys())
    writer.writeheader()
    writer.writerows(records)
    export.write_bytes(out.getvalue().encode())


def test_the_program_recomputes_the_chain_and_prints_the_heads(
    program: Path, export: Path, audit_db: AuditDb
) -> None:
    with audit_db.reader.connect() as connection:
        chains = connection.execute(text("select * from attr_audit.verify_chain()")).all()
        kinds = connection.execute(text("select distinct kind from attr_audit.change")).scalars()
        assert set(kinds) == {"baseline", "added", "renamed", "removed", "retyped"}
    code, said = check(program, export)
    assert code == 0
    assert sorted(said.split("\n")) == sorted(
        ["", *(f"{c.region}/{c.sdk_app_id} {c.head_seq} {c.head_hash.hex()}" for c in chains)]
    )
    assert check_export(export).findings == ()  # the command comes to the same


COLUMNS = [
    *("change_id", "region", "sdk_app_id", "seq", "slot", "kind"),
    *("old_known", "old_name", "new_known", "new_name", "old_type", "new_type", "is_baseline"),
    *("not_before_us", "seen_at_us", "answer", "poll_id", "dag_run_id", "recorded_at_us"),
    *("prior_ok_at_us", "old_not_before_us", "old_seen_at_us", "prev_hash", "row_hash"),
]


def test_the_export_has_these_columns(export: Path) -> None:
    with export.open(newline="", encoding="utf-8") as file:
        assert csv.DictReader(file).fieldnames == COLUMNS


@pytest.mark.parametrize("column", COLUMNS)
def test_the_program_finds_an_edit_of_any_column(program: Path, export: Path, column: str) -> None:
    def forge(records: Records) -> None:
        record = next(r for r in records if r["kind"] == "renamed" and r["old_name"] == "")
        value = record[column]
        other: Any = {"t": "f", "f": "t", "": "1"}.get(value)
        if other is None:
            other = str(int(value) + 1) if value.lstrip("-").isdigit() else f"{value}x"
        record[column] = other

    edit(export, lambda records: None)
    assert check(program, export)[0] == 0  # rewriting the file alone changes nothing
    edit(export, forge)
    code, said = check(program, export)
    assert code == 1
    assert "not as it was recorded" in said


def swap(records: Records) -> None:
    records[3], records[4] = records[4], records[3]


@pytest.mark.parametrize(
    "forge",
    [
        lambda records: records.pop(0),
        lambda records: records.pop(5),
        lambda records: records.insert(5, records[5]),
        swap,
        lambda records: records[7].update(old_known="t", kind="renamed"),
        lambda records: records[0].update(new_known="f"),
    ],
    ids=["first row gone", "middle row gone", "row twice", "order", "none as empty", "name gone"],
)
def test_the_program_finds_rows_gone_doubled_or_moved(
    program: Path, export: Path, forge: Callable[[Records], object]
) -> None:
    edit(export, forge)
    assert check(program, export)[0] == 1


def test_a_cut_tail_and_a_dropped_app_show_in_the_heads(program: Path, export: Path) -> None:
    before = check(program, export)[1]
    edit(export, lambda records: records.pop())
    code, cut = check(program, export)
    assert (code, cut == before) == (0, False)
    edit(
        export,
        lambda records: records.__setitem__(
            slice(None), [r for r in records if r["region"] != "seoul"]
        ),
    )
    code, dropped = check(program, export)
    assert code == 0
    assert "seoul" not in dropped
