"""`checkpoint` on a long record: which rows it reads again, and what a forged old row meets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit import cli
from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.record.seals import hashes, sealing
from im_attr_audit.record.seals.sealing import SHARE, SealingRefused, make_checkpoint, rows_due
from im_attr_audit.record.seals.verify import check_seals
from sqlalchemy import Connection

from launch.postgres import EmbeddedPostgres
from tests.conftest import SEALER, fresh_audit_db
from tests.sealing import NAMES, Sealing, as_superuser, file_name, folder_at, sealing_of

LATER = 4


@pytest.fixture(scope="module")
def long_story(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Signer]]:
    """Seals 0 to 3, of two polls each and a review in seals 1 and 2; a template."""
    folder = tmp_path_factory.mktemp("witness")
    with fresh_audit_db(postgres, template) as db:
        made = sealing_of(db, folder, new_signer("example.com/audit"))
        for number, names in enumerate(NAMES):
            made.run(number, names)
            made.judge(number)
            made.seal()
        db.dispose()
        made.engine.dispose()
        yield db.name, folder, made.signer


@pytest.fixture
def long(
    postgres: EmbeddedPostgres,
    long_story: tuple[str, Path, Signer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sealing]:
    """A record that is too long to be read as a whole: seal i is read at every fourth checkpoint
    after it."""
    name, folder, signer = long_story
    shutil.copytree(folder, tmp_path / "witness")
    monkeypatch.setattr(sealing, "_SMALL", 0)
    monkeypatch.setattr(sealing, "SHARE", LATER)
    with fresh_audit_db(postgres, name) as db:
        made = sealing_of(db, tmp_path / "witness", signer)
        yield made
        made.engine.dispose()


def test_every_seal_is_read_again_within_a_day_of_checkpoints(long: Sealing) -> None:
    [*seals] = check_seals(long.engine, [folder_at(long.folder)], long.signer.verifier)[0].seals
    read: dict[int, list[int]] = {}
    many = seals * 100
    for size in range(1, len(many) + 1):
        for number in rows_due(many[:size], size) or ():
            read.setdefault(number, []).append(size)
    for number, sizes in read.items():
        assert sizes == sorted({number + 1, *range(number + LATER, len(many) + 1, LATER)})
    assert [*read] == [*range(len(many))]
    assert SHARE * 15 * 60 == 24 * 60 * 60


def test_a_short_record_is_always_read_as_a_whole(
    long: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_SMALL", 100_000)
    as_superuser(long.db, "update attr_audit.poll set outcome = 'late' where poll_id = 3")
    with pytest.raises(SealingRefused) as refused:
        long.seal()
    assert "poll 3 of frankfurt/7 is not as it was sealed" in refused.value.findings[0]


def test_a_forged_old_row_is_refused_by_the_checkpoint_that_reads_its_seal_again(
    long: Sealing,
) -> None:
    as_superuser(long.db, "update attr_audit.poll set outcome = 'late' where poll_id = 3")
    long.seal()  # its seal 1 is not due in the checkpoint of seal 4
    assert "poll 3 of frankfurt/7 is not as it was sealed" in long.found()[0]
    with pytest.raises(SealingRefused) as refused:
        long.seal()
    assert "poll 3 of frankfurt/7 is not as it was sealed" in refused.value.findings[0]
    assert folder_at(long.folder).sizes() == [1, 2, 3, 4, 5]


def test_a_forged_old_row_is_refused_at_once_where_all_is_to_be_read(
    long: Sealing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IM_ATTR_AUDIT_SEALER_URL", long.db.url(SEALER))
    key = tmp_path / "key"
    key.write_text(long.signer.secret_text())
    key.chmod(0o600)
    arguments = ["checkpoint", "--key", str(key), "--to", f"file:{long.folder}"]
    as_superuser(long.db, "delete from attr_audit.poll where poll_id = 3")
    assert cli.main([*arguments, "--full"]) == 1
    said = capsys.readouterr().out
    assert "1 poll is gone; it was before poll 4 of seoul/7" in said
    assert cli.main(arguments) == 0
    assert "older rows checked" in capsys.readouterr().out


#: What only the log itself shows, so it is found whichever rows are read → what is said.
AT_ONCE = {
    "a row of the newest seal": (
        "update attr_audit.poll set outcome = 'late' where poll_id = 8",
        "poll 8 of seoul/7 is not as it was sealed",
    ),
    "a row that is put before the newest seal": (
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) values ('c', 'seoul', 7, now() - interval '1 hour', 'ok', "
        "now() - interval '1 hour')",
        "has a false date",
    ),
    "the last ids of the copy": (
        "update attr_audit.seal set last_poll_id = last_poll_id + 5 where n = 3",
        "seal 3 ends at other ids in attr_audit.seal than at file:",
    ),
    "a review that an old checkpoint lists": (
        "update attr_audit.review set comment = 'x' where review_seq = 1",
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "what an old checkpoint lists is taken out": (
        "update attr_audit.seal set note = regexp_replace(note, '\\[\"(review|declaration)"
        "-v1\"[^\\n]*\\n', '', 'g') where n = 1",
        "a line was taken out of a copy",
    ),
}


@pytest.mark.parametrize("what", AT_ONCE)
def test_what_is_forged_is_refused_at_once(long: Sealing, what: str) -> None:
    statement, expected = AT_ONCE[what]
    as_superuser(long.db, statement)
    with pytest.raises(SealingRefused) as refused:
        long.seal()
    assert expected in f"{refused.value} {refused.value.findings}"


@pytest.mark.parametrize("edit", ["leaf = replace(leaf, 'run 1', 'run 7')", "note = 'x'"])
def test_an_old_copy_that_was_edited_is_read_from_the_witness_instead(
    long: Sealing, edit: str
) -> None:
    """Only the leaves that the newest witnessed root covers are built on."""
    as_superuser(long.db, f"update attr_audit.seal set {edit} where n = 1")
    assert long.seal().seal.n == 4
    assert any("attr_audit.seal: row 1" in finding for finding in long.found())


def test_an_old_copy_that_was_edited_is_not_built_on_where_no_witness_has_it(
    long: Sealing, tmp_path: Path
) -> None:
    """A new, empty witness: every signature is verified, and the log does not go past the edit."""
    (tmp_path / "new").mkdir()
    as_superuser(
        long.db,
        "update attr_audit.seal set note = replace(note, E'\\n4\\n', E'\\n5\\n') where n = 3",
    )
    with pytest.raises(SealingRefused, match=r"copy differs \(seal 3: .* no witness"):
        make_checkpoint(long.engine, long.signer, [folder_at(tmp_path / "new")])


def test_no_second_log_is_signed_where_seals_at_a_witness_cannot_be_read(long: Sealing) -> None:
    """The copy was lost, and a file in between at the only witness."""
    as_superuser(long.db, "truncate attr_audit.seal")
    (long.folder / file_name(2)).unlink()
    with pytest.raises(SealingRefused, match="a witness has the checkpoint of size 4, and the"):
        long.seal()
    assert folder_at(long.folder).sizes() == [1, 3, 4]


def test_several_processes_find_what_one_does(
    long: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[list[str], list[str], int, int]:
        check = check_seals(long.engine, [folder_at(long.folder)], long.signer.verifier)[1]
        return check.findings, check.notes, check.rows, check.waiting

    times = ("requested_at", "last_requested_at", "first_responded_at", "responded_at")
    earlier = ", ".join(f"{at} = {at} - interval '1 hour'" for at in (*times, "recorded_at"))
    as_superuser(
        long.db,
        "delete from attr_audit.poll where poll_id = 3; "
        "update attr_audit.poll set outcome = 'late' where poll_id = 6; "
        "update attr_audit.change set new_name = 'x' where change_id = 1; "
        f"update attr_audit.poll set {earlier} where poll_id = 8",
    )
    alone = found()
    assert len(alone[0]) == 5
    monkeypatch.setattr(hashes, "_SMALL", 0)
    monkeypatch.setattr(hashes, "_LEAST", 1)
    monkeypatch.setattr(hashes, "processors", lambda: 2)
    helped: list[int] = []
    hash_with = hashes._hash_with

    def noted(connection: Connection, work: Any, pending: Any, heads: Any) -> Any:
        wait(pending[:1])  # another process hashes at least the first
        hashed = hash_with(connection, work, pending, heads)
        helped.append(sum(each.done() and not each.cancelled() for each in pending))
        return hashed

    monkeypatch.setattr(hashes, "_hash_with", noted)
    assert found() == alone
    assert helped[0] >= 1
