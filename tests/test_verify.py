"""The command `im-attr-audit verify`: every kind of tampering is found, and named."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.models.asset import AssetEvent, AssetModel
from im_attr_audit import cli
from im_attr_audit.commands import shared
from im_attr_audit.commands.asset_events import ASSET, read_witnessed_heads
from im_attr_audit.record.checks.canonical import HASHED
from im_attr_audit.record.checks.heads import Head, heads_of_event, read_heads, save_heads
from im_attr_audit.record.checks.tables import NotATable
from im_attr_audit.record.checks.verify import check_database, check_export
from im_attr_audit.record.publication import events_by_region
from im_attr_audit.record.runs import read_run
from im_attr_audit.record.store import record_polls
from im_attr_audit.settings import DAG_ID
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

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
        polls = [
            polled(names, names, at=900 * number, region=region, sdk_app_id=7)
            for region in ("frankfurt", "seoul")
        ]
        record_polls(audit_db.writer, polls, dag_run_id=f"run {number}", try_number=1)
    # These histories are made by hand, in the past; real polls are recorded when they are made.
    dated(audit_db, "responded_at")
    return audit_db


def dated(db: AuditDb, recorded_at: str) -> None:
    """Every poll gets this recorded_at."""
    with db.owner.begin() as connection:
        for part in connection.execute(
            text(
                "select inhrelid::regclass::text from pg_inherits "
                "where inhparent = 'attr_audit.poll'::regclass"
            )
        ).scalars():
            connection.execute(text(f"alter table {part} disable trigger all"))
        connection.execute(text("alter table attr_audit.poll disable trigger all"))
        connection.execute(text(f"update attr_audit.poll set recorded_at = {recorded_at}"))


def witnessed(db: AuditDb) -> list[Head]:
    """The heads in the asset events of the four runs."""
    return [
        head
        for number in range(len(NAMES))
        for event in events_by_region(f"run {number}", read_run(db.reader, f"run {number}").changes)
        for head in heads_of_event(event, f"event of run {number}")
    ]


def against_heads(db: AuditDb, heads: list[Head]) -> list[str]:
    findings = check_database(db.reader, heads).findings
    return [str(finding) for finding in findings if finding.category == "witness"]


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
               row_hash = sha256(convert_to(attr_audit_internal.change_canonical(r), 'UTF8'))
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


def test_a_forged_digest_of_names_is_found(recorded: AuditDb) -> None:
    with recorded.server.connect(recorded.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.app set names_digest = '' where region = 'frankfurt'")
        cursor.execute("update attr_audit.app set names_digest = null where region = 'seoul'")
    assert [finding for finding in found_in(recorded) if "names_digest" in finding] == []
    with recorded.server.connect(recorded.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "update attr_audit.app set names_digest = sha256('x') where region = 'seoul'"
        )
    assert found_in(recorded) == ["seoul/7: app.names_digest is not that of the snapshot"]


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
        "alter table attr_audit.change drop constraint change_of_an_app; "
        "alter table attr_audit.snapshot drop constraint snapshot_of_an_app; "
        "alter table attr_audit.membership drop constraint membership_of_an_app; "
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
    assert check_export(export, witnessed(recorded)).findings == ()


def test_an_edited_export_is_found_at_its_row(export: Path) -> None:
    export.write_text(export.read_text().replace("Geschlecht", "Geschlecht ", 1))
    [found] = check_export(export).findings
    assert found.seq == 6


def found_in(db: AuditDb) -> list[str]:
    return [str(finding) for finding in check_database(db.reader).findings]


FOOLING = {
    "verify_chain": """
        create or replace function attr_audit.verify_chain()
            returns table (region text, sdk_app_id bigint, rows_checked bigint, ok boolean,
                           first_bad_seq bigint, head_seq bigint, head_hash bytea)
            language sql stable as
        'select region, sdk_app_id, 7::bigint, true, null::bigint, 7::bigint, null::bytea
           from attr_audit.app'""",
    "change_canonical": """
        create or replace function attr_audit_internal.change_canonical(c attr_audit.change)
            returns text language sql stable as 'select null::text'""",
    "epoch_us": """
        create or replace function attr_audit_internal.epoch_us(at timestamptz) returns bigint
            language sql stable as 'select 0::bigint'""",
    "snapshot_digest_of": """
        create or replace function attr_audit_internal.snapshot_digest_of(a_region text, n bigint)
            returns bytea language sql stable as
        'select snapshot_digest from attr_audit.app where region = $1 and sdk_app_id = $2'""",
    "sha256 in a schema before": """
        create function attr_audit.sha256(bytea) returns bytea
            language sql stable as 'select null::bytea'""",
    "= in a schema before": """
        create function attr_audit.always(text, text) returns boolean
            language sql immutable as 'select true';
        create operator attr_audit.= (function = attr_audit.always, leftarg = text,
                                      rightarg = text)""",
    "json_build_array in a schema before": """
        create function attr_audit.json_build_array(variadic "any") returns json
            language internal as 'json_build_array_noargs'""",
}


@pytest.mark.parametrize("replaced", FOOLING)
def test_no_function_or_operator_in_the_database_hides_an_edit(
    recorded: AuditDb, replaced: str
) -> None:
    with recorded.server.connect(recorded.name) as connection, connection.cursor() as cursor:
        cursor.execute(
            "drop function if exists attr_audit_internal.snapshot_digest_of(text, bigint)"
        )
        cursor.execute(FOOLING[replaced])
    assert found_in(recorded) == []
    as_a_forger(
        recorded,
        "update attr_audit.change set new_name = 'sex2' where region = 'frankfurt' and seq = 3",
    )
    assert "frankfurt/7 seq 3: the chain is broken at this row" in found_in(recorded)


@pytest.mark.parametrize("table", ["change", "snapshot", "app"])
def test_a_view_in_place_of_a_table_is_refused(recorded: AuditDb, table: str) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(text(f"alter table attr_audit.{table} rename to {table}_kept"))
        connection.execute(
            text(f"create view attr_audit.{table} as select * from attr_audit.{table}_kept")
        )
        connection.execute(text(f"grant select on attr_audit.{table} to attr_audit_reader"))
    with pytest.raises(NotATable, match=f"attr_audit.{table} cannot be verified: it is not a"):
        check_database(recorded.reader)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("alter table attr_audit.change enable row level security", "row-level security is on"),
        ("create table attr_audit.more () inherits (attr_audit.change)", "inherits from it"),
        (
            "alter table attr_audit.change rename answer to reply",
            "column answer is missing .*run `im-attr-audit migrate` first",
        ),
        ("alter table attr_audit.poll enable row level security", "row-level security is on"),
        ("alter table attr_audit.app rename to gone", "does not exist"),
    ],
)
def test_a_table_that_may_show_something_else_is_refused(
    recorded: AuditDb, statement: str, reason: str
) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(text(statement))
    with pytest.raises(NotATable, match=reason):
        check_database(recorded.reader)


def test_names_with_every_control_character_verify(audit_db: AuditDb) -> None:
    months_before(audit_db)
    controls = "".join(map(chr, range(1, 32)))
    names: NamesLike = {
        0: controls,
        1: f'"{controls}\\{controls}"',
        2: "null",
        3: "\\N",
        4: "\x7f\x80\u2028\ufeff é 会员等级 🎟️",
        5: "",
        6: "a\nb",
        7: '\\"',
        8: "\x1f",
        9: "t",
    }
    poll = polled(names, names, at=0)
    record_polls(audit_db.writer, [poll], dag_run_id="run \n 1", try_number=1)
    dated(audit_db, "responded_at")
    checked = check_database(audit_db.reader)
    assert (checked.rows, checked.findings) == (10, ())


@pytest.mark.parametrize("at", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
def test_a_time_that_no_hash_can_hold_is_found(recorded: AuditDb, at: str) -> None:
    with recorded.owner.begin() as connection:
        for name in ("bounds_do_not_cross", "seen_at_is_not_in_the_future"):
            connection.execute(text(f"alter table attr_audit.change drop constraint {name}"))
    as_a_forger(
        recorded,
        f"update attr_audit.change set prior_ok_at = '{at}' where region = 'seoul' and seq = 3",
    )
    assert "seoul/7 seq 3: the chain is broken at this row" in found_in(recorded)


def test_a_stored_kind_that_does_not_follow_from_its_row_is_found(recorded: AuditDb) -> None:
    as_a_forger(
        recorded,
        "alter table attr_audit.change alter kind drop expression",
        "update attr_audit.change set kind = 'added' where region = 'seoul' and seq = 3",
    )
    assert found_in(recorded) == ["seoul/7 seq 3: kind is added, not renamed"]


@pytest.mark.parametrize(
    "edit",
    [
        "span_class = 6",
        "span_class = 1",
        "span_class = null",
        "span_from = null",
        "span_from = span_from - interval '1 microsecond'",
        "span_from = 'infinity'",
        "span_from = null, span_class = null",
    ],
)
def test_a_derived_span_that_does_not_follow_from_its_row_is_found(
    recorded: AuditDb, edit: str
) -> None:
    as_a_forger(
        recorded,
        "alter table attr_audit.change alter span_from drop expression, "
        "alter span_class drop expression",
        f"update attr_audit.change set {edit} where region = 'seoul' and seq in (3, 6)",
    )
    assert found_in(recorded) == [
        "seoul/7 seq 3: span_from or span_class does not follow from its times; "
        "the same holds for 1 more of its changes"
    ]


def test_a_span_of_any_length_is_in_the_class_that_the_database_derives(audit_db: AuditDb) -> None:
    with audit_db.owner.begin() as connection:
        connection.execute(
            text(
                "select attr_audit_internal.create_poll_partition(m::date) "
                "from generate_series(timestamp '2026-04-01', '2026-11-01', '1 month') m"
            )
        )
    hours = [0.5, 1, 3.9, 4, 15, 16, 63, 64, 255, 256, 1023, 1024, 1025]
    at = [-3600 * sum(hours[number:]) for number in range(len(hours) + 1)]
    for number, seconds in enumerate(at):
        names: NamesLike = {0: f"name {number}"}
        poll = polled(names, names, at=seconds)
        record_polls(audit_db.writer, [poll], dag_run_id=f"run {number}", try_number=1)
    dated(audit_db, "responded_at")
    with audit_db.reader.connect() as connection:
        classes = connection.execute(
            text("select span_class from attr_audit.change where seq > 1 order by seq")
        ).scalars()
        assert [*classes] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert found_in(audit_db) == []


def test_an_export_whose_kind_was_edited_is_found(export: Path) -> None:
    export.write_text(export.read_text().replace("renamed", "retyped", 1))
    [found] = check_export(export).findings
    assert str(found) == "frankfurt/7 seq 3: kind is retyped, not renamed"


@pytest.mark.parametrize(
    "edit",
    [
        "poll_id = (select min(poll_id) from attr_audit.poll where region = 'seoul')",
        "poll_id = 4711",
        "dag_run_id = 'run 3'",
        "dag_run_id = null",
    ],
)
def test_a_change_that_does_not_come_from_a_poll_of_its_app_and_run_is_found(
    recorded: AuditDb, edit: str
) -> None:
    as_a_forger(
        recorded,
        f"update attr_audit.change set {edit} where region = 'frankfurt' and seq = 3; " + rehash(3),
        # Polls are kept since before the change.
        "insert into attr_audit.poll "
        "(conn_id, region, sdk_app_id, requested_at, outcome, recorded_at) values "
        "('c', 'seoul', 7, '2026-10-31', 'ok', '2026-10-31')",
    )
    [found] = found_in(recorded)
    assert re.match(r"frankfurt/7 seq 3: cites poll \d+, which is not a good poll", found)


def test_polls_that_are_all_gone_are_missed(recorded: AuditDb) -> None:
    """Retention drops months; it leaves no month empty, and never all of them."""
    as_a_forger(recorded, "delete from attr_audit.poll")
    found = found_in(recorded)
    assert len(found) == 2  # one for each app, which says how many of its changes
    assert all("cites poll" in each for each in found)


def test_a_change_whose_poll_was_dropped_with_its_month_is_fine(recorded: AuditDb) -> None:
    with recorded.owner.begin() as connection:
        for month in ("09", "10", "11"):  # as retention does, with every older month
            part = f"attr_audit_internal.poll_2026_{month}"
            connection.execute(text(f"alter table attr_audit.poll detach partition {part}"))
        connection.execute(
            text("select attr_audit_internal.create_poll_partition(date '2027-01-01')")
        )
        connection.execute(
            text(
                "insert into attr_audit.poll "
                "(conn_id, region, sdk_app_id, requested_at, outcome, recorded_at) "
                "values ('c', 'seoul', 7, '2027-01-01', 'ok', '2027-01-01')"
            )
        )
    assert found_in(recorded) == []


def test_polls_dated_long_before_they_were_recorded_are_found(recorded: AuditDb) -> None:
    dated(recorded, "requested_at + interval '61 minutes'")
    assert found_in(recorded) == [
        f"{region}/7: 4 polls are dated more than 1 hour before they were recorded, "
        f"poll {first} first"
        for region, first in (("frankfurt", 1), ("seoul", 2))
    ]


def test_a_row_that_cannot_be_an_app_is_noted_and_is_not_a_finding(recorded: AuditDb) -> None:
    with recorded.owner.begin() as connection:
        connection.execute(
            text("alter table attr_audit.app drop constraint if exists region_is_a_label")
        )
        connection.execute(
            text(
                "insert into attr_audit.app (region, sdk_app_id, api, conn_id, first_polled_at, "
                "last_polled_at, last_outcome, first_ok_at, last_ok_at, ok_api) "
                "values ('', 7, 'timpush', 'c', now(), now(), 'ok', now(), now(), 'timpush')"
            )
        )
    checked = check_database(recorded.reader)
    assert checked.findings == ()
    [note] = checked.notes
    assert note.startswith("attr_audit.app has a row for region '', SDKAppID 7, which cannot be an")


def test_saving_heads_replaces_a_file_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    link = tmp_path / "link.json"
    link.symlink_to(file)
    save_heads([Head("seoul", 7, 1, "00", "database")], file, START)
    save_heads([Head("seoul", 7, 2, "11", "database")], link, START)
    assert link.is_symlink()
    assert [head.seq for head in read_heads(file)] == [2]
    with pytest.raises(AttributeError):
        save_heads([None], file, START)  # type: ignore[list-item]
    assert [head.seq for head in read_heads(file)] == [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.json", "link.json"]


class Command:
    """`im-attr-audit verify` against one database, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, db: AuditDb, *arguments: str | Path) -> tuple[int, list[str]]:
        self._monkeypatch.setattr(shared, "reader_engine", lambda: db.reader)
        code = cli.main(["verify", "--no-asset-events", *map(str, arguments)])
        captured = self._capsys.readouterr()
        return code, (captured.out + captured.err).splitlines()


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_saving_heads_does_not_replace_a_file_that_the_record_contradicts(
    recorded: AuditDb, tmp_path: Path, verify: Command
) -> None:
    file = tmp_path / "heads.json"
    assert verify(recorded, "--save-heads", file)[0] == 0
    assert verify(recorded, "--save-heads", file)[0] == 0  # it agrees
    saved = file.read_bytes()
    as_a_forger(recorded, *CONSISTENT["an edit re-hashed to the end"][:1])
    code, said = verify(recorded, "--save-heads", file)
    assert code == 1
    assert "1 app whose chain does not match a stored head" in said
    assert said[-1] == (
        f"Heads were not saved to {file}: see the findings above. The file was left unchanged."
    )
    assert file.read_bytes() == saved


@pytest.mark.parametrize("content", ["", "[]", "a diary", '{"heads": [{"region": 1}]}'])
def test_saving_heads_does_not_replace_a_file_that_is_not_one_of_heads(
    recorded: AuditDb, tmp_path: Path, verify: Command, content: str
) -> None:
    file = tmp_path / "heads.json"
    file.write_text(content)
    code, [said] = verify(recorded, "--save-heads", file)
    assert (code, file.read_text()) == (2, content)
    assert "is not a file of `im-attr-audit verify --save-heads`" in said
    assert verify(recorded, "--save-heads", tmp_path)[0] == 2


def test_at_most_twenty_findings_of_a_sort_are_printed_after_their_number(
    recorded: AuditDb, tmp_path: Path, verify: Command
) -> None:
    file = tmp_path / "other.json"
    others = [Head("seoul", 100 + number, 3, "00", "database") for number in range(10_000)]
    save_heads(others, file, START)
    code, said = verify(recorded, "--heads", file)
    assert code == 1
    assert said[1] == "10000 apps whose chain does not match a stored head"
    assert said[2].startswith("NOT AS RECORDED  seoul/100 seq 1: rows from here to seq 3")
    assert said[22] == "NOT AS RECORDED  9980 more apps whose chain does not match a stored head"
    assert len(said) < 30


def test_the_command_and_the_docs_find_the_same_export_edited(
    recorded: AuditDb, export: Path, verify: Command
) -> None:
    assert verify(recorded, "--export", export)[0] == 0
    export.write_text(export.read_text().replace("renamed", "added", 1))
    code, said = verify(recorded, "--export", export)
    assert code == 1
    assert "NOT AS RECORDED  frankfurt/7 seq 3: kind is added, not renamed" in said


def test_what_is_found_is_sent_through_airflows_metrics_if_asked(
    recorded: AuditDb, export: Path, verify: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bool] = []
    monkeypatch.setattr(
        "im_attr_audit.commands.verify.send_verify_result", lambda holds, at: sent.append(holds)
    )
    verify(recorded, "--stats")
    verify(recorded)
    export.write_text(export.read_text().replace("renamed", "added", 1))
    assert verify(recorded, "--stats", "--export", export)[0] == 1
    assert sent == [True, False]


# The command ------------------------------------------------------------------------------------


def test_an_empty_record_is_not_called_intact(
    audit_db: AuditDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(shared, "reader_engine", lambda: audit_db.reader)
    files = {name: tmp_path / name for name in ("heads", "result", "export")}
    arguments = ["verify", "--no-asset-events", "--save-heads", str(files["heads"])]
    sent: list[bool] = []
    monkeypatch.setattr(
        "im_attr_audit.commands.verify.send_verify_result", lambda holds, at: sent.append(holds)
    )
    assert cli.main([*arguments, "--stats", "--result", str(files["result"])]) == 0
    assert sent == []
    assert "there was nothing to check" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    columns = [*HASHED, "prev_hash", "row_hash", "kind", "old_known", "new_known"]
    files["export"].write_text(",".join(columns) + "\n")
    assert cli.main(["verify", "--export", str(files["export"])]) == 2
    said = capsys.readouterr()
    assert "has no change in it: there is nothing to check" in said.err
    assert "as it was recorded" not in said.out


@pytest.mark.parametrize(
    "extra",
    [
        {"region": "china", "chain_heads": {"7": 5}},
        {"chain_heads": {"7": {"seq": 1, "hash": "00"}}},
        {"region": "china", "chain_heads": {"a": {"seq": 1, "hash": "00"}}},
        {"region": "china", "chain_heads": {"7": {"seq": None, "hash": "00"}}},
        {"region": "china", "chain_heads": [1]},
        [],
        None,
    ],
)
def test_an_event_that_is_not_ours_witnesses_nothing(extra: Any) -> None:
    assert list(heads_of_event(extra, "asset event 1")) == []


def test_events_of_other_dags_and_users_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who may create asset events can write any head into one."""
    engine = create_engine("sqlite://")
    metadata = AssetModel.metadata
    metadata.create_all(engine, [metadata.tables[name] for name in ("asset", "asset_event")])
    head = {"region": "china", "chain_heads": {"7": {"seq": 1, "hash": "00"}}}
    with Session(engine) as session:
        session.add(AssetModel(name=ASSET, uri=ASSET, group="asset"))
        session.flush()
        for number, dag in enumerate((DAG_ID, "another", None), 1):
            event = AssetEvent(asset_id=1, extra=head, source_dag_id=dag)
            event.timestamp = datetime(2026, 11, number, tzinfo=UTC)
            session.add(event)
        session.commit()
        monkeypatch.setattr(
            "airflow.utils.session.create_session", lambda: contextlib.nullcontext(session)
        )
        found = read_witnessed_heads()
    assert (found.events, [head.seq for head in found.heads]) == (1, [1])
    engine.dispose()
