"""The table of a run, as a whole text: what a person reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from im_attr_audit.names import AttrName
from im_attr_audit.record.runs import Run, RunChange, RunPoll
from im_attr_audit.report import quoted, render

AT = datetime(2026, 5, 3, 10, 0, tzinfo=UTC)


def poll(region: str | None, outcome: str = "ok", **more: object) -> RunPoll:
    values: dict[str, object] = {
        "conn_id": f"im_{region}",
        "region": region,
        "sdk_app_id": 1400000001 if region else None,
        "outcome": outcome,
        "error_code": None,
        "error_info": None,
        "last_ok_at": AT,
        "names": {0: AttrName("sex"), 2: AttrName("", 1)},
    }
    return RunPoll(**(values | more))  # type: ignore[arg-type]  # keywords of the test's own making


def change(kind: str, old: str | None, new: str | None) -> RunChange:
    return RunChange(
        region="seoul",
        sdk_app_id=1400000001,
        seq=3,
        slot=2,
        kind=kind,
        old=None if old is None else AttrName(old),
        new=None if new is None else AttrName(new),
        not_before=AT,
        seen_at=AT.replace(minute=15),
        row_hash=b"",
    )


def test_a_run_is_told_app_by_app_and_change_by_change() -> None:
    run = Run(
        "manual__1",
        (
            poll("china"),
            poll("frankfurt", "rejected", error_code=70009, error_info="check failed"),
            poll("seoul", names={}),
            poll(None, "misconfigured", names={}, last_ok_at=None, error_info="no such connection"),
        ),
        (change("renamed", "city", "town"), change("baseline", None, "sex")),
    )
    assert render(run).splitlines()[:16] == [
        "Run manual__1: 2 of 4 targets recorded",
        "",
        "  REGION     APP         OUTCOME        NAMES",
        '  china      1400000001  ok             0 "sex"  2 "" (type 1)',
        "  frankfurt  1400000001  rejected       as of 2026-05-03 10:00:00Z: "
        '0 "sex"  2 "" (type 1)',
        "  seoul      1400000001  ok             (none)",
        "  ?          ?           misconfigured  (never seen)",
        "",
        "Baseline: 1 names seen for the first time.",
        "",
        "Changes:",
        "  REGION  APP         SLOT  CHANGE                   BETWEEN",
        '  seoul   1400000001  2     renamed "city" → "town"  '
        "2026-05-03 10:00:00Z and 2026-05-03 10:15:00Z",
        "",
        "Failed:",
        "  frankfurt/1400000001 (connection im_frankfurt): rejected: check failed",
    ]
    assert "70009" in render(run)
    assert "no such connection" in render(run)


def test_a_target_that_failed_is_not_said_to_be_unchanged() -> None:
    text = render(Run("manual__1", (poll("china"), poll("seoul", "unavailable")), ()))
    assert "Changes: none in the 1 recorded; what failed was not seen." in text


def test_a_run_that_polled_nothing_does_not_say_that_nothing_changed() -> None:
    text = render(Run("manual__1", (), ()))
    assert "nothing was polled" in text
    assert "Changes" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("会员等级", '"会员等级"'),
        ('a "b"', '"a \\"b\\""'),
        ("\x1b[2Jgone", '"\\u001b[2Jgone"'),
        ("\u202eabc", '"\\u202eabc"'),
        ("two\nlines", '"two\\nlines"'),
    ],
)
def test_a_name_cannot_play_with_the_terminal(name: str, shown: str) -> None:
    assert quoted(name) == shown
