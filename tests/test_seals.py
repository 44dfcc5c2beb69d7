"""What a seal holds, what retention and folding leave of it, and how its rows are read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from im_attr_audit.apps import AppKey
from im_attr_audit.evidence.note import Signer
from im_attr_audit.evidence.stores import FileWitness
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.runs import record_planned
from im_attr_audit.record.seals import rows, sealing
from im_attr_audit.record.seals.prove import NotProvable, prove_poll
from im_attr_audit.record.seals.sealing import SealingRefused, make_checkpoint
from im_attr_audit.record.seals.verify import check_seals, check_seals_on
from im_attr_audit.record.upkeep.fold import fold_old_polls
from im_attr_audit.record.upkeep.retention import RetentionRefused, drop_old_polls
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from tests.sealing import (
    NAMES,
    Sealing,
    as_superuser,
    edit_file,
    file_name,
    folder_at,
    new_log,
)
from tests.test_schema import run


def test_an_untouched_record_is_as_it_was_sealed(sealed: Sealing) -> None:
    log, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert (found.findings, found.notes) == ([], [])
    assert len(log.seals) == 4
    sealed_rows_ = sum(sum(seal.rows(kind)[0] for kind in range(3)) for seal in log.seals)
    assert found.rows == sealed_rows_ + 2 + 2  # reviews and declarations
    assert [len(checkpoint.extensions) for checkpoint in log.checkpoints] == [3, 5, 5, 3]
    assert log.checkpoints[2].extensions[0] == '["listed-v1",2,2,0]'
    assert found.waiting >= 4  # the run after the last seal


def test_rows_that_no_seal_covers_are_not_called_forged(sealed: Sealing) -> None:
    sealed.run(10, NAMES[1])
    assert sealed.found() == []
    sealed.seal()
    assert sealed.found() == []
    log, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert (len(log.seals), found.waiting) == (5, 0)


def test_a_seal_whose_files_are_being_written_is_waited_for(sealed: Sealing) -> None:
    """`checkpoint` commits the database's copy first. Who verifies just then finds nothing."""
    asked = Event()

    class Watched(FileWitness):
        times = 0

        def sizes(self) -> list[int]:
            self.times += 1
            if self.times == 3:  # before the copy is read, and twice after that
                asked.set()
            return super().sizes()

    def check(patience: float) -> list[str]:
        witness = Watched(f"file:{sealed.folder}", sealed.folder)
        key = sealed.signer.verifier
        return check_seals(sealed.engine, [witness], key, patience=patience)[1].findings

    found: list[list[str]] = []
    verifying = Thread(target=lambda: found.append(check(600)))

    def at_site(site: str) -> None:
        if site == "committed":
            assert "files are missing at the witness" in check(0)[0]
            asked.clear()
            verifying.start()
            assert asked.wait(60)

    sealed.run(10, NAMES[1])
    make_checkpoint(sealed.engine, sealed.signer, [folder_at(sealed.folder)], at_site=at_site)
    verifying.join()
    assert found == [[]]


def test_idle_time_is_sealed(sealed: Sealing) -> None:
    sealed.seal()
    idle = sealed.seal().seal
    assert [idle.rows(kind)[0] for kind in range(3)] == [0, 0, 0]
    assert sealed.found() == []


def test_a_target_that_was_left_out_of_a_run_is_noted(sealed: Sealing) -> None:
    record_planned(sealed.db.writer, "run 11", [("im_tokyo_7", "tokyo", 7)])
    sealed.run(12, NAMES[1])
    _, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert found.notes == ["run run 11 planned im_tokyo_7 and recorded no poll of it"]


def test_more_than_an_hour_without_a_run_is_noted(
    sealed: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the seals alone: nothing in the database shows a run that was never planned."""
    time_passes_for_the_database_too(monkeypatch)
    begin = datetime.now(UTC) + timedelta(minutes=1)

    def seal(minutes: int) -> None:
        at = begin + timedelta(minutes=minutes)
        make_checkpoint(sealed.engine, sealed.signer, [folder_at(sealed.folder)], now=lambda: at)

    for minutes in (0, 30, 60, 61):  # the first one has the run that no seal of the story covers
        seal(minutes)
    note = re.compile(r"no run recorded anything between (.+)Z and (.+)Z \((.+)\)")

    def noted() -> list[tuple[str, ...]]:
        _, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
        return [match.groups() for match in map(note.fullmatch, found.notes) if match]

    [(since, until, seals)] = noted()
    assert seals == "seals 5 to 7"
    assert (since, until) == tuple(
        f"{begin + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S}" for minutes in (0, 61)
    )


def test_a_stray_file_of_any_number_is_a_finding(sealed: Sealing) -> None:
    (sealed.folder / file_name(10**12 - 1)).write_text("{}")
    assert any(
        "lacks 999999999994 checkpoints, that of size 5 first" in each for each in sealed.found()
    )


def test_a_file_of_size_0_makes_up_for_no_missing_one(sealed: Sealing) -> None:
    (sealed.folder / file_name(2)).rename(sealed.folder / file_name(0))
    found = sealed.found()
    assert any("lacks 1 checkpoints, that of size 2 first" in each for each in found)
    assert any("the file of size 0 holds the checkpoint of size 2" in each for each in found)


@pytest.mark.parametrize(("seal", "poll"), [(0, 1), (1, 3), (3, 8)])
def test_what_is_not_signed_in_a_seal_excuses_no_edited_poll(
    sealed: Sealing, seal: int, poll: int
) -> None:
    forget_what_is_not_signed(sealed, seal)
    assert sealed.found() == []
    edit = f"update attr_audit.poll set error_info = 'x' where poll_id = {poll}"
    as_superuser(sealed.db, edit)
    [finding] = sealed.found()
    assert finding.startswith(f"seal {seal}, closed at ")


@pytest.mark.parametrize(("seal", "poll"), [(1, 3), (3, 8)])
def test_what_is_not_signed_in_a_seal_excuses_no_missing_poll(
    sealed: Sealing, seal: int, poll: int
) -> None:
    forget_what_is_not_signed(sealed, seal)
    as_superuser(sealed.db, f"delete from attr_audit.poll where poll_id = {poll}")
    [finding] = sealed.found()
    assert finding.startswith(f"seal {seal}, closed at ")


def forget_what_is_not_signed(sealed: Sealing, seal: int) -> None:
    """As if the seal's polls were older than any that are kept."""
    assert edit_file(sealed.folder, seal, polls_from=1)["polls_from"] > 1


def test_of_a_folded_month_no_more_is_missing_than_was_folded(
    sealed: Sealing, tmp_path: Path
) -> None:
    sealed = new_log(sealed, tmp_path / "new")
    url = sealed.db.server.url(sealed.db.name)
    run(
        sealed.db.owner,
        "select attr_audit_internal.create_poll_partition("
        "(date_trunc('month', now() at time zone 'UTC') - interval '3 months')::date)",
    )
    run(
        sealed.db.owner,
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, api, requested_at, outcome) "
        "select 'c', 'seoul', 7, 'timpush', date_trunc('month', now(), 'UTC') - interval "
        "'3 months' + m * interval '1 hour', (array['ok', 'rejected'])[1 + m / 8] "
        "from generate_series(0, 9) m",
    )
    with pytest.raises(RetentionRefused, match="are not sealed"):
        fold_old_polls(url)
    sealed.seal()
    [month] = fold_old_polls(url)
    assert (month.polls, month.spans, month.kept) == (8, 1, 2)
    _, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert found.findings == []
    [note] = [each for each in found.notes if "cannot be checked" in each]
    assert "8 of its 20 polls cannot be checked; good polls of " in note
    app, begin = AppKey("seoul", 7), datetime.fromisoformat(f"{note.split()[-3]}-01T00:00+00:00")
    with pytest.raises(NotProvable, match=r"Good polls of seoul/7 of .* are folded"):
        prove_poll(sealed.engine, app, begin + timedelta(hours=5), None)
    with pytest.raises(NotProvable, match="Seal 0 lacks 8 of its 20 polls"):
        prove_poll(sealed.engine, app, begin + timedelta(hours=20), None)
    listed = map(json.loads, sealed.seal().seal.note.split("\n\n")[0].split("\n")[3:])
    assert [line[::2] for line in listed if line[0] == "coverage-v1"] == [["coverage-v1", 1]]
    assert sealed.found() == []

    def forge(statement: str) -> None:
        with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
            cursor.execute(f"set session_replication_role = replica; {statement}")

    # What folding left is sealed by the next checkpoint.
    superuser = create_audit_engine(make_url(url))
    spans = "update attr_audit.coverage set "
    for edit, what in {
        "longest_gap = longest_gap + interval '1 hour'": "is not as it was sealed",
        "asked_us = asked_us[:7] || asked_us[8] - 1": "is not as it was sealed",
        "sdk_app_id = 8": "is not as it was sealed",
        "folded_at = folded_at - interval '1 second'": "has 0 rows of 1",
    }.items():
        with superuser.connect() as connection:
            connection.exec_driver_sql("set session_replication_role = replica")
            connection.exec_driver_sql(spans + edit)
            _, found = check_seals_on(
                connection, [folder_at(sealed.folder)], sealed.signer.verifier
            )
            connection.rollback()
        assert any("seal 1: coverage folded at " in f and what in f for f in found.findings), edit
    forge(
        "insert into attr_audit.coverage (region, sdk_app_id, from_at, to_at, polls, polls_failed, "
        "api, first_poll_id, asked_us, folded_at) select region, 9, from_at, from_at, 1, 0, api, "
        "1, '{0}', folded_at - interval '1 day' from attr_audit.coverage"
    )
    with pytest.raises(SealingRefused) as refused:
        sealed.seal()
    assert any("has a false date: it is in no seal yet" in f for f in refused.value.findings)
    forge("delete from attr_audit.coverage where sdk_app_id = 9")
    superuser.dispose()

    # One that was kept is edited: what is left is no longer a part of what was sealed.
    forge("update attr_audit.poll set error_info = 'x' where conn_id = 'c' and outcome <> 'ok'")
    [finding] = sealed.found()
    assert "is not as it was sealed" in finding
    forge("delete from attr_audit.poll where conn_id = 'c'")
    [finding] = sealed.found()
    assert re.fullmatch(
        r"seal 0, closed at .*: missing: 2 polls of \d{4}-\d\d that no fold removes", finding
    )


def test_months_that_retention_dropped_are_noted_and_not_called_forged(
    sealed: Sealing, tmp_path: Path
) -> None:
    """The seal holds polls of an old month beside later ones; of those none may be gone."""
    sealed = new_log(sealed, tmp_path / "new")
    run(
        sealed.db.owner,
        "select attr_audit_internal.create_poll_partition(m::date) from generate_series("
        "date_trunc('month', now() at time zone 'UTC') - interval '2 months', "
        "now() at time zone 'UTC', '1 month') m",
    )
    polls = (
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome) "
        "select 'c', 'seoul', 7, date_trunc('month', now(), 'UTC') - m * interval '1 month', "
        "'rejected' from generate_series(0, 2) m"
    )
    run(sealed.db.owner, polls)
    sealed.seal()
    drop_old_polls(sealed.db.server.url(sealed.db.name), keep_months=1)
    _, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert found.findings == []
    [note] = [each for each in found.notes if "cannot be checked" in each]
    assert note.startswith("seal 0, closed at ")
    assert "1 of its 13 polls cannot be checked" in note
    sealed.seal()
    with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
        cursor.execute(
            "set session_replication_role = replica; "
            "update attr_audit.poll set error_info = 'x' where poll_id = 11"
        )
    assert any("seal 0, closed at" in finding for finding in sealed.found())


# How rows are read -----------------------------------------------------------------------------

#: What JSON escapes and CSV does not, and what could be mistaken for the end of a value or a row.
HOSTILE = [
    *(
        "a\tb",
        "a\nb",
        "a\r\nb",
        "\x01",
        'x\n9\t"c"\tnull',
        "x\n" + "\t" * 21,
        "x\tt\n" + "\t" * 20,
        '"',
        "\\",
        "\\.",
        "\\v",
    ),
    *("null", "", "true", "\ttrue", "é\u2028\x7f\U0001f30d", 'a","b', "\\u0001"),
]


def test_rows_are_hashed_alike_however_they_are_read(
    shared: tuple[Engine, Path, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the line, as nearly always, and value by value, which is the form that is written down."""
    engine, _, _ = shared
    with engine.connect() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        insert = text(
            "insert into attr_audit.poll (poll_id, conn_id, region, sdk_app_id, requested_at, "
            "outcome, error_info, vendor_date, head_seq) overriding system value values "
            "(:id, :text, 'seoul', 7, now(), 'invalid', :text, cast(:date as timestamptz), :head)"
        )
        for number, value in enumerate(HOSTILE):
            # Each in a batch of its own.
            row = {"id": 100_000 * (number + 1), "text": value, "head": number % 5}
            connection.execute(insert, {**row, "date": None})
        for number, date in enumerate(("infinity", "9999-12-31 23:59:59.000001Z", "1800-01-01Z")):
            row = {"id": 9_000_000 + 100_000 * number, "text": "", "head": None}
            connection.execute(insert, {**row, "date": date})
        rows.prepare_sealed(connection)

        def read() -> list[tuple[list[bytes], list[bytes], dict[int, list[bytes]]]]:
            return [
                (batch.lines, batch.hashes, batch.columns)
                for kind in rows.KINDS
                for batch in rows.read_batches(connection, kind, -1, rows.END)
            ]

        quickly = read()
        calls: list[bool] = []
        quick = rows._read_quickly

        def counted(*given: Any) -> Any:
            calls.append(quick(*given) is not None)

        monkeypatch.setattr(rows, "_read_quickly", counted)
        assert read() == quickly
        connection.rollback()
    assert sum(len(lines) for lines, _, _ in quickly) == 10 + 18 + 10 + len(HOSTILE) + 3
    # Those with a control character and the two far times were not, everything else was.
    assert calls.count(False) == 1 + 8 + 2
    assert calls.count(True) > 10


def test_polls_are_hashed_by_their_ids_wherever_they_are_stored(
    shared: tuple[Engine, Path, Signer],
) -> None:
    engine, _, _ = shared
    with engine.connect() as connection:
        connection.exec_driver_sql("set local session_replication_role = replica")
        rows.prepare_sealed(connection)

        def read() -> list[tuple[bytes, bytes]]:
            batches = rows.read_batches(connection, rows.KINDS[0], -1, 100)
            return [pair for b in batches for pair in zip(b.columns[0], b.hashes, strict=True)]

        before = read()
        # Stored the other way around, wherever there is room: an insert fills a page in order.
        connection.exec_driver_sql(
            "create temporary table moved as select * from attr_audit.poll; "
            "delete from attr_audit.poll; "
            "insert into attr_audit.poll overriding system value "
            "select * from moved order by poll_id desc"
        )
        stored = (
            connection.exec_driver_sql(
                "select poll_id from attr_audit.poll order by tableoid, ctid"
            )
            .scalars()
            .all()
        )
        assert stored != sorted(stored)
        assert read() == before
        connection.rollback()
    assert [int(id_) for id_, _ in before] == [*range(1, 11)]


@pytest.mark.parametrize("what", ["poll", "declaration"])
def test_rows_of_a_clock_that_was_ahead_wait_for_their_time_and_break_no_log(
    sealed: Sealing, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.run(11, NAMES[1])
    sealed.judge(9)
    as_superuser(
        sealed.db,
        "update attr_audit.poll set recorded_at = recorded_at + interval '2 hours' "
        "where dag_run_id = 'run 11'"
        if what == "poll"
        else "update attr_audit.declaration set recorded_at = recorded_at + interval '2 hours' "
        "where declaration_id = (select max(declaration_id) from attr_audit.declaration)",
    )
    before = sorted(path.name for path in sealed.folder.iterdir())
    with pytest.raises(SealingRefused, match=r"database's clock was [67]\d\d\d s") as refused:
        sealed.seal()
    assert refused.value.findings == ()
    assert sorted(path.name for path in sealed.folder.iterdir()) == before

    time_passes_for_the_database_too(monkeypatch)
    later = datetime.now(UTC) + timedelta(hours=2)
    witnesses = [folder_at(sealed.folder)]
    for number in range(2):
        now = partial(later.__add__, timedelta(minutes=number))
        make_checkpoint(sealed.engine, sealed.signer, witnesses, now=now)
    assert sealed.found() == []


def time_passes_for_the_database_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock cannot be set here."""
    monkeypatch.setattr(sealing, "_refuse_clock_ahead", lambda *_: None)


def test_a_sealing_machine_whose_clock_is_ahead_seals_nothing(sealed: Sealing) -> None:
    """Else each row that is recorded until then would be called falsely dated, for ever."""
    before = sorted(path.name for path in sealed.folder.iterdir())
    ahead = datetime.now(UTC) + timedelta(minutes=10)
    witnesses = [folder_at(sealed.folder)]
    with pytest.raises(SealingRefused, match=r"This machine's clock is (59\d|600) s ahead"):
        make_checkpoint(sealed.engine, sealed.signer, witnesses, now=lambda: ahead)
    assert sorted(path.name for path in sealed.folder.iterdir()) == before
    sealed.seal()
    sealed.run(11, NAMES[1])
    sealed.seal()
    assert sealed.found() == []
