"""The rules of recording, by themselves: no network, no database, no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from im_attr_audit.errors import Misconfigured, Rejected, Unavailable
from im_attr_audit.names import AttrName, Difference, compare, settle
from im_attr_audit.record.rules import Known, Poll, Verdict, advance, judge, needs_confirmation

from tests.history import START, NamesLike, names, polled

SEX_CITY: NamesLike = {0: "sex", 1: "city"}
RUN = "run"


def known_after(*polls: Poll, runs: tuple[str, ...] = ()) -> Known:
    """What is recorded after these polls, each of a run of its own unless said."""
    known = Known(api="all_member_push")
    for number, poll in enumerate(polls):
        run = runs[number] if runs else f"earlier {number}"
        known = advance(known, poll, judge(known, poll, run))
    return known


def kinds(verdict: Verdict) -> list[tuple[int, str | None, str | None]]:
    """(slot, old name, new name) of each change."""
    return [
        (
            c.difference.slot,
            c.difference.old.name if c.difference.old else None,
            c.difference.new.name if c.difference.new else None,
        )
        for c in verdict.changes
    ]


BASE = known_after(polled(SEX_CITY, SEX_CITY, at=0))


def test_first_sight_is_a_baseline_without_a_lower_bound() -> None:
    poll = polled(SEX_CITY, SEX_CITY, at=0)
    verdict = judge(Known(api="all_member_push"), poll, RUN)
    assert verdict.outcome == "ok"
    assert kinds(verdict) == [(0, None, "sex"), (1, None, "city")]
    assert all(c.is_baseline and c.not_before is None for c in verdict.changes)
    assert {c.seen_at for c in verdict.changes} == {poll.reads[0].responded_at}


def test_first_sight_of_no_names_is_known_and_changes_nothing() -> None:
    known = known_after(polled({}, {}, at=0))
    assert known.first_ok_at is not None
    assert known.names == {}


def test_a_rename_lies_between_the_last_read_of_the_old_and_the_first_of_the_new() -> None:
    renamed = {0: "gender", 1: "city"}
    verdict = judge(BASE, polled(renamed, renamed, at=900), RUN)
    assert kinds(verdict) == [(0, "sex", "gender")]
    [change] = verdict.changes
    assert change.not_before == START + timedelta(seconds=2)
    assert change.seen_at == START + timedelta(seconds=900.1)
    assert not change.is_baseline


def test_an_unchanged_read_needs_no_second_one_and_moves_the_lower_bound() -> None:
    assert not needs_confirmation(BASE, names(SEX_CITY))
    known = advance(BASE, poll := polled(SEX_CITY, at=900), judge(BASE, poll, RUN))
    assert known.last_ok_at == START + timedelta(seconds=900)
    assert known.consecutive_failures == 0


def test_a_difference_seen_once_is_not_recorded() -> None:
    assert needs_confirmation(BASE, names({0: "gender", 1: "city"}))
    verdict = judge(BASE, polled({0: "gender", 1: "city"}, at=900), RUN)
    assert (verdict.outcome, verdict.changes) == ("unstable", ())


def test_reads_that_disagree_are_unstable() -> None:
    verdict = judge(BASE, polled({0: "gender"}, SEX_CITY, at=900), RUN)
    assert (verdict.outcome, verdict.changes) == ("unstable", ())


@pytest.mark.parametrize(
    "failure",
    [Unavailable("502"), Rejected("70009", error_code=70009), Misconfigured("no key")],
    ids=lambda f: f.outcome,
)
def test_a_failed_poll_changes_nothing_and_is_counted(
    failure: Unavailable | Rejected | Misconfigured,
) -> None:
    poll = polled(at=900, failure=failure)
    verdict = judge(BASE, poll, RUN)
    after = advance(BASE, poll, verdict)
    assert (verdict.outcome, verdict.changes) == (failure.outcome, ())
    assert (after.names, after.last_ok_at) == (BASE.names, BASE.last_ok_at)
    assert (after.last_outcome, after.consecutive_failures) == (failure.outcome, 1)


def test_a_confirming_read_that_fails_records_nothing() -> None:
    verdict = judge(BASE, polled({0: "gender"}, at=900, failure=Unavailable("drop")), RUN)
    assert (verdict.outcome, verdict.changes) == ("unavailable", ())


def test_an_answer_asked_for_before_a_recorded_poll_had_ended_is_late() -> None:
    after_b = known_after(
        polled(SEX_CITY, SEX_CITY, at=0), polled({0: "gender"}, {0: "gender"}, at=900)
    )
    verdict = judge(after_b, polled(SEX_CITY, SEX_CITY, at=902), RUN)
    assert (verdict.outcome, verdict.changes) == ("late", ())
    on_the_dot = judge(after_b, polled({0: "gender"}, at=902.1), RUN)
    assert on_the_dot.outcome == "ok"


def test_a_late_poll_is_neither_good_nor_a_failure() -> None:
    late = polled(SEX_CITY, at=1)
    after = advance(BASE, late, judge(BASE, late, RUN))
    assert (after.last_outcome, after.consecutive_failures) == ("late", 0)
    assert after.last_ok_at == BASE.last_ok_at


class TestARemovalOfEverything:
    """It needs the next run's poll too."""

    first = polled({}, {}, at=900)

    def test_is_unstable_at_first(self) -> None:
        verdict = judge(BASE, self.first, "run 1")
        assert (verdict.outcome, verdict.changes) == ("unstable", ())

    def test_is_still_unstable_for_a_retry_in_the_same_run(self) -> None:
        known = advance(BASE, self.first, judge(BASE, self.first, "run 1"))
        assert judge(known, polled({}, {}, at=960), "run 1").outcome == "unstable"

    def test_is_recorded_with_the_first_reads_bounds_once_the_next_run_sees_it(self) -> None:
        known = advance(BASE, self.first, judge(BASE, self.first, "run 1"))
        retry = polled({}, {}, at=960)
        known = advance(known, retry, judge(known, retry, "run 1"))
        verdict = judge(known, polled({}, {}, at=1800), "run 2")
        assert kinds(verdict) == [(0, "sex", None), (1, "city", None)]
        assert {c.not_before for c in verdict.changes} == {START + timedelta(seconds=2)}
        assert {c.seen_at for c in verdict.changes} == {START + timedelta(seconds=900.1)}

    @pytest.mark.parametrize(
        "failed",
        [
            polled(at=1800, failure=Unavailable("502")),
            replace(polled(at=1800, failure=Misconfigured("no key")), api=None, app_group=None),
        ],
        ids=["unavailable", "misconfigured"],
    )
    def test_survives_a_run_that_could_not_look(self, failed: Poll) -> None:
        known = advance(BASE, self.first, judge(BASE, self.first, "run 1"))
        known = advance(known, failed, judge(known, failed, "run 2"))
        assert judge(known, polled({}, {}, at=2700), "run 3").outcome == "ok"

    @pytest.mark.parametrize(
        "between",
        [
            polled(SEX_CITY, at=1800),
            polled({}, SEX_CITY, at=1800),
            polled(SEX_CITY, at=1800, failure=Unavailable("drop")),
            polled(at=1800, failure=Unavailable("drop"), api="timpush"),
        ],
        ids=["names seen again", "one of two reads", "first of a failed poll", "another source"],
    )
    def test_begins_again_when_names_were_seen_in_between(self, between: Poll) -> None:
        known = advance(BASE, self.first, judge(BASE, self.first, "run 1"))
        known = advance(known, between, judge(known, between, "run 2"))
        again = polled({}, {}, at=2700)
        verdict = judge(known, again, "run 3")
        assert verdict.outcome == "unstable"
        assert verdict.emptied_seen_at == again.reads[0].responded_at


class TestAnotherApi:
    """The first good poll after the connection's `api` changed reads another source."""

    def test_makes_its_differences_baselines(self) -> None:
        other = {0: ("gender", 0), 1: ("city", 0)}
        verdict = judge(BASE, polled(other, other, at=900, api="timpush"), RUN)
        assert [(c.is_baseline, c.not_before) for c in verdict.changes] == [(True, None)] * 2

    def test_counts_from_the_last_good_poll_not_from_the_last_poll(self) -> None:
        failed = polled(at=900, api="timpush", failure=Unavailable("502"))
        known = advance(BASE, failed, judge(BASE, failed, "run 1"))
        other = {0: "gender", 1: "city"}
        verdict = judge(known, polled(other, other, at=1800, api="timpush"), "run 2")
        assert [c.is_baseline for c in verdict.changes] == [True]
        known = advance(known, polled(other, other, at=1800, api="timpush"), verdict)
        verdict = judge(known, polled(SEX_CITY, SEX_CITY, at=2700, api="timpush"), "run 3")
        assert [c.is_baseline for c in verdict.changes] == [False]


class TestTypes:
    """AttrTypes, which only one API family sends."""

    def test_a_type_first_learned_is_a_baseline(self) -> None:
        typed: NamesLike = {0: ("sex", 0), 1: "city"}
        verdict = judge(BASE, polled(typed, typed, at=900), RUN)
        [change] = verdict.changes
        assert change.is_baseline
        assert change.difference == Difference(0, AttrName("sex"), AttrName("sex", 0))

    def test_a_type_not_said_stays_as_it_was_known(self) -> None:
        typed = known_after(polled({0: ("sex", 0)}, {0: ("sex", 0)}, at=0))
        assert judge(typed, polled({0: "sex"}, at=900), RUN).changes == ()
        assert settle(typed.names, names({0: "gender"})) == names({0: ("gender", 0)})

    def test_a_type_that_changed_is_a_change(self) -> None:
        typed = known_after(polled({0: ("sex", 0)}, {0: ("sex", 0)}, at=0))
        verdict = judge(typed, polled({0: ("sex", 1)}, {0: ("sex", 1)}, at=900), RUN)
        assert [c.is_baseline for c in verdict.changes] == [False]


@pytest.mark.parametrize(
    ("previous", "current", "expected"),
    [
        ({}, {}, []),
        ({}, {0: "a"}, [0]),
        ({0: "a"}, {}, [0]),
        ({0: "a", 2: "c"}, {0: "A", 1: "b"}, [0, 1, 2]),
        ({0: "\u00e9"}, {0: "e\u0301"}, [0]),
        ({0: "a"}, {0: "a "}, [0]),
        ({0: ""}, {0: ""}, []),
    ],
)
def test_names_are_compared_exactly(
    previous: NamesLike, current: NamesLike, expected: list[int]
) -> None:
    assert [d.slot for d in compare(names(previous), names(current))] == expected
