"""`checkpoint`, `verify --checkpoints` and `prove`, interrupted and overlapping too."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from im_attr_audit import cli
from im_attr_audit.apps import AppKey
from im_attr_audit.evidence.note import Signer, new_signer, read_key_file, read_verifier
from im_attr_audit.evidence.proof import check_proof, read_proof
from im_attr_audit.evidence.timestamps import verify_timestamp
from im_attr_audit.evidence.witnesses import open_witness
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.seals import sealing as sealing_module
from im_attr_audit.record.seals.prove import NotProvable, prove_change, prove_poll
from im_attr_audit.record.seals.sealing import Sealed, SealingRefused, make_checkpoint
from im_attr_audit.record.seals.verify import check_seals
from sqlalchemy.engine import make_url

from tests.conftest import SEALER, fresh_audit_db
from tests.sealing import NAMES, Sealing, as_superuser, file_name, folder_at, sealing_of
from tests.test_proof import NODE, PROGRAM, STRANGER
from tests.test_schema import run
from tests.test_witnesses import Server
from tests.test_witnesses import server as server
from tests.timestamp_authority import TimestampAuthority

# Interruptions ---------------------------------------------------------------------------------


SITES = [
    *("log read", "closed", "signed", "inserted", "committed", "witnessed", "witnessed twice"),
    "published",
]


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
    again = sealing_of(sealed.db, tmp_path / "new", new_signer("example.com/audit"))
    with pytest.raises(SealingRefused, match="A new key needs a new name"):
        again.seal()
    again.signer = new_signer("example.com/second")
    first = again.seal().seal
    assert (first.n, first.rows(0)[0]) == (0, 10)
    assert again.found() == []
    assert sealed.found() == []
    again.engine.dispose()


def test_a_log_in_a_restored_database_says_which_log_it_follows(
    sealed: Sealing, story: tuple[str, Path, Signer], tmp_path: Path
) -> None:
    """The dump has four seals of the old log, and its witness five."""
    sealed.seal()
    with fresh_audit_db(sealed.db.server, story[0]) as db:
        restored = sealing_of(db, tmp_path / "new", new_signer("example.com/second"))
        restored.seal()
        restored.run(10, NAMES[1])
        restored.seal()
        new = [folder_at(restored.folder)]
        log, found = check_seals(restored.engine, new, restored.signer.verifier)
        old = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)[0]
        before = ["follows-v1", "example.com/audit", 4, old.roots[4].hex()]
        assert before in map(json.loads, log.checkpoints[0].extensions)
        assert "follows-v1" not in str(log.checkpoints[1].extensions)
        assert found.findings == []
        said = "this log follows the log example.com/audit, which had 4 seals when it began"
        assert said in found.notes
        # Another history is put in its place.
        as_superuser(
            db, "update attr_audit.seal set note = replace(note, E'\n4\n', E'\n4\nAA') where n = 3"
        )
        [finding] = restored.found()
        assert finding.startswith("attr_audit.seal: row 3 of example.com/audit does not lead to")
        restored.engine.dispose()


def test_no_witness_no_seal(sealed: Sealing, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SealingRefused, match="no witness can be reached"):
        make_checkpoint(sealed.engine, sealed.signer, [folder_at(tmp_path / "file" / "no")])
    assert sealed.found() == []


def test_a_target_that_is_down_misses_nothing_and_the_page_sees_who_has_what(
    sealed: Sealing, tmp_path: Path
) -> None:
    other, gone = tmp_path / "other", tmp_path / "gone"
    other.mkdir()
    sealed.seal(other)
    other.rename(gone)
    made = sealed.seal(other)
    assert (made.written, len(made.failed)) == ([f"file:{sealed.folder}"], 1)
    gone.rename(other)
    assert sealed.seal(other).failed == []
    assert folder_at(other).sizes() == folder_at(sealed.folder).sizes() == [*range(1, 8)]
    noted = run(
        sealed.db.reader, "select size, target from attr_audit.witnessed where size > 4 order by 1"
    )
    of = {
        size: {row.target.rpartition("/")[2] for row in noted if row.size == size}
        for size in (5, 6, 7)
    }
    assert of == {5: {"witness", "other"}, 6: {"witness"}, 7: {"witness", "other"}}


def test_a_copy_with_a_seal_missing_in_between_is_filled_up(sealed: Sealing) -> None:
    as_superuser(sealed.db, "delete from attr_audit.seal where n = 1")
    assert sealed.found() == []
    sealed.seal()
    numbers = run(sealed.db.reader, "select n from attr_audit.seal order by n")
    assert [n for (n,) in numbers] == [0, 1, 2, 3, 4]


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
    checked = subprocess.run([NODE, STRANGER, out, vkey], capture_output=True, text=True)
    assert checked.stdout.startswith("PROVEN by example.com/audit: seal 4 of 6"), checked.stderr
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


def test_a_checkpoint_is_time_stamped_and_the_proof_carries_the_stamp(
    commanded: tuple[Sealing, Path, str],
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sealed, key, vkey = commanded
    authority, at = TimestampAuthority(), datetime.now(UTC).replace(microsecond=0)
    server.answer = lambda _, __, query: (200, {}, authority.respond(query, at))
    arguments = ["checkpoint", "--key", str(key), "--to", f"file:{sealed.folder}"]
    assert cli.main([*arguments, "--tsa", f"{server.url}/tsr"]) == 0
    out = tmp_path / "proof.json"
    prove = ["prove", "--region", "seoul", "--app", "7", "--out", str(out), "--vkey", vkey]
    assert cli.main([*prove, "--seq", "3"]) == 0
    proof = read_proof(out.read_text())
    assert proof.timestamp is not None
    assert verify_timestamp(proof.timestamp, proof.note, [authority.root]) == at
    # An authority that is down stops no seal.
    server.answer = lambda *_: (503, {}, b"")
    assert cli.main([*arguments, "--tsa", f"{server.url}/tsr"]) == 2
    said = capsys.readouterr()
    assert "answered HTTP 503. The checkpoint has no time stamp." in said.err
    assert f"written to file:{sealed.folder}" in said.out
    assert sealed.found() == []


def test_a_checkpoint_that_somebody_was_given_must_be_of_the_log(
    commanded: tuple[Sealing, Path, str],
    story: tuple[str, Path, Signer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A log that was rewound is not the one of the proof that an outsider kept."""
    sealed, _, vkey = commanded
    given = {tmp_path / "old.json": sealed.folder / file_name(2)}
    given[tmp_path / "note"] = given[tmp_path / "newest.json"] = sealed.folder / file_name(4)
    for copy, original in given.items():
        shutil.copy(original, copy)
    note = json.loads((tmp_path / "note").read_text())["note"]
    (tmp_path / "note").write_text(note)
    verify = ["verify", "--no-asset-events", "--vkey", vkey, "--checkpoints", str(sealed.folder)]
    kept = [argument for path in given for argument in ("--checkpoints", str(path))]
    assert cli.main([*verify, *kept]) == 0
    assert cli.main([*verify[:-1], *kept[1:]]) == 2
    assert "--checkpoints needs a witness" in capsys.readouterr().err
    # The last seal is made again with another content, at the only witness and in the database.
    (sealed.folder / file_name(4)).unlink()
    as_superuser(sealed.db, "delete from attr_audit.seal where n = 3")
    assert cli.main([*verify, *kept]) == 1
    assert "the witness ends at size 3, and" in capsys.readouterr().out
    sealed.run(10, NAMES[1])
    sealed.seal()
    assert sealed.found() == []
    assert cli.main([*verify, *kept]) == 1
    said = capsys.readouterr().out
    assert f"{tmp_path}/note holds a checkpoint of size 4 with another root" in said
    assert f"{tmp_path}/newest.json holds a checkpoint of size 4 with another root" in said
    assert "old.json" not in said


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
