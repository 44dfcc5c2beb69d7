"""What `verify --checkpoints` finds, and states, about seals whose good polls are folded."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from im_attr_audit.evidence import bundle
from im_attr_audit.record.seals import sealing, unsealed
from im_attr_audit.record.seals.sealing import SealingRefused
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.upkeep.fold import fold_old_polls

from tests.sealing import Sealing, as_superuser, edit_file, folder_at, new_log
from tests.test_schema import run


def begin_of_month(back: int) -> datetime:
    """The month that is so many months before the running one."""
    now = datetime.now(UTC)
    number = now.year * 12 + now.month - 1 - back
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def record_month(sealed: Sealing, back: int, good: int = 8, failed: int = 2) -> str:
    """Hourly polls of Seoul in a month that is over, good ones first; returns the month."""
    begin = begin_of_month(back)
    run(
        sealed.db.owner,
        f"select attr_audit_internal.create_poll_partition(date '{begin:%Y-%m-%d}')",
    )
    run(
        sealed.db.owner,
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, api, requested_at, outcome) "
        f"select 'c', 'seoul', 7, 'timpush', timestamptz '{begin}' + m * interval '1 hour', "
        f"case when m < {good} then 'ok' else 'rejected' end "
        f"from generate_series(0, {good + failed - 1}) m",
    )
    return f"{begin:%Y-%m}"


def fold(sealed: Sealing) -> None:
    fold_old_polls(sealed.db.server.url(sealed.db.name))


def results(sealed: Sealing, *more: Path) -> tuple[list[str], list[str]]:
    """Findings, and notes about polls; both without the time at which a seal closed."""
    witnesses = [folder_at(path) for path in (sealed.folder, *more)]
    _, found = check_seals(sealed.engine, witnesses, sealed.signer.verifier)
    findings, notes = (
        [
            f"{begin}{end.partition('Z')[2]}"
            for begin, _, end in (each.partition(", closed at ") for each in sentences)
        ]
        for sentences in (found.findings, [n for n in found.notes if " polls " in n])
    )
    return findings, notes


@pytest.fixture
def folded(sealed: Sealing, tmp_path: Path) -> Iterator[Sealing]:
    """One seal over the whole record, of which a month is folded then."""
    made = new_log(sealed, tmp_path / "new")
    record_month(made, 3)
    made.seal()
    fold(made)
    yield made
    made.engine.dispose()


def make_it_an_earlier_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of four bytes that no checkpoint signs."""
    monkeypatch.setattr(bundle, "MARKS", (4, 4, 4))
    monkeypatch.setattr(unsealed, "MARKS", (4, 4, 4))
    monkeypatch.setattr(sealing, "line_of_marks", lambda _: ())


def test_a_poll_that_was_edited_in_a_folded_month_must_match_16_bytes(folded: Sealing) -> None:
    findings, [note] = results(folded)
    assert findings == []
    assert note.startswith("seal 0: 8 of its 20 polls cannot be checked; good polls of ")
    [first] = [s.marks_of(0) for s in [bundle.read_bundle(folder_at(folded.folder).read(1))]]
    assert first is not None
    assert {len(mark) for mark in first} == {16}
    as_superuser(folded.db, "update attr_audit.poll set error_info = 'x' where conn_id = 'c'")
    [finding], _ = results(folded)
    assert finding.startswith("seal 0: poll ")
    assert finding.endswith(" is not as it was sealed")


def test_of_marks_of_four_bytes_the_note_states_what_they_cannot_show(
    sealed: Sealing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_log(sealed, tmp_path / "new")
    month = record_month(made, 3)
    with monkeypatch.context() as earlier:
        make_it_an_earlier_versions(earlier)
        made.seal()
    fold(made)
    assert results(made) == (
        [],
        [
            "seal 0: 8 of its 20 polls cannot be checked, and the other 12 only by 4 bytes of "
            "their hashes, which a forged poll can be made to have; good polls of "
            f"{month} are folded"
        ],
    )
    as_superuser(made.db, "update attr_audit.poll set error_info = 'x' where poll_id = 1")
    [finding], _ = results(made)
    assert finding == "seal 0: poll 1 of frankfurt/7 is not as it was sealed"
    made.engine.dispose()


def test_of_a_seal_without_marks_the_note_states_that_no_poll_can_be_checked(
    sealed: Sealing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_log(sealed, tmp_path / "new")
    month = record_month(made, 3)
    with monkeypatch.context() as many:
        many.setattr(sealing, "MOST_MARKS", 5)
        made.seal()
    fold(made)
    assert results(made) == (
        [],
        [
            "seal 0: none of its 20 polls can be checked, and 8 are missing: it has no marks of "
            f"them; good polls of {month} are folded"
        ],
    )
    made.engine.dispose()


@pytest.mark.parametrize("marks", ["", base64.b64encode(b"x" * 240).decode()])
def test_marks_that_were_taken_out_or_edited_are_found(folded: Sealing, marks: str) -> None:
    other = folded.folder.parent / "other"
    shutil.copytree(folded.folder, other)
    edit_file(folded.folder, 0, marks=marks)
    bad = (
        f"file:{folded.folder}: the checkpoint of size 1: its marks are missing or edited: its "
        "checkpoint signs others"
    )
    as_superuser(folded.db, "update attr_audit.poll set error_info = 'x' where conn_id = 'c'")
    findings, notes = results(folded)
    assert findings == [
        bad,
        "seal 0: its rows cannot be compared: its marks are missing or edited",
    ]
    assert "none of its 20 polls can be checked" in notes[0]
    # A witness that still has them shows what differs, whichever is read first.
    for first, second in ((folded.folder, other), (other, folded.folder)):
        folded.folder = first
        findings, _ = results(folded, second)
        assert findings[0] == bad
        assert [each.endswith(" is not as it was sealed") for each in findings[1:]] == [True]


def test_of_unsigned_marks_those_of_the_witness_that_has_them_are_used(
    sealed: Sealing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = new_log(sealed, tmp_path / "new"), tmp_path / "other"
    record_month(made, 3)
    with monkeypatch.context() as earlier:
        make_it_an_earlier_versions(earlier)
        made.seal()
    fold(made)
    shutil.copytree(made.folder, other)
    edit_file(made.folder, 0, marks="")
    as_superuser(made.db, "update attr_audit.poll set error_info = 'x' where poll_id = 1")
    for first, second in ((made.folder, other), (other, made.folder)):
        made.folder = first
        findings, _ = results(made, second)
        assert findings == [
            f"file:{second}: the checkpoint of size 1: the files of two witnesses have different "
            "marks, or one has none",
            "seal 0: poll 1 of frankfurt/7 is not as it was sealed",
        ]
    made.engine.dispose()


def test_a_copy_of_a_folded_seal_that_was_edited_is_not_sealed_on(folded: Sealing) -> None:
    as_superuser(folded.db, "update attr_audit.seal set marks = '' where n = 0")
    with pytest.raises(SealingRefused) as refused:
        folded.seal()
    assert "its marks are missing or edited" in refused.value.findings[0]
