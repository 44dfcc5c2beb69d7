"""Sealing, and what `verify --checkpoints` finds: every forgery of what was sealed, by name."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit import cli
from im_attr_audit.apps import AppKey
from im_attr_audit.declared.parse import parse
from im_attr_audit.evidence.note import Signer, new_signer, read_key_file, read_verifier
from im_attr_audit.evidence.proof import check_proof, read_proof
from im_attr_audit.evidence.witnesses import Witness, open_witness
from im_attr_audit.record import sealed_rows
from im_attr_audit.record import sealing as sealing_module
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.fold import fold_old_polls
from im_attr_audit.record.retention import RetentionRefused, drop_old_polls
from im_attr_audit.record.reviews import Answer, record_answer
from im_attr_audit.record.runs import record_planned
from im_attr_audit.record.seal_prove import NotProvable, prove_change, prove_poll
from im_attr_audit.record.seal_verify import check_seals, check_seals_on
from im_attr_audit.record.sealing import Sealed, SealingRefused, make_checkpoint
from im_attr_audit.record.store import record_polls
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.conftest import SEALER, AuditDb, fresh_audit_db
from tests.history import NamesLike, polled
from tests.test_proof import PAGE, PROGRAM
from tests.test_schema import run

NAMES: list[NamesLike] = [
    {0: "sex", 1: "city"},
    {0: "gender", 1: "city"},
    {0: "gender", 1: "", 2: "level"},
    {0: "gender", 1: "", 2: 'a "quoted"\\ \n\x01 name é'},
]
REGIONS = ("frankfurt", "seoul")


def folder_at(path: Path) -> Witness:
    return open_witness(f"file:{path}")


def file_name(size: int) -> str:
    return f"{size:012d}.json"


@dataclass
class Sealing:
    """A record with its sealer, its key and its witness."""

    db: AuditDb
    engine: Engine
    signer: Signer
    folder: Path
    at: datetime

    def run(self, number: int, names: NamesLike) -> None:
        """One run of two apps, recorded now."""
        at = self.at + timedelta(seconds=10 * number - 120)
        ids = [(f"im_{region}_7", region, 7) for region in REGIONS]
        record_planned(self.db.writer, f"run {number}", ids)
        polls = [polled(names, names, at=at, region=region, sdk_app_id=7) for region in REGIONS]
        record_polls(self.db.writer, polls, dag_run_id=f"run {number}", try_number=1)

    def judge(self, number: int) -> None:
        """Review changes and declare names, of some runs."""
        changes = {1: 3, 2: 4, 9: 3}
        if number in changes:
            answer = Answer("expected", "uma", None, None, 'a "b"\tc', self.at, f"review {number}")
            record_answer(self.db.writer, "frankfurt", {7: [changes[number]]}, answer)
            document = parse(f"groups: {{shop: {{names: {{0: name {number}}}}}}}", "").declaration
            record_declaration(
                self.db.writer,
                document,
                source="a file",
                revision=None,
                text_digest=None,
                dag_run_id=f"run {number}",
            )

    def seal(self, *more: Path) -> Sealed:
        witnesses = [folder_at(path) for path in (self.folder, *more)]
        return make_checkpoint(self.engine, self.signer, witnesses)

    def found(self, *more: Path, signer: Signer | None = None) -> list[str]:
        witnesses = [folder_at(path) for path in (self.folder, *more)]
        key = (signer or self.signer).verifier
        return check_seals(self.engine, witnesses, key)[1].findings


def sealing(db: AuditDb, folder: Path, signer: Signer | None = None) -> Sealing:
    folder.mkdir(exist_ok=True)
    engine = create_audit_engine(make_url(db.url(SEALER)))
    signer = signer or new_signer("example.com/audit")
    return Sealing(db, engine, signer, folder, datetime.now(UTC))


@pytest.fixture(scope="module")
def story(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Signer]]:
    """A database with four runs in three seals and one run that no seal covers; a template."""
    folder = tmp_path_factory.mktemp("witness")
    with fresh_audit_db(postgres, template) as db:
        made = sealing(db, folder)
        for number, names in enumerate(NAMES):
            made.run(number, names)
            made.judge(number)
            if number < 3:
                made.seal()
        made.seal()
        made.run(9, NAMES[0])
        made.judge(9)
        db.dispose()
        made.engine.dispose()
        yield db.name, folder, made.signer


@pytest.fixture
def sealed(
    postgres: EmbeddedPostgres, story: tuple[str, Path, Signer], tmp_path: Path
) -> Iterator[Sealing]:
    name, folder, signer = story
    copy = tmp_path / "witness"
    shutil.copytree(folder, copy)
    with fresh_audit_db(postgres, name) as db:
        made = sealing(db, copy, signer)
        yield made
        made.engine.dispose()


def test_an_untouched_record_is_as_it_was_sealed(sealed: Sealing) -> None:
    log, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert (found.findings, found.notes) == ([], [])
    assert len(log.seals) == 4
    sealed_rows_ = sum(sum(seal.rows(kind)[0] for kind in range(3)) for seal in log.seals)
    assert found.rows == sealed_rows_ + 2 + 2  # reviews and declarations
    assert [len(checkpoint.extensions) for checkpoint in log.checkpoints] == [1, 3, 3, 1]
    assert log.checkpoints[2].extensions[0] == '["listed-v1",2,2]'
    assert found.waiting >= 4  # the run after the last seal


# Forgeries -------------------------------------------------------------------------------------

#: Poll 3 to 8 are in seals 1 to 3, two in each; 9 and 10 are in none. So are planned 2 to 4, and 5.
POLL, CHANGE, PLANNED = "attr_audit.poll", "attr_audit.change", "attr_audit.planned"
COLUMNS = {
    "conn_id": "'x'",
    "region": "'tokyo'",
    "sdk_app_id": "8",
    "api": "'timpush'",
    "dag_run_id": "'x'",
    "try_number": "2",
    "requested_at": "requested_at - interval '1 microsecond'",
    "responded_at": "responded_at + interval '1 microsecond'",
    "outcome": "'rejected'",
    "reads": "7",
    "http_status": "500",
    "error_code": "1",
    "error_info": "'x'",
    "answer": "'x'",
    "vendor_date": "now()",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "last_requested_at": "last_requested_at - interval '1 microsecond'",
    "names_read": "9",
    "first_responded_at": "null",
    "head_seq": "1",
}
COPIED = [*COLUMNS, "poll_id"]


def copied(table: str, columns: list[str], where: str, **values: str) -> str:
    """SQL that inserts a copy of a row with other values."""
    chosen = ", ".join(values.get(column, column) for column in columns)
    return (
        f"insert into {table} ({', '.join(columns)}) overriding system value "
        f"select {chosen} from {table} where {where}"
    )


CHANGES = [
    *("change_id", "region", "sdk_app_id", "seq", "slot", "old_name", "new_name", "is_baseline"),
    *("not_before", "seen_at", "answer", "poll_id", "dag_run_id", "recorded_at", "prev_hash"),
    "row_hash",
]
REHASHED = """
    update attr_audit.change c set row_hash = sha256(convert_to(
        attr_audit_internal.change_canonical(c), 'UTF8')) where {where}"""

REVIEWED = """
    update attr_audit.review r set row_hash = sha256(convert_to(
        attr_audit_internal.review_canonical(r), 'UTF8')) where review_seq = 2;
    update attr_audit.review r set prev_hash = (
        select row_hash from attr_audit.review where review_seq = 2) where review_seq = 3;
    update attr_audit.review r set row_hash = sha256(convert_to(
        attr_audit_internal.review_canonical(r), 'UTF8')) where review_seq = 3"""
REVIEW_COLUMNS = [
    *("region", "sdk_app_id", "review_seq", "seq", "verdict", "reviewer", "comment", "dag_run_id"),
    *("reviewed_at", "recorded_at", "prev_hash", "row_hash"),
]
FREE = "alter table attr_audit.poll alter poll_id drop identity;"

#: Name → (statements, what is found).
FORGED: dict[str, tuple[str, str]] = {
    **{
        f"a poll's {column} is edited": (
            f"update {POLL} set {column} = {value} where poll_id = 6",
            "seal 2, closed at",
        )
        for column, value in COLUMNS.items()
    },
    "one poll of the first seal is gone": (
        f"delete from {POLL} where poll_id = 2",
        "1 polls are gone, the first after poll 1 of frankfurt/7",
    ),
    "one poll is gone": (
        f"delete from {POLL} where poll_id = 5",
        "1 polls are gone, the first before poll 6 of seoul/7",
    ),
    "the polls of a seal are gone": (
        f"delete from {POLL} where poll_id in (5, 6)",
        "2 polls are gone, the first all of them",
    ),
    "all polls are gone": (f"truncate {POLL}", "seal 0, closed at"),
    "the month's polls are dropped": (
        "do $$ begin execute 'drop table attr_audit_internal.poll_' || "
        "to_char(now() at time zone 'UTC', 'YYYY_MM'); end $$",
        "2 polls are gone, the first all of them",
    ),
    "a poll is added among sealed ones": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="5"),
        "poll 5 of",
    ),
    "a poll is added before all": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="-3"),
        "poll -3 of frankfurt/7 was added after it closed",
    ),
    "a poll is back-dated": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "values (77, 'c', 'seoul', 7, now() - interval '1 hour', 'ok', now() - interval '1 hour')",
        "poll 77 of seoul/7 is dated falsely",
    ),
    "289 polls are back-dated into a gap": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "select 1000 + n, 'c', 'seoul', 7, t, 'ok', t from (select n, "
        "date_trunc('month', now(), 'UTC') + n * interval '1 second' as t "
        "from generate_series(1, 289) n) g",
        "poll 1001 of seoul/7 is dated falsely",
    ),
    "two polls of a seal change places": (
        f"{FREE} update {POLL} set poll_id = -poll_id where poll_id in (5, 6); "
        f"update {POLL} set poll_id = 11 + poll_id where poll_id < 0",
        "is not as it was sealed",
    ),
    "two polls of two seals change places": (
        f"{FREE} update {POLL} set poll_id = 10 - poll_id where poll_id in (4, 6)",
        "seal 1, closed at",
    ),
    "a sealed poll is moved behind the seals": (
        f"{FREE} update {POLL} set poll_id = 99 where poll_id = 8",
        "seal 3, closed at",
    ),
    "a name is edited": (
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "a name is edited and its row hashed again": (
        f"update {CHANGE} set new_name = 'x' where change_id = 6;"
        + REHASHED.format(where="change_id = 6"),
        "seq 3 is not as it was sealed",
    ),
    "a bound is moved": (
        f"update {CHANGE} set not_before = not_before - interval '1 hour' where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a change cites another poll": (
        f"update {CHANGE} set poll_id = 1 where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a hash is edited": (
        f"update {CHANGE} set row_hash = '\\x00' where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a change is gone": (f"delete from {CHANGE} where change_id = 5", "1 changes are gone"),
    "an app's last change is cut off": (
        f"delete from {CHANGE} where seq > 3",
        "changes are gone",
    ),
    "all changes are gone": (f"truncate {CHANGE}", "changes are gone, the first all of them"),
    "a change is added before all": (
        copied(CHANGE, CHANGES, "change_id = 1", change_id="0", seq="99"),
        "change frankfurt/7 seq 99 was added after it closed",
    ),
    "a change is back-dated": (
        copied(
            CHANGE,
            CHANGES,
            "change_id = 1",
            change_id="999",
            seq="99",
            seen_at="now() - interval '1 day'",
            recorded_at="now() - interval '1 day'",
        ),
        "change frankfurt/7 seq 99 is dated falsely",
    ),
    "two changes change places": (
        f"alter table {CHANGE} alter change_id drop identity, drop constraint change_pkey; "
        f"update {CHANGE} set change_id = 11 - change_id where change_id in (5, 6)",
        "is not as it was sealed",
    ),
    "a planned target is edited": (
        f"update {PLANNED} set conn_ids[1] = 'x' where planned_id = 2",
        "planned target x of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target's app is edited": (
        f"update {PLANNED} set sdk_app_ids[2] = 8 where planned_id = 2",
        "planned target im_seoul_7 of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target is taken out": (
        f"update {PLANNED} set conn_ids = conn_ids[2:], regions = regions[2:], "
        "sdk_app_ids = sdk_app_ids[2:] where planned_id = 2",
        "1 planned targets are gone",
    ),
    "a planned target is added": (
        f"update {PLANNED} set conn_ids = array_append(conn_ids, 'y'), "
        "regions = array_append(regions, 'y'), sdk_app_ids = array_append(sdk_app_ids, 9) "
        "where planned_id = 2",
        "planned target y of run run 1 (planned_id 2) was added after it closed",
    ),
    "planned targets change places": (
        f"update {PLANNED} set conn_ids = array[conn_ids[2], conn_ids[1]], "
        "regions = array[regions[2], regions[1]] where planned_id = 2",
        "is not at its place: rows were put in another order",
    ),
    "the plan of a run is gone": (
        f"delete from {PLANNED} where planned_id = 2",
        "2 planned targets are gone",
    ),
    "the plan of a run is of another one": (
        f"update {PLANNED} set dag_run_id = 'x' where planned_id = 2",
        "of run x (planned_id 2) is not as it was sealed",
    ),
    "a plan is back-dated": (
        f"insert into {PLANNED} (planned_id, dag_run_id, conn_ids, regions, sdk_app_ids, "
        "recorded_at) overriding system value values (9, 'x', '{a}', '{b}', '{1}', "
        "now() - interval '1 day')",
        "is dated falsely",
    ),
    "all plans are gone": (f"truncate {PLANNED}", "planned targets are gone"),
    "a review's comment is edited": (
        "update attr_audit.review set comment = 'x' where review_seq = 1",
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a review is edited and its chain hashed again": (
        "update attr_audit.review set verdict = 'not_expected' where review_seq = 2;" + REVIEWED,
        "seal 2: review 2 of frankfurt/7 is not as it was sealed",
    ),
    "a review is gone": (
        "delete from attr_audit.review where review_seq = 2",
        "seal 2: review 2 of frankfurt/7 is not as it was sealed",
    ),
    "the last reviews are gone": (
        "delete from attr_audit.review where review_seq > 1",
        "seal 2: review 2 of frankfurt/7 is gone",
    ),
    "all reviews are gone": (
        "truncate attr_audit.review",
        "seal 1: review 1 of frankfurt/7 is gone",
    ),
    "a review is put before all": (
        "update attr_audit.review set review_seq = -review_seq; "
        "update attr_audit.review set review_seq = 1 - review_seq;"
        + copied("attr_audit.review", REVIEW_COLUMNS, "review_seq = 2", review_seq="1", seq="5"),
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a review is back-dated": (
        copied(
            "attr_audit.review",
            REVIEW_COLUMNS,
            "review_seq = 1",
            review_seq="4",
            seq="5",
            recorded_at="recorded_at - interval '1 day'",
            reviewed_at="reviewed_at - interval '1 day'",
        ),
        "review 4 of frankfurt/7 is dated falsely: it is in no seal yet",
    ),
    "two reviews change places": (
        "update attr_audit.review set review_seq = -review_seq where review_seq < 3; "
        "update attr_audit.review set review_seq = 3 + review_seq where review_seq < 0",
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a declaration is edited": (
        "update attr_audit.declaration set document = '{}' where declaration_id = 1",
        "seal 1: declaration 1 is not as it was sealed",
    ),
    "a declaration is moved in time": (
        "update attr_audit.declaration set recorded_at = recorded_at - interval '1 second' "
        "where declaration_id = 2",
        "seal 2: declaration 2 is not as it was sealed",
    ),
    "a declaration is gone": (
        "delete from attr_audit.declaration where declaration_id = 2",
        "seal 2: declaration 2 is gone",
    ),
    "all declarations are gone": (
        "truncate attr_audit.declaration",
        "seal 1: declaration 1 is gone",
    ),
    "a declaration is back-dated": (
        "insert into attr_audit.declaration (declaration_id, recorded_at, source, digest, document)"
        " overriding system value values (99, now() - interval '1 day', 'x', '', '{}')",
        "declaration 99 is dated falsely: it is in no seal yet",
    ),
    "an edit behind a replaced trigger": (
        "create or replace function attr_audit_internal.refuse_rewriting() returns trigger "
        "language plpgsql as 'begin return null; end'; "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind a replaced function of the chain": (
        "create or replace function attr_audit.verify_chain() returns table (region text, "
        "sdk_app_id bigint, rows_checked bigint, ok boolean, first_bad_seq bigint, head_seq bigint,"
        " head_hash bytea) language sql stable as 'select null::text, 1::bigint, 1::bigint, true,"
        " 1::bigint, 1::bigint, null::bytea'; "
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "an edit behind replaced functions of the seals": (
        "create or replace function attr_audit_internal.begin_seal() returns void "
        "language sql as ''; drop function attr_audit_internal.close_seal(); "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind an operator of a schema before": (
        "create function attr_audit.never(bigint, bigint) returns boolean language sql immutable "
        "as 'select false'; create operator attr_audit.> (function = attr_audit.never, "
        f"leftarg = bigint, rightarg = bigint); delete from {POLL} where poll_id = 5",
        "1 polls are gone",
    ),
    "an edit behind dropped triggers and constraints": (
        f"drop trigger append_only on {CHANGE}; alter table {CHANGE} drop constraint "
        f"one_chain_per_app; update {CHANGE} set seq = 7 where change_id = 2",
        "change frankfurt/7 seq 7 is not as it was sealed",
    ),
    "the copy of a seal is edited": (
        "update attr_audit.seal set leaf = replace(leaf, 'run 1', 'run 7') where n = 1",
        "attr_audit.seal: row 1 is not the seal that was signed",
    ),
    "the copy of a checkpoint is edited": (
        "update attr_audit.seal set note = replace(note, 'example.com', 'example.org') where n = 1",
        "attr_audit.seal: row 1: ",
    ),
}
OWNERS = """
set local role attr_audit_owner;
do $$ declare t regclass; begin
  for t in select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where nspname in ('attr_audit', 'attr_audit_internal') and relkind in ('r', 'p') loop
    execute format('alter table %%s disable trigger user', t);
  end loop; end $$;
"""
ACTORS = {"superuser": "set local session_replication_role = replica;", "owner": OWNERS}


@pytest.fixture(scope="module")
def shared(
    postgres: EmbeddedPostgres, story: tuple[str, Path, Signer]
) -> Iterator[tuple[Engine, Path, Signer]]:
    """One sealed database for forgeries that are taken back."""
    name, folder, signer = story
    with fresh_audit_db(postgres, name) as db:
        engine = create_audit_engine(make_url(db.server.url(db.name)))
        yield engine, folder, signer


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("forgery", FORGED)
def test_a_forgery_of_what_was_sealed_is_found_and_named(
    shared: tuple[Engine, Path, Signer], forgery: str, actor: str
) -> None:
    engine, folder, signer = shared
    statements, expected = FORGED[forgery]
    with engine.connect() as connection:
        connection.exec_driver_sql(ACTORS[actor])
        connection.exec_driver_sql("set local search_path = attr_audit, pg_catalog")
        connection.exec_driver_sql(statements.replace("%", "%%"))
        connection.exec_driver_sql("reset role")
        _, found = check_seals_on(connection, [folder_at(folder)], signer.verifier)
        connection.rollback()
    assert any(expected in finding for finding in found.findings), found.findings


def test_rows_that_no_seal_covers_are_not_called_forged(sealed: Sealing) -> None:
    sealed.run(10, NAMES[1])
    assert sealed.found() == []
    sealed.seal()
    assert sealed.found() == []
    log, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    assert (len(log.seals), found.waiting) == (5, 0)


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


# Witnesses -------------------------------------------------------------------------------------


def edited(folder: Path, size: int, old: str, new: str) -> None:
    path = folder / file_name(size)
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


WITNESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file in between is deleted": (
        lambda folder: (folder / file_name(2)).unlink(),
        "lacks 1 checkpoints, that of size 2 first",
    ),
    "the last file is deleted": (
        lambda folder: (folder / file_name(4)).unlink(),
        "the witness ends at size 3, and the database has a signed checkpoint of size 4",
    ),
    "every file is deleted": (
        lambda folder: [*map(Path.unlink, folder.iterdir())],
        "the witness ends at size 0",
    ),
    "an old checkpoint is put in place of a newer one": (
        lambda folder: shutil.copy(folder / file_name(2), folder / file_name(4)),
        "the file of size 4 holds the checkpoint of size 2",
    ),
    "a leaf is edited": (
        lambda folder: edited(folder, 3, "run 2", "run 7"),
        "its leaf does not lead to the root",
    ),
    "a checkpoint is edited": (
        lambda folder: edited(folder, 3, r"audit\n3\n", r"audit\n4\n"),
        "is not of this text and this key",
    ),
    "a file is cut": (
        lambda folder: (folder / file_name(3)).write_text('{"format": '),
        "it is not a seal's file",
    ),
    "last ids are edited": (
        lambda folder: edited(folder, 4, '"last": [\n  8', '"last": [\n  7'),
        "1 polls are gone",
    ),
}


@pytest.mark.parametrize("forgery", WITNESS)
def test_a_witness_that_was_edited_is_found(
    shared: tuple[Engine, Path, Signer], tmp_path: Path, forgery: str
) -> None:
    engine, folder, signer = shared
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    forge, expected = WITNESS[forgery]
    forge(copy)
    _, found = check_seals(engine, [folder_at(copy)], signer.verifier)
    assert any(expected in finding for finding in found.findings), found.findings


def test_the_wrong_key_is_found(sealed: Sealing) -> None:
    other = new_signer("example.com/audit")
    assert any("is not signed by" in finding for finding in sealed.found(signer=other))


def test_two_logs_of_one_key_are_a_split_view(
    sealed: Sealing, story: tuple[str, Path, Signer], tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    """Somebody shows one witness another history, sealed with the same key."""
    other = tmp_path / "other"
    with fresh_audit_db(postgres, story[0]) as db:
        shutil.copytree(sealed.folder, other)
        fork = sealing(db, other, sealed.signer)
        fork.run(12, NAMES[3])
        fork.seal()
        fork.engine.dispose()
    sealed.seal()
    assert any("split view" in finding for finding in sealed.found(other))
    with pytest.raises(SealingRefused, match="another log"):
        sealed.seal(other)


def test_an_old_dump_that_was_restored_is_found(
    sealed: Sealing, story: tuple[str, Path, Signer]
) -> None:
    """The witness has seals of rows that the database never had."""
    newer = sealed.folder.parent / "newer"
    shutil.copytree(sealed.folder, newer)
    sealed.run(10, NAMES[1])
    sealed.seal()
    with fresh_audit_db(sealed.db.server, story[0]) as old:
        restored = sealing(old, sealed.folder, sealed.signer)
        assert any("polls are gone" in finding for finding in restored.found())
        with pytest.raises(SealingRefused, match="not what is stored") as refused:
            restored.seal()
        assert any("polls are gone" in finding for finding in refused.value.findings)
        restored.engine.dispose()


def test_a_forged_record_is_not_sealed_on(sealed: Sealing) -> None:
    with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
        cursor.execute(
            "set session_replication_role = replica; "
            "update attr_audit.poll set outcome = 'late' where poll_id = 5"
        )
    with pytest.raises(SealingRefused) as refused:
        sealed.seal()
    [finding] = refused.value.findings
    assert "poll 5 of frankfurt/7 is not as it was sealed" in finding
    assert len(run(sealed.db.reader, "select * from attr_audit.seal")) == 4


def test_of_a_folded_month_no_more_is_missing_than_was_folded(sealed: Sealing) -> None:
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
    [note] = found.notes
    assert "8 of its 12 polls cannot be checked; good polls of " in note
    sealed.seal()

    def forge(statement: str) -> None:
        with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
            cursor.execute(f"set session_replication_role = replica; {statement}")

    # One that was kept is edited: what is left is no longer a part of what was sealed.
    forge("update attr_audit.poll set error_info = 'x' where conn_id = 'c' and outcome <> 'ok'")
    [finding] = sealed.found()
    assert "is not as it was sealed" in finding
    forge("delete from attr_audit.poll where conn_id = 'c'")
    assert sealed.found() == [
        "10 sealed polls of folded months are gone, and attr_audit.coverage holds 8 of them"
    ]


def test_months_that_retention_dropped_are_noted_and_not_called_forged(sealed: Sealing) -> None:
    """The seal holds polls of an old month beside later ones; of those none may be gone."""
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
    [note] = found.notes
    assert note.startswith("seal 4, closed at ")
    assert "1 of its 5 polls cannot be checked" in note
    sealed.seal()
    with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
        cursor.execute(
            "set session_replication_role = replica; "
            "update attr_audit.poll set error_info = 'x' where poll_id = 11"
        )
    assert any("seal 4, closed at" in finding for finding in sealed.found())


# Interruptions ---------------------------------------------------------------------------------


SITES = ["log read", "closed", "signed", "inserted", "committed", "witnessed", "witnessed twice"]


def killed_at(site: str, arguments: list[str]) -> None:
    """`im-attr-audit` in a process of its own, which a SIGKILL ends at this site."""
    passed: list[str] = []

    def strike(passing: str) -> None:
        passed.append(passing)
        if site in (passing, f"{passing} twice" if passed.count(passing) == 2 else ""):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        sealing_module.make_checkpoint = partial(make_checkpoint, at_site=strike)
        os._exit(cli.main(arguments))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("site", SITES)
def test_a_checkpoint_killed_anywhere_is_made_up_for_by_the_next(
    commanded: tuple[Sealing, Path, str], tmp_path: Path, site: str
) -> None:
    sealed, key, _ = commanded
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "file").touch()
    sealed.seal(other)
    targets = [f"file:{folder}" for folder in (sealed.folder, other)]
    killed_at(site, ["checkpoint", "--key", str(key), "--to", targets[0], "--to", targets[1]])
    sealed.run(10, NAMES[1])
    # The killed run's witness is down now: its seal must not be made a second time.
    made = make_checkpoint(
        sealed.engine, sealed.signer, [folder_at(other), folder_at(tmp_path / "file" / "no")]
    )
    assert made.written == [f"file:{other}"]
    assert len(made.failed) == 1
    sealed.seal(other)
    assert sealed.found(other) == []
    assert folder_at(other).sizes() == folder_at(sealed.folder).sizes()
    # None was left out and none made twice: what was committed before the kill counts.
    is_committed = SITES.index(site) >= SITES.index("committed")
    assert folder_at(other).sizes() == list(range(1, 4 + 1 + is_committed + 2 + 1))
    contents = [
        [each.read(size) for size in each.sizes()]
        for each in map(folder_at, (other, sealed.folder))
    ]
    assert contents[0] == contents[1]


def test_a_new_key_begins_a_new_log_over_the_whole_record(sealed: Sealing, tmp_path: Path) -> None:
    again = sealing(sealed.db, tmp_path / "new", new_signer("example.com/audit"))
    with pytest.raises(SealingRefused, match="A new key needs a new name"):
        again.seal()
    again.signer = new_signer("example.com/second")
    first = again.seal().seal
    assert (first.n, first.rows(0)[0]) == (0, 10)
    assert again.found() == []
    assert sealed.found() == []
    again.engine.dispose()


def test_no_witness_no_seal(sealed: Sealing, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SealingRefused, match="no witness can be reached"):
        make_checkpoint(sealed.engine, sealed.signer, [folder_at(tmp_path / "file" / "no")])
    assert sealed.found() == []


def test_overlapping_checkpoints_while_runs_record_leave_one_log_without_gaps(
    sealed: Sealing,
) -> None:
    """Eight sealers make 200 checkpoints of four logs, while two recorders record."""
    made: list[Sealed] = []
    errors: list[BaseException] = []
    signers = [new_signer(f"example.com/{number}") for number in range(4)]
    # Not on a disk, whose every file of 200 would be waited for.
    witnesses = [open_witness(f"memory://{sealed.db.name}/{number}") for number in range(4)]

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def seal(log: int) -> None:
        engine = create_audit_engine(make_url(sealed.db.url(SEALER)))
        for _ in range(25):
            made.append(make_checkpoint(engine, signers[log], [witnesses[log]]))
        engine.dispose()

    def record(number: int) -> None:
        for each in range(10):
            sealed.run(10 + number, NAMES[each % 2])

    threads = [threading.Thread(target=guarded, args=(partial(seal, n % 4),)) for n in range(8)]
    threads += [threading.Thread(target=guarded, args=(partial(record, n),)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(made) == 200
    count = (
        "select (select count(*) from attr_audit.poll), (select count(*) from attr_audit.change)"
    )
    recorded = [*run(sealed.db.reader, count)[0], 5 * 2 + 20 * 2]
    assert recorded[0] == 5 * 2 + 20 * 2
    for signer, witness in zip(signers, witnesses, strict=True):
        make_checkpoint(sealed.engine, signer, [witness])
        log, found = check_seals(sealed.engine, [witness], signer.verifier)
        assert found.findings == []
        assert [seal.n for seal in log.seals] == list(range(50 + 1))
        own = [each.seal.n for each in made if each.seal in log.seals]
        assert sorted(own) == list(range(50))
        assert [sum(seal.rows(kind)[0] for seal in log.seals) for kind in range(3)] == recorded
        assert found.waiting == 0


# The commands ----------------------------------------------------------------------------------


@pytest.fixture
def commanded(
    sealed: Sealing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Sealing, Path, str]:
    """The sealer's URL in the environment, the key in a file; the public key."""
    monkeypatch.setenv("IM_ATTR_AUDIT_SEALER_URL", sealed.db.url(SEALER))
    key = tmp_path / "key"
    key.write_text(sealed.signer.secret_text())
    key.chmod(0o600)
    return sealed, key, str(sealed.signer.verifier)


def test_a_key_is_made_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    arguments = ["checkpoint", "--new-key", "example.com/a", "--key", str(key)]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert str(read_verifier(shown.strip())) == str(read_key_file(key).verifier)
    secret = key.read_text()
    assert "PRIVATE" not in shown
    assert cli.main(arguments) == 2
    assert key.read_text() == secret


def test_checkpoint_verify_and_prove_from_the_command_line(
    commanded: tuple[Sealing, Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sealed, key, vkey = commanded
    checkpoint = ["checkpoint", "--key", str(key), "--to", f"file:{sealed.folder}"]
    assert cli.main(checkpoint) == 0
    said = capsys.readouterr().out
    assert said.startswith("seal 4, closed at ")
    assert ": 2 polls, " in said
    assert f"written to file:{sealed.folder}" in said
    assert cli.main([*checkpoint, "--to", f"file:{key}/none"]) == 2
    assert "The next run writes it there." in capsys.readouterr().err

    verify = ["verify", "--no-asset-events", "--checkpoints", str(sealed.folder), "--vkey", vkey]
    assert cli.main(verify) == 0
    assert "checkpoints: 6 seals" in capsys.readouterr().out
    out = tmp_path / "proof.json"
    prove = ["prove", "--region", "seoul", "--app", "7", "--out", str(out), "--vkey", vkey]
    assert cli.main([*prove, "--at", datetime.now(UTC).isoformat()]) == 0
    claim = check_proof(read_proof(out.read_text()), sealed.signer.verifier)
    assert (claim.row["dag_run_id"], claim.row["outcome"]) == ("run 9", "ok")
    checked = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), vkey], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("PROVEN by example.com/audit, seal 4 of 6")
    assert claim.names == {0: "gender", 1: "", 2: 'a "quoted"\\ \n\x01 name é'}
    assert cli.main([*prove, "--seq", "3"]) == 0
    claim = check_proof(read_proof(out.read_text()), sealed.signer.verifier)
    assert (claim.row["old_name"], claim.row["new_name"]) == ("sex", "gender")

    with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
        cursor.execute(
            "set session_replication_role = replica; "
            "update attr_audit.poll set outcome = 'late' where poll_id = 5"
        )
    assert cli.main(verify) == 1
    assert "NOT AS SEALED  seal 2, closed at" in capsys.readouterr().out
    assert cli.main(checkpoint) == 1
    assert "poll 5 of frankfurt/7 is not as it was sealed" in capsys.readouterr().out


@pytest.mark.parametrize("at", [1, 6, 9])
def test_every_sealed_poll_can_be_proven(sealed: Sealing, at: int) -> None:
    sealed.seal()
    [poll] = run(sealed.db.reader, "select * from attr_audit.poll where poll_id = :id", id=at)
    app = AppKey(poll.region, poll.sdk_app_id)
    proof = prove_poll(sealed.engine, app, poll.requested_at, sealed.signer.verifier)
    claim = check_proof(proof, sealed.signer.verifier)
    assert (claim.row["poll_id"], claim.row["head_seq"]) == (at, poll.head_seq)


def test_what_is_not_sealed_is_not_proven(sealed: Sealing) -> None:
    app = AppKey("seoul", 7)
    with pytest.raises(NotProvable, match="is not sealed yet"):
        prove_poll(sealed.engine, app, datetime.now(UTC), None)
    with pytest.raises(NotProvable, match="No poll of"):
        prove_poll(sealed.engine, app, sealed.at - timedelta(days=1), None)
    with pytest.raises(NotProvable, match="no change"):
        prove_change(sealed.engine, app, 99, None)


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
        sealed_rows.prepare_sealed(connection)

        def read() -> list[tuple[list[bytes], list[bytes], dict[int, list[bytes]]]]:
            return [
                (batch.lines, batch.hashes, batch.columns)
                for kind in sealed_rows.KINDS
                for batch in sealed_rows.read_batches(connection, kind, -1, sealed_rows.END)
            ]

        quickly = read()
        calls: list[bool] = []
        quick = sealed_rows._read_quickly

        def counted(*given: Any) -> Any:
            calls.append(quick(*given) is not None)

        monkeypatch.setattr(sealed_rows, "_read_quickly", counted)
        assert read() == quickly
        connection.rollback()
    assert sum(len(lines) for lines, _, _ in quickly) == 10 + 18 + 10 + len(HOSTILE) + 3
    # Those with a control character and the two far times were not, everything else was.
    assert calls.count(False) == 1 + 7 + 2
    assert calls.count(True) > 10


# Who could still forge what --------------------------------------------------------------------


def as_superuser(db: AuditDb, statements: str) -> None:
    with db.server.connect(db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica; " + statements)


def test_what_a_worker_or_the_vendor_invents_is_sealed_like_the_truth(sealed: Sealing) -> None:
    """Nothing here knows what the vendor answered, or whether it was asked."""
    sealed.run(10, {0: "never answered by anyone"})
    sealed.seal()
    assert sealed.found() == []


def test_a_false_row_of_the_time_since_the_last_seal_is_sealed(sealed: Sealing) -> None:
    as_superuser(
        sealed.db,
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) values ('c', 'seoul', 7, now(), 'ok', now())",
    )
    sealed.seal()
    assert sealed.found() == []


def test_the_owner_with_the_only_witness_can_cut_the_end_and_not_with_two(
    sealed: Sealing, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(sealed.folder, other)
    (sealed.folder / file_name(4)).unlink()
    as_superuser(
        sealed.db,
        "delete from attr_audit.seal where n = 3; delete from attr_audit.poll where poll_id > 6; "
        "delete from attr_audit.change where seq > 5; "
        "delete from attr_audit.planned where planned_id > 3; "
        "delete from attr_audit.review where review_seq > 2; "
        "delete from attr_audit.declaration where declaration_id > 2",
    )
    assert sealed.found() == []
    assert any("polls are gone" in finding for finding in sealed.found(other))


def test_the_owner_with_the_keys_holder_can_rewrite_all_that_no_other_witness_has(
    sealed: Sealing, template: str, tmp_path: Path
) -> None:
    with fresh_audit_db(sealed.db.server, template) as db:
        rewritten = sealing(db, tmp_path / "rewritten", sealed.signer)
        for _ in range(2):
            rewritten.run(5, {0: "a lie"})
            rewritten.seal()
        assert rewritten.found() == []
        assert any("split view" in finding for finding in rewritten.found(sealed.folder))
        rewritten.engine.dispose()


def test_each_line_of_the_pages_table_names_tests_that_exist() -> None:
    section = PAGE.read_text().partition("## Who could still forge what")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!---|who \|)([^|]+?) \|", section, re.M)
    shown = dict(re.findall(r"^- ([^:\n]+): ((?:.|\n  )+)$", section, re.M))
    assert len(rows) >= 8
    assert list(shown) == rows
    for tests in shown.values():
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", tests)
        assert named
        for file, test in named:
            assert f"def {test}(" in (PAGE.parents[1] / "tests" / f"{file}.py").read_text()
