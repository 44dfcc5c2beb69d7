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
from im_attr_audit.record.seals.months import count_months
from im_attr_audit.record.seals.sealing import SealingRefused
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.upkeep.fold import fold_old_polls
from im_attr_audit.record.upkeep.retention import drop_old_polls

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
    """Marks of four bytes; the checkpoint signs neither them nor the numbers of polls."""
    monkeypatch.setattr(bundle, "MARKS", (4, 4, 4))
    monkeypatch.setattr(unsealed, "MARKS", (4, 4, 4))
    for line in ("line_of_marks", "line_of_months"):
        monkeypatch.setattr(sealing, line, lambda _: ())


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


# How many polls may be missing --------------------------------------------------------------------


def cite(sealed: Sealing, poll_id: int) -> None:
    """A change cites that poll, so a fold keeps its row."""
    as_superuser(
        sealed.db,
        "update attr_audit.change c set poll_id = p.poll_id, seen_at = p.requested_at "
        f"from attr_audit.poll p where p.poll_id = {poll_id} and c.change_id = (select "
        "min(change_id) from attr_audit.change where region = p.region)",
    )


def test_a_fold_excuses_no_missing_poll_of_another_month(sealed: Sealing, tmp_path: Path) -> None:
    """Months were folded before the log began; then sealed polls of a later one are deleted."""
    sealed.seal()
    record_month(sealed, 5)
    record_month(sealed, 4)
    sealed.seal()
    fold(sealed)
    made = new_log(sealed, tmp_path / "new")
    month = record_month(made, 0, good=0, failed=6)
    made.seal()
    assert results(made)[0] == []
    as_superuser(
        made.db,
        "delete from attr_audit.poll where conn_id = 'c' and outcome = 'rejected' and "
        f"requested_at >= '{month}-01' and poll_id % 2 = 0",
    )
    [finding], notes = results(made)
    assert finding.startswith("seal 0: 3 polls are gone; the first was ")
    assert notes == []
    made.engine.dispose()


def test_a_fold_excuses_no_missing_poll_that_was_not_good(folded: Sealing) -> None:
    as_superuser(
        folded.db,
        "delete from attr_audit.poll where poll_id = (select max(poll_id) from attr_audit.poll "
        "where conn_id = 'c')",
    )
    month = f"{begin_of_month(3):%Y-%m}"
    findings, [note] = results(folded)
    assert findings == [f"seal 0: missing: 1 poll of {month} that no fold removes"]
    assert note.startswith("seal 0: 8 of its 20 polls cannot be checked; ")


@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_mark_that_was_taken_off_a_kept_poll_excuses_no_missing_one(
    sealed: Sealing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_earlier: bool
) -> None:
    made = new_log(sealed, tmp_path / "new")
    month = record_month(made, 3)
    cite(made, 12)
    with monkeypatch.context() as earlier:
        if is_earlier:
            make_it_an_earlier_versions(earlier)
        made.seal()
    fold(made)
    findings, [note] = results(made)
    assert findings == []
    assert note.startswith("seal 0: 7 of its 20 polls cannot be checked")
    as_superuser(
        made.db,
        "delete from attr_audit.poll where poll_id = (select max(poll_id) from attr_audit.poll "
        "where conn_id = 'c'); update attr_audit.poll set is_folded = null where poll_id = 12",
    )
    gone = f"seal 0: missing: 1 poll of {month} that no fold removes"
    if is_earlier:
        span = f"{month} to {begin_of_month(0):%Y-%m}"
        gone = (
            f"8 sealed polls of folded months ({span}) are gone, and attr_audit.coverage holds "
            "7 of them"
        )
    unmarked = "poll 12 of seoul/7 is in attr_audit.coverage and not marked as folded"
    assert sorted(results(made)[0]) == sorted([gone, unmarked])
    made.engine.dispose()


def test_a_good_poll_that_is_gone_from_a_folded_month_is_found(
    sealed: Sealing, tmp_path: Path
) -> None:
    """The one that a change cites is not among those that the fold removed."""
    made = new_log(sealed, tmp_path / "new")
    record_month(made, 3)
    cite(made, 12)
    made.seal()
    fold(made)
    assert results(made)[0] == []
    as_superuser(made.db, "delete from attr_audit.poll where poll_id = 12")
    [finding], _ = results(made)
    assert finding.startswith("poll 12 is gone, and change seoul/7 seq ")
    made.engine.dispose()


@pytest.mark.parametrize("poll", ["conn_id = 'c' and outcome <> 'ok'", "poll_id = 1"])
def test_a_poll_that_is_falsely_marked_as_folded_is_found(folded: Sealing, poll: str) -> None:
    as_superuser(folded.db, f"update attr_audit.poll set is_folded = true where {poll}")
    findings, _ = results(folded)
    assert findings
    assert all("is marked as folded and not in attr_audit.coverage" in each for each in findings)


def test_polls_of_a_dropped_and_of_a_folded_month_are_accounted_for_by_month(
    sealed: Sealing, tmp_path: Path
) -> None:
    made = new_log(sealed, tmp_path / "new")
    record_month(made, 4)
    month = record_month(made, 3)
    made.seal()
    fold(made)
    drop_old_polls(made.db.server.url(made.db.name), older_than=begin_of_month(3))
    assert results(made) == (
        [],
        [
            f"seal 0: 18 of its 30 polls cannot be checked; polls before {month}-01 00:00:00Z are "
            f"not kept and good polls of {month} are folded"
        ],
    )
    as_superuser(
        made.db,
        "delete from attr_audit.poll where poll_id = (select max(poll_id) from attr_audit.poll "
        "where conn_id = 'c')",
    )
    [finding], _ = results(made)
    assert finding == f"seal 0: missing: 1 poll of {month} that no fold removes"
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


@pytest.mark.parametrize(
    ("times", "outcomes", "expected"),
    [
        ([], [], {}),
        (["2026-11-30 23:59:59.999999"], ["ok"], {("2026-11", True): 1}),
        (
            ["2026-11-30 23:59:59.999999", "2026-12-01", "2026-12-31 12:00"],
            ["ok", "late", "ok"],
            {("2026-11", True): 1, ("2026-12", False): 1, ("2026-12", True): 1},
        ),
        (
            ["2026-11-01", "2026-11-30"],
            ["late", "ok"],
            {("2026-11", True): 1, ("2026-11", False): 1},
        ),
        (["1999-11-01", "2026-11-30"], ["ok", "ok"], {("1999-11", True): 1, ("2026-11", True): 1}),
        (["infinity"], ["ok"], {("", True): 1}),
    ],
)
def test_polls_are_counted_by_month_and_outcome(
    times: list[str], outcomes: list[str], expected: dict[tuple[str, bool], int]
) -> None:
    tokens = [
        b"infinity"
        if each == "infinity"
        else b"%d" % (datetime.fromisoformat(f"{each}+00:00").timestamp() * 1_000_000)
        for each in (f"{at} 00:00" if len(at) == 10 else at for at in times)
    ]
    assert count_months(tokens, [b'"%b"' % each.encode() for each in outcomes]) == expected
