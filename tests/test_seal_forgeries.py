"""What `verify --checkpoints` finds: every forgery of what was sealed, by name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest
from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.record.checks.tables import NotATable
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.seals.sealing import SealingRefused
from im_attr_audit.record.seals.verify import check_seals, check_seals_on
from im_attr_audit.record.upkeep.roles import READER, SEALER, WRITER
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from launch.postgres import EmbeddedPostgres
from tests.conftest import fresh_audit_db
from tests.forgeries import ACTORS, DISGUISED, FORGED, MATRIX
from tests.sealing import NAMES, Sealing, as_superuser, file_name, folder_at, sealing_of
from tests.test_proof import PAGE
from tests.test_schema import run


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("forgery", FORGED)
def test_a_forgery_of_what_was_sealed_is_found_and_named(
    shared: tuple[Engine, Path, Signer], forgery: str, actor: str
) -> None:
    engine, folder, signer = shared
    statements, *expected = FORGED[forgery]
    with engine.connect() as connection:
        connection.exec_driver_sql(ACTORS[actor])
        connection.exec_driver_sql("set local search_path = attr_audit, pg_catalog")
        connection.exec_driver_sql(statements.replace("%", "%%"))
        connection.exec_driver_sql("reset role")
        _, found = check_seals_on(connection, [folder_at(folder)], signer.verifier)
        connection.rollback()
    # All that is expected, in this order, and nothing else.
    findings = [re.sub(r"^(seal \d+), closed at [^Z]+Z", r"\1", each) for each in found.findings]
    pairs = zip_longest(findings, expected, fillvalue="nothing")
    assert all(finding.startswith(start) for finding, start in pairs), findings


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("disguise", DISGUISED)
def test_what_is_not_a_table_is_not_read_as_one(
    shared: tuple[Engine, Path, Signer], disguise: str, actor: str
) -> None:
    engine, folder, signer = shared
    statements, expected = DISGUISED[disguise]
    with engine.connect() as connection:
        connection.exec_driver_sql(ACTORS[actor])
        connection.exec_driver_sql("set local search_path = attr_audit, pg_catalog")
        connection.exec_driver_sql(statements)
        connection.exec_driver_sql("reset role")
        with pytest.raises(NotATable) as refused:
            check_seals_on(connection, [folder_at(folder)], signer.verifier)
        connection.rollback()
    assert expected in str(refused.value)


SEMICOLON = r";\s*(?=insert|update|delete|alter|drop|create|truncate)"
REFUSED = "permission denied|must be owner|append-only|can only be updated to DEFAULT"


def refusal(engine: Engine, role: str, statement: str) -> str | None:
    """Why the role may not do that; None: it may."""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"set local role {role}")
        try:
            connection.exec_driver_sql(statement.replace("%", "%%"))
        except SQLAlchemyError as refused:
            return str(refused)
        finally:
            connection.rollback()
    return None


@pytest.mark.parametrize("role", [WRITER, SEALER, READER])
def test_a_login_of_the_deployment_is_refused_every_forgery(
    shared: tuple[Engine, Path, Signer], role: str
) -> None:
    engine, _, _ = shared
    allowed = []
    for name, (statements, *_) in {**FORGED, **DISGUISED}.items():
        # Each by itself: the first one is not the only one that is refused.
        whole = "$$" in statements or name in DISGUISED
        parts = [statements] if whole else re.split(SEMICOLON, statements)
        for statement in parts:
            if (reason := refusal(engine, role, statement)) is None:
                allowed.append(name)
            else:
                assert re.search(REFUSED, reason), (name, statement, reason)
    # A copy without a signature: it is found, and no checkpoint is built on it.
    assert allowed == (["a false seal is put behind the copy"] if role == SEALER else [])


def test_the_matrix_has_each_kind_of_forgery_of_each_table() -> None:
    kinds = {"edit", "delete", "insert", "back-date", "swap", "truncate"}
    for table in ("poll", "change", "planned", "review", "declaration"):
        assert set(MATRIX[table]) >= kinds
    for table in ("change", "review"):
        assert "hash again" in MATRIX[table]
    named = {name for cells in MATRIX.values() for names in cells.values() for name in names}
    assert named <= set(FORGED)
    # What is left hides an edit: replaced functions, views and operators, dropped triggers.
    assert all(name.startswith("an edit behind") for name in set(FORGED) - named)


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
        "1 poll is gone; it was ",
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
        fork = sealing_of(db, other, sealed.signer)
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
        restored = sealing_of(old, sealed.folder, sealed.signer)
        assert any("polls are gone" in finding for finding in restored.found())
        with pytest.raises(
            SealingRefused, match="stored rows differ from what was sealed"
        ) as refused:
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


# Who could still forge what --------------------------------------------------------------------


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
        rewritten = sealing_of(db, tmp_path / "rewritten", sealed.signer)
        for _ in range(2):
            rewritten.run(5, {0: "a lie"})
            rewritten.seal()
        assert rewritten.found() == []
        assert any("split view" in finding for finding in rewritten.found(sealed.folder))
        rewritten.engine.dispose()


def test_the_keys_holder_with_a_witness_and_without_the_owner_is_found(
    sealed: Sealing, template: str, tmp_path: Path
) -> None:
    """They show a log of their own, and the database still has what was sealed."""
    with fresh_audit_db(sealed.db.server, template) as db:
        false = sealing_of(db, tmp_path / "false", sealed.signer)
        for _ in range(4):
            false.run(5, {0: "a lie"})
            false.seal()
        false.engine.dispose()
        shown = [folder_at(false.folder)]
        _, found = check_seals(sealed.engine, shown, sealed.signer.verifier)
    assert any("attr_audit.seal holds a checkpoint" in each for each in found.findings)
    assert any("seal 0, closed at" in finding for finding in found.findings)


def test_what_is_derived_is_not_sealed_and_what_of_it_no_command_finds(sealed: Sealing) -> None:
    as_superuser(sealed.db, "update attr_audit.membership set app_group = 'x'")
    assert sealed.found() == []
    assert check_database(sealed.engine).findings == ()
    as_superuser(
        sealed.db,
        "update attr_audit.snapshot set name = 'x' where region = 'seoul' and slot = 0; "
        "delete from attr_audit.app where region = 'frankfurt'",
    )
    assert sealed.found() == []
    found = {(each.category, each.region) for each in check_database(sealed.engine).findings}
    assert found >= {("snapshot", "seoul"), ("app", "frankfurt")}


def test_the_sealers_login_without_the_key_can_stop_seals_and_forge_none(sealed: Sealing) -> None:
    run(
        sealed.engine,
        "insert into attr_audit.seal (origin, n, leaf, note, last_poll_id, last_change_id, "
        "last_planned_id, polls_from, marks) values ('example.com/audit', 4, '[]', 'x', 0, 0, 0, "
        "'4713-01-01 BC', '')",
    )
    assert any("attr_audit.seal: row 4: " in finding for finding in sealed.found())
    with pytest.raises(SealingRefused, match="no witness that was named has these seals"):
        sealed.seal()


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
