"""The command `im-attr-audit verify`: every kind of tampering is found, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from im_attr_audit.record.publication import events_by_region
from im_attr_audit.record.runs import read_run
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.verify import (
    Head,
    check_database,
    check_export,
    check_heads,
    heads_of_event,
    read_heads,
    read_rows,
    rows_of_export,
    save_heads,
)
from sqlalchemy import text

from tests import psql
from tests.conftest import AuditDb
from tests.history import START, NamesLike, polled
from tests.test_schema import as_a_forger, months_before

QUERY = Path(__file__).parents[1] / "sql" / "queries" / "export_for_auditor.sql"

NAMES: list[NamesLike] = [
    {0: "sex", 1: "city"},
    {0: "gender", 1: "city"},
    {0: "gender", 1: "", 2: "level"},
    {0: "Geschlecht", 1: ""},
]


@pytest.fixture
def recorded(audit_db: AuditDb) -> AuditDb:
    """Two apps with seven changes each, over four runs."""
    months_before(audit_db)
    for number, names in enumerate(NAMES):
        attempts = [
            polled(names, names, at=900 * number, region=region, sdk_app_id=7)
            for region in ("frankfurt", "seoul")
        ]
        record_polls(audit_db.writer, attempts, dag_run_id=f"run {number}", try_number=1)
    return audit_db


def witnessed(db: AuditDb) -> list[Head]:
    """The heads in the asset events of the four runs."""
    return [
        head
        for number in range(len(NAMES))
        for event in events_by_region(f"run {number}", read_run(db.reader, f"run {number}").changes)
        for head in heads_of_event(event, f"event of run {number}")
    ]


def against_heads(db: AuditDb, heads: list[Head]) -> list[str]:
    apps = sorted({(head.region, head.sdk_app_id) for head in heads})
    return [str(finding) for finding in check_heads(heads, read_rows(db.reader, apps))]


def rehash(first: int, region: str = "frankfurt") -> str:
    """SQL by which an owner makes a chain consistent again after an edit of row ``first``."""
    return f"""
    do $$ declare r attr_audit.change; before bytea; begin
      for r in select * from attr_audit.change
                where region = '{region}' and seq >= {first} order by seq loop
        select row_hash into before from attr_audit.change
         where region = '{region}' and seq = r.seq - 1;
        r.prev_hash := before;
        update attr_audit.change
           set prev_hash = before,
               row_hash = sha256(convert_to(attr_audit.change_canonical(r), 'UTF8'))
         where change_id = r.change_id;
      end loop; end $$"""


def test_an_untouched_record_is_found_as_it_was_recorded(recorded: AuditDb) -> None:
    checked = check_database(recorded.reader)
    assert (checked.rows, checked.findings) == (14, ())
    assert against_heads(recorded, witnessed(recorded)) == []


def test_an_edit_is_found_at_its_row(recorded: AuditDb) -> None:
    as_a_forger(
        recorded,
        "update attr_audit.change set new_name = 'sex2' where region = 'frankfurt' and seq = 3",
    )
    found = [str(finding) for finding in check_database(recorded.reader).findings]
    assert "frankfurt/7 seq 3: the chain is broken at this row" in found


def test_a_snapshot_that_does_not_follow_from_the_changes_is_found(recorded: AuditDb) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(
            text("update attr_audit.snapshot set name = 'x' where region = 'seoul' and slot = 0")
        )
    found = [str(finding) for finding in check_database(recorded.reader).findings]
    assert found == [
        "seoul/7: snapshot slot 0 is not what replaying its changes gives",
        "seoul/7: app.snapshot_digest is not that of the snapshot",
    ]


def test_a_bound_that_was_moved_in_the_snapshot_is_found(recorded: AuditDb) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(
            text("update attr_audit.snapshot set not_before = '2020-01-01' where region = 'seoul'")
        )
    found = {str(finding) for finding in check_database(recorded.reader).findings}
    assert "seoul/7: snapshot slot 0 is not what replaying its changes gives" in found


@pytest.mark.parametrize(
    "hiding",
    [
        "delete from attr_audit.app where region = 'seoul'",
        "update attr_audit.app set first_ok_at = null, last_ok_at = null, ok_api = null"
        " where region = 'seoul'",
    ],
)
def test_an_app_whose_row_is_hidden_from_the_views_is_found(recorded: AuditDb, hiding: str) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(text(hiding))
    found = [str(finding) for finding in check_database(recorded.reader).findings]
    assert found == ["seoul/7: has changes, but no row in app that lets views show them"]


CONSISTENT: dict[str, tuple[str, str]] = {
    "an edit re-hashed to the end": (
        "update attr_audit.change set old_name = 'forged' where region = 'frankfurt' and seq = 4; "
        + rehash(4),
        "frankfurt/7 seq 4: rewritten",
    ),
    "the newest rows cut": (
        "delete from attr_audit.change where region = 'frankfurt' and seq > 5",
        "frankfurt/7 seq 6: rows from here to seq 7",
    ),
    "the whole chain of an app dropped": (
        "delete from attr_audit.change where region = 'frankfurt'",
        "frankfurt/7 seq 1: rows from here to seq 2",
    ),
    "a middle row taken out and closed up": (
        "delete from attr_audit.change where region = 'frankfurt' and seq = 4; "
        "update attr_audit.change set seq = -(seq - 1) where region = 'frankfurt' and seq > 4; "
        "update attr_audit.change set seq = -seq where seq < 0; " + rehash(4),
        "frankfurt/7 seq 4: rewritten",
    ),
}


@pytest.mark.parametrize("forgery", CONSISTENT)
def test_a_consistent_forgery_is_found_against_the_asset_events(
    recorded: AuditDb, forgery: str
) -> None:
    heads = witnessed(recorded)
    statements, finding = CONSISTENT[forgery]
    as_a_forger(recorded, statements)
    chain = [f for f in check_database(recorded.reader).findings if "chain" in f.text]
    assert chain == []  # that is why heads are kept elsewhere
    [found] = against_heads(recorded, heads)
    assert found.startswith(finding)


def test_rows_newer_than_the_last_witness_are_not_tampering(recorded: AuditDb) -> None:
    heads = [head for head in witnessed(recorded) if head.seq < 5]
    assert against_heads(recorded, heads) == []


def test_heads_saved_to_a_file_find_what_the_events_have_forgotten(
    recorded: AuditDb, tmp_path: Path
) -> None:
    file = tmp_path / "heads.json"
    save_heads(check_database(recorded.reader).heads, file, START)
    assert against_heads(recorded, read_heads(file)) == []
    as_a_forger(recorded, "delete from attr_audit.change where region = 'seoul'")
    [found] = against_heads(recorded, read_heads(file))
    assert found.startswith("seoul/7 seq 1: rows from here to seq 7")


@pytest.fixture
def export(recorded: AuditDb, tmp_path: Path) -> Path:
    """The auditor's CSV, as the real psql writes it for the reader."""
    file = tmp_path / "export.csv"
    file.write_text(psql.psql(recorded.server, recorded.name, QUERY.read_text()), encoding="utf-8")
    return file


def test_an_export_verifies_without_the_database(recorded: AuditDb, export: Path) -> None:
    checked = check_export(export)
    assert (checked.rows, checked.findings) == (14, ())
    assert {(h.region, h.seq, h.hash) for h in checked.heads} == {
        (h.region, h.seq, h.hash) for h in check_database(recorded.reader).heads
    }
    assert check_heads(witnessed(recorded), rows_of_export(export)) == ()


def test_an_edited_export_is_found_at_its_row(export: Path) -> None:
    export.write_text(export.read_text().replace("Geschlecht", "Geschlecht ", 1))
    [found] = check_export(export).findings
    assert found.seq == 6
