"""`im-attr-audit declare`: what it prints, its exit codes, and the first declaration it writes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from im_attr_audit import cli
from im_attr_audit.apps import AppKey
from im_attr_audit.commands import shared
from im_attr_audit.declared.first import REASON, first_declaration
from im_attr_audit.declared.judge import AppNow, difference, judge
from im_attr_audit.declared.model import NOTHING
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Rejected
from im_attr_audit.record.store import record_polls

from launch.postgres import EmbeddedPostgres
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import polled
from tests.test_cli import command
from tests.test_declarations import declare
from tests.test_views import run

NOW = datetime(2026, 11, 26, tzinfo=UTC)
NAMES = {
    AppKey("china", 1): {0: "sex", 1: "city", 2: "会员等级"},
    AppKey("seoul", 2): {0: "sex", 1: "city", 2: "Level"},
    AppKey("tokyo", 3): {0: "sex", 1: "city", 2: "Level", 3: "\x1b[31m‮"},
    AppKey("tokyo", 4): {0: "sex", 1: "city", 2: "Level"},
}
SHOP = """\
groups:
  shop:
    names: {0: sex, 1: city, 2: Level}
    exceptions:
      - {region: china, names: {2: 会员等级}, reason: local wording}
      - {region: mumbai, names: {2: x}, reason: nobody is there}
"""


@pytest.fixture(scope="module")
def db(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    """Four apps of a group, polled just now, one of them with a violation; and one never seen."""
    with fresh_audit_db(postgres, template) as it:
        declare(it, "groups: {shop: {names: {0: sex, 1: city, 2: Level}}}")
        [[now]] = run(it.owner, "select now()")
        at = now - timedelta(minutes=1)
        polls = [
            polled(names, names, at=at, region=region, sdk_app_id=number, app_group="shop")
            for (region, number), names in NAMES.items()
        ]
        failure = Rejected("no", error_code=90009)
        polls.append(polled(at=at, sdk_app_id=9, app_group="shop", failure=failure))
        record_polls(it.writer, polls, dag_run_id="run", try_number=1)
        yield it


@pytest.fixture
def as_reader(db: AuditDb, monkeypatch: pytest.MonkeyPatch) -> AuditDb:
    monkeypatch.setattr(shared, "reader_engine", lambda: db.reader)
    return db


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("names.yaml")
    path.write_text(SHOP, encoding="utf-8")
    return path


def test_what_would_begin_and_end_is_shown_and_nothing_is_recorded(
    as_reader: AuditDb, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SHOP.replace("0: sex", "0: Sex")
    file.write_text(text, encoding="utf-8")
    assert cli.main(["declare", "names.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        'names.yaml, line 6: warning: group "shop", region "mumbai": no such'
    )
    assert lines[1] == "names.yaml is valid: 1 group, 2 exceptions, 1 warning."
    assert "5 apps" in lines[2]
    assert lines[2].endswith("Z: 4 violations would begin, 1 would end, 1 would remain.")
    assert lines[3:] == [
        'would begin: china/1 slot 0: "sex", declared "Sex" (different, group "shop")',
        'would begin: seoul/2 slot 0: "sex", declared "Sex" (different, group "shop")',
        'would begin: tokyo/3 slot 0: "sex", declared "Sex" (different, group "shop")',
        'would begin: tokyo/4 slot 0: "sex", declared "Sex" (different, group "shop")',
        'would end: china/1 slot 2: "会员等级", declared "Level" (different, group "shop")',
        "Not judged, because these apps are stale or have never had a good poll: frankfurt/9.",
    ]
    assert run(as_reader.reader, "select count(*) from declaration") == [(1,)]


@pytest.mark.parametrize(
    ("change", "strict", "code"),
    [
        ("", 0, 0),
        ("", 1, 1),
        ("      - {region: mumbai, names: {2: x}, reason: nobody is there}\n", 1, 0),
    ],
    ids=["a warning", "a warning, strict", "no warning, strict"],
)
def test_a_warning_counts_only_where_that_is_asked_for(
    as_reader: AuditDb, file: Path, change: str, strict: int, code: int
) -> None:
    if change:
        file.write_text(SHOP.replace(change, ""), encoding="utf-8")
    assert cli.main(["declare", "names.yaml", *["--strict"] * strict]) == code


def test_errors_are_shown_by_name_and_line_before_anything_is_connected(file: Path) -> None:
    done = command("declare", str(file.resolve()), "--no-database")
    assert (done.returncode, done.stderr) == (0, "")
    file.write_text(SHOP.replace("reason: local wording", "because: x"), encoding="utf-8")
    done = command("declare", str(file.resolve()))
    assert (done.returncode, done.stderr) == (1, "")
    assert 'line 5: error: group "shop", exception: unknown key "because"' in done.stdout
    assert done.stdout.endswith("names.yaml is refused: 2 errors.\n")


def test_what_cannot_be_read_is_neither_valid_nor_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_connection() -> None:
        raise shared.CannotDo("Airflow has no connection.")

    monkeypatch.setattr(shared, "reader_engine", no_connection)
    for arguments, reason in [
        (["nowhere.yaml"], "No such file"),
        ([], "FILE is missing"),
        (["--from-current", "--strict"], "give it alone"),
        (["names.yaml"], "no connection"),
    ]:
        assert cli.main(["declare", *arguments]) == 2
        assert reason in capsys.readouterr().err


def test_a_first_declaration_makes_nothing_a_violation_and_is_never_written_over_a_file(
    as_reader: AuditDb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "first.yaml"
    assert cli.main(["declare", "--from-current", str(path)]) == 0
    assert f"{path}: 1 group, 2 exceptions." in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert text.count(f"reason: {REASON}\n") == 2
    assert "      - region: china\n        names: {2: 会员等级}\n" in text
    assert '# "frankfurt", app 9 has never had a good poll' in text
    assert cli.main(["declare", "--from-current", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == text
    assert cli.main(["declare", "--from-current"]) == 0
    assert capsys.readouterr().out == text
    assert cli.main(["declare", str(path), "--strict"]) == 0
    assert ": 0 violations would begin, 2 would end" in capsys.readouterr().out


def test_a_declaration_in_place_of_another_begins_and_ends_only_what_is_known() -> None:
    shop = parse(SHOP, "x").declaration
    fresh = AppNow(AppKey("seoul", 1), "shop", {0: "sex"}, NOW, False)
    stale = AppNow(AppKey("seoul", 2), "shop", {}, NOW, True)
    found = difference(NOTHING, shop, [fresh, stale], NOW)
    assert [(each.app.sdk_app_id, each.slot) for each in found.begins] == [(1, 1), (1, 2)]
    assert difference(shop, NOTHING, [fresh, stale], NOW).ends == found.begins
    assert difference(shop, shop, [fresh, stale], NOW).remain == 2


_WORDS = st.sampled_from(["sex", "no", "12", "", " a", "a: b", "é", "\u2028\x00"[:1], "2026-01-01"])
_NAME = _WORDS | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9
)
_APPS = st.lists(
    st.builds(
        lambda region, number, group, names, seen: AppNow(
            AppKey(region, number), group, names if seen else {}, NOW if seen else None, not seen
        ),
        st.sampled_from(["china", "no"]),
        st.integers(1, 6),
        st.sampled_from(["shop", "0x1"])
        | st.text("x\"'\n\u202e# ", min_size=1, max_size=4).map("g{}".format),
        st.dictionaries(st.integers(0, 3), _NAME, max_size=4),
        st.booleans(),
    ),
    unique_by=lambda each: each.app,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(_APPS)
def test_a_first_declaration_is_valid_and_only_a_repeated_name_remains_a_violation(
    apps: list[AppNow],
) -> None:
    declaration = parse(first_declaration(apps), "x").declaration
    assert declaration.groups.keys() == {each.app_group for each in apps}
    found = {(each.app, each.slot) for each in judge(declaration, apps, NOW) if each.is_known}
    assert found == {
        (each.app, slot)
        for each in apps
        for slot, name in each.names.items()
        if any(other < slot and each.names[other] == name for other in each.names)
    }
