"""The vendor's codes: every documented one is decided, once."""

from __future__ import annotations

import pytest
from im_attr_audit.tencent.codes import CODES, Action, explain, lookup

# Every code of the vendor's pages that the fact sheet lists.
DOCUMENTED = [
    *range(60002, 60022), 60025, 60026, 60027, 60028,
    70001, 70002, 70003, 70005, 70009, 70013, 70014, 70016, 70020, 70032, 70050, 70051, 70052,
    70107, 70114, 70169, 70202, 70206, 70346, 70398, 70399, 70402, 70403, 70404, 70500,
    71000, *range(72000, 72013), *range(80001, 80006),
    90001, 90009, 90018, 90020, 90022, 90024, 90026, 90030, 90032, 90033, 90034, 90039, 90040,
    90045, 90047, 90049, 90050, 90051, 90052, 90992, 90994, 90995, 91000,
]  # fmt: skip


def test_every_documented_code_has_exactly_one_row() -> None:
    assert sorted(CODES) == sorted(DOCUMENTED)


def test_every_row_says_what_it_means_what_to_do_and_where_that_stands() -> None:
    for code, row in CODES.items():
        assert row.code == code
        assert row.meaning
        assert row.advice
        assert row.source
        assert explain(code) == f"{row.meaning}. {row.advice}."
        assert (row.action is Action.NEVER) <= (not row.retriable)


@pytest.mark.parametrize(
    ("code", "action", "outcome"),
    [
        (60004, Action.RE_SIGN, "unavailable"),
        (60005, Action.RE_SIGN, "unavailable"),
        (60007, Action.SLOW_DOWN, "unavailable"),
        (60008, Action.RETRY, "unavailable"),
        (60026, Action.NEVER, "rejected"),
        (60028, Action.SLOW_DOWN, "unavailable"),
        (70001, Action.RE_SIGN, "rejected"),
        (70009, Action.NEVER, "rejected"),
        (70050, Action.NEVER, "rejected"),
        (70052, Action.RE_SIGN, "rejected"),
        (90045, Action.NEVER, "rejected"),
        (91000, Action.RETRY, "unavailable"),
    ],
)
def test_what_a_known_code_leads_to(code: int, action: Action, outcome: str) -> None:
    assert (lookup(code).action, lookup(code).outcome) == (action, outcome)


@pytest.mark.parametrize(
    ("code", "action"),
    [
        pytest.param(60099, Action.RETRY, id="gateway"),
        pytest.param(70347, Action.NEVER, id="account_or_signature"),
        pytest.param(72999, Action.NEVER, id="feature"),
        pytest.param(80099, Action.NEVER, id="content"),
        pytest.param(90046, Action.NEVER, id="push"),
        pytest.param(90999, Action.RETRY, id="internal"),
        pytest.param(91001, Action.RETRY, id="internal_too"),
        pytest.param(20004, Action.RETRY, id="another_product"),
        pytest.param(-1, Action.RETRY, id="negative"),
    ],
)
def test_an_unknown_code_is_judged_by_its_family(code: int, action: Action) -> None:
    assert code not in CODES
    assert lookup(code).action is action
    assert explain(code)
