"""The table of a run, as a whole text: what a person reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from im_attr_audit.messages.report import change_text, quoted, render
from im_attr_audit.names import AttrName
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record.runs import Run, RunChange, RunPoll

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


def test_a_run_is_shown_app_by_app_and_change_by_change() -> None:
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
        "  -          im_None     misconfigured  (never had a good poll)",
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
    assert "Changes: none in the 1 recorded poll. The names of the failed apps are unknown." in text


def test_a_target_without_a_poll_is_counted_and_named() -> None:
    """Its task ended before it recorded anything."""
    text = render(Run("manual__1", (poll("china"),), ()), ["im_seoul", "im_tokyo"])
    assert text.startswith("Run manual__1: 1 of 3 targets recorded")
    assert "Changes: none in the 1 recorded poll. The names of the failed apps are unknown." in text
    assert text.endswith("not polled; the log of their sync task shows why: im_seoul; im_tokyo")
    assert "im_seoul" in render(Run("manual__1", (), ()), ["im_seoul"])


def test_a_run_that_polled_nothing_does_not_say_that_nothing_changed() -> None:
    text = render(Run("manual__1", (), ()))
    assert "nothing was polled; the logs of its tasks in Airflow show why" in text
    assert "Changes" not in text


def test_the_advice_for_a_failure_is_the_one_of_its_outcome() -> None:
    for name, outcome in OUTCOMES.items():
        if outcome.is_failed:
            text = render(Run("manual__1", (poll("china", name),), ()))
            assert text.splitlines()[-1].strip() == outcome.advice


def many(number: int, *failed: RunPoll) -> Run:
    """A run of so many good apps, and of these."""
    good = [poll("china", conn_id=f"im_{n}", sdk_app_id=n) for n in range(number)]
    return Run("manual__1", (*good, *failed), ())


def test_a_run_of_many_apps_is_counts_and_causes_and_does_not_grow_with_its_apps() -> None:
    failed = [
        poll(
            "seoul",
            "misconfigured",
            conn_id=f"im_seoul_{n}",
            sdk_app_id=n,
            error_info=f"Connection im_seoul_{n}: extra region is missing. Set it.",
        )
        for n in range(30)
    ]
    rejected = poll("frankfurt", "rejected", error_code=70009, error_info="check failed")
    lines = render(many(1000, *failed, rejected)).splitlines()
    assert lines[:7] == [
        "Run manual__1: 1000 of 1031 targets recorded",
        "",
        "  REGION     OUTCOME        APPS",
        "  china      ok             1000",
        "  frankfurt  rejected       1",
        "  seoul      misconfigured  30",
        "",
    ]
    assert "  30 of misconfigured: Connection …: extra region is missing. Set it." in lines
    assert "  1 of rejected 70009: check failed" in lines
    [listed] = [line for line in lines if "im_seoul_0" in line]
    assert listed.count("im_seoul_") == 20
    assert listed.endswith("; and 10 more")
    assert len("\n".join(lines)) < 2500


def test_a_hundred_apps_are_listed_one_by_one_and_more_are_not() -> None:
    assert "im_" not in render(many(101))
    assert len(render(many(100)).splitlines()) == 2 + 1 + 100 + 2
    assert len(render(many(101)).splitlines()) == 2 + 1 + 1 + 2


def test_every_cause_of_failure_may_differ_and_the_text_does_not_grow_with_them() -> None:
    failed = [
        poll("seoul", "invalid", conn_id=f"im_{n}", error_info=f"reason {n}") for n in range(1000)
    ]
    assert "980 more, of 980 other causes" in render(many(1, *failed))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (None, AttrName("sex"), 'added "sex"'),
        (AttrName("sex", 1), None, 'removed "sex" (type 1)'),
        (AttrName("sex"), AttrName("gender"), 'renamed "sex" → "gender"'),
    ],
)
def test_a_change_is_worded_in_one_place(
    old: AttrName | None, new: AttrName | None, text: str
) -> None:
    assert change_text("renamed", old, new) == text


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
