"""Declared names: what a document declares, and what is refused, by name and line."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from im_attr_audit.apps import AppKey
from im_attr_audit.declared.judge import AppNow, judge
from im_attr_audit.declared.model import NOTHING, Declaration
from im_attr_audit.declared.parse import InvalidDeclaration, look_over, parse
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

SHOP = """\
groups:
  shop:
    names: {0: sex, 1: city, 2: Membership level}    # of every app of the group
    other_slots: forbidden                           # or: allowed. forbidden where not said
    exceptions:
      - region: china                                # or sdk_app_id, or both
        names: {2: 会员等级, 3: null}                 # null: must be unused there
        reason: local wording                        # required
        until: 2027-01-01                            # optional, a UTC date
"""
CHINA, SEOUL = AppKey("china", 1), AppKey("seoul", 2)
THEN = datetime(2026, 11, 1, tzinfo=UTC)
SCHEMA = json.loads(
    (files("im_attr_audit.declared") / "declared_names.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)


def group(**fields: Any) -> str:
    """A document with one group, as JSON."""
    return json.dumps({"groups": {"shop": {"names": {"0": "sex"}, **fields}}})


def declared(
    declaration: Declaration, app: AppKey, at: datetime = THEN, app_group: str = "shop"
) -> dict[int, str | None]:
    """What is declared of each slot from 0 to 7 of an app; None: it must be unused."""
    now = AppNow(app, app_group, dict.fromkeys(range(8), "of no document"), at, is_stale=False)
    return {each.slot: each.declared_name for each in judge(declaration, [now], at)}


UNUSED = dict.fromkeys(range(8))


def test_the_example_of_the_form_is_what_it_says() -> None:
    declaration = parse(SHOP, "x").declaration
    names = {**UNUSED, 0: "sex", 1: "city", 2: "Membership level"}
    assert declared(declaration, SEOUL) == names
    assert declared(declaration, CHINA) == {**names, 2: "会员等级"}
    assert declared(declaration, SEOUL, app_group="other") == {}
    [exception] = declaration.groups["shop"].exceptions
    assert exception.names == {2: "会员等级", 3: None}
    assert (exception.reason, exception.until) == ("local wording", date(2027, 1, 1))


def test_an_exception_ends_when_its_day_begins() -> None:
    declaration = parse(SHOP, "x").declaration
    end = datetime(2027, 1, 1, tzinfo=UTC)
    assert declared(declaration, CHINA, end - timedelta(microseconds=1))[2] == "会员等级"
    assert declared(declaration, CHINA, end)[2] == "Membership level"
    [warning] = look_over(declaration, [("shop", CHINA)], end)
    assert "line 6" in str(warning)
    assert "ended on 2027-01-01" in str(warning)


def test_the_most_specific_exception_counts_whatever_the_order() -> None:
    exceptions = [
        {"region": "china", "sdk_app_id": 1, "names": {"0": "both"}, "reason": "r"},
        {"sdk_app_id": 1, "names": {"0": "app", "1": "app 1"}, "reason": "r"},
        {"region": "china", "names": {"0": "region", "1": "x", "2": "region 2"}, "reason": "r"},
    ]
    for ordered in (exceptions, exceptions[::-1]):
        declaration = parse(group(exceptions=ordered), "x").declaration
        assert declared(declaration, CHINA) == {**UNUSED, 0: "both", 1: "app 1", 2: "region 2"}
        assert declaration.digest == parse(group(exceptions=exceptions), "x").declaration.digest


def test_other_slots_that_are_allowed_are_not_declared() -> None:
    declaration = parse(group(other_slots="allowed"), "x").declaration
    assert declared(declaration, SEOUL) == {0: "sex"}


def test_each_violation_has_its_word() -> None:
    declaration = parse(SHOP, "x").declaration
    now = AppNow(SEOUL, "shop", {0: "Sex", 1: "city", 5: "x"}, THEN, is_stale=False)
    assert {each.slot: each.violation for each in judge(declaration, [now], THEN)} == {
        0: "different",
        2: "missing",
        5: "undeclared",
    }


@pytest.mark.parametrize("text", ["", "  \n", "null", "{}\n---", "# nothing\n", '{"groups": {}}'])
def test_an_empty_document_declares_nothing(text: str) -> None:
    if text.startswith("{}"):
        with pytest.raises(InvalidDeclaration, match="groups is missing"):
            parse("{}", "x")
    else:
        assert parse(text, "x").declaration == NOTHING


def test_json_says_the_same_as_yaml() -> None:
    document = yaml.safe_load(SHOP)
    document["groups"]["shop"]["exceptions"][0]["until"] = "2027-01-01"
    as_json = parse(json.dumps(document, indent=1), "x").declaration
    assert as_json == parse(SHOP, "x").declaration
    assert as_json.digest == parse(SHOP, "x").declaration.digest
    assert parse(json.dumps(as_json.document), "x").declaration.digest == as_json.digest


WRONG = {
    "a tab\n\t: [": "line 2",
    "groups: [": "line ",
    "groups:\n  shop: 3": 'line 2: group "shop": a mapping',
    "groups:\n  shop: {names: {}}\n  shop: {}": 'line 3: groups: "shop" appears twice',
    "groups:\n  shop:\n    names:\n      0: a\n      0: b": 'line 5: group "shop", names: "0"',
    "groups:\n  shop:\n    names:\n      0: a\n      1: a": 'line 5: group "shop", slot 1: "a" is',
    "groups:\n  shop:\n    names: {1000: a}": 'slot "1000" is not a number from 0 to 999',
    "groups:\n  shop:\n    names: {-1: a}": 'slot "-1"',
    "groups:\n  shop:\n    names: {010: a}": 'slot "010"',
    "groups:\n  shop:\n    names: {one: a}": 'slot "one"',
    "groups:\n  shop:\n    names: {0: no}": "slot 0: the name is read as true or false",
    "groups:\n  shop:\n    names: {0: 12}": "the name is read as a number: put it in quotes",
    "groups:\n  shop:\n    names: {0: 2026-01-01}": "the name is read as a date: put it in quotes",
    "groups:\n  shop:\n    names: {0: [a]}": "the name is not a text",
    "groups:\n  shop:\n    names: {}\n    more: 1": 'line 4: group "shop": unknown key "more"',
    "groups:\n  shop: {}": "names is missing",
    "groups:\n  shop: {names: {}, other_slots: maybe}": "forbidden or allowed",
    "groups:\n  shop: {names: {}, exceptions: {}}": "exceptions must be a list",
    "groups: {}\nversion: 2": 'line 2: the document: unknown key "version"',
    "names: {}": "groups is missing",
    "groups: &a {}": None,
    "groups:\n  a: &a {names: {}}\n  b: *a": "line 3: aliases",
    "groups: !!python/object:os.system {}": "tags are not supported",
    "groups: {}\n---\ngroups: {}": "more than one document",
    "? [a]\n: b": "a key must be a single value",
    "[" * 40: "nested too deeply",
    '{"groups": {"g": {"names": {"0": "a\\u0000"}}}}': "NUL",
    '{"groups": {"g": {"names": {"0": "\\ud800"}}}}': "half of a character",
    '{"groups": {"g": {"names": {"0": "a", "0": "b"}}}}': "appears twice",
    '{"groups": {"g": {"names": {"0": 1}}}}': "read as a number",
    "groups:\n  g:\n    names: {0: " + "a" * 1025 + "}": "longer than 1,024 bytes",
}


@pytest.mark.parametrize("text", WRONG)
def test_an_invalid_document_is_refused_by_name_and_line(text: str) -> None:
    part = WRONG[text]
    if part is None:
        assert parse(text, "x").declaration == NOTHING
        return
    with pytest.raises(InvalidDeclaration) as caught:
        parse(text, "names.yaml")
    assert str(caught.value).startswith("names.yaml, line ")
    assert part in str(caught.value)


EXCEPTIONS = {
    "without a reason": ({"region": "china", "names": {}}, "reason is missing"),
    "with an empty reason": ({"region": "china", "names": {}, "reason": " "}, "reason is empty"),
    "of no app": ({"names": {}, "reason": "r"}, "a region or an sdk_app_id is missing"),
    "with a wrong date": (
        {"region": "c", "names": {}, "reason": "r", "until": "2027-02-30"},
        "until is not a date",
    ),
    "with an app that is no number": (
        {"sdk_app_id": "1", "names": {}, "reason": "r"},
        "sdk_app_id is not a positive whole number",
    ),
    "that repeats a name of the group": (
        {"region": "c", "names": {"1": "sex"}, "reason": "r"},
        '"sex" would be in slots 0 and 1',
    ),
}


@pytest.mark.parametrize("case", EXCEPTIONS)
def test_a_wrong_exception_is_refused(case: str) -> None:
    exception, part = EXCEPTIONS[case]
    with pytest.raises(InvalidDeclaration, match=part):
        parse(group(exceptions=[exception]), "x")


def test_two_exceptions_for_the_same_slot_of_the_same_apps_are_refused() -> None:
    exception = {"region": "china", "names": {"0": "a"}, "reason": "r"}
    with pytest.raises(
        InvalidDeclaration, match="slot 0 is already set for the same apps by the exception in line"
    ):
        parse(group(exceptions=[exception, exception | {"until": "2027-01-01"}]), "x")


def test_what_looks_like_a_mistake_is_a_warning() -> None:
    parsed = parse("groups:\n  shop:\n    names:\n      10: a\n      1: " + "b" * 51, "x")
    assert [(each.line, each.text.split(": ")[1]) for each in parsed.warnings] == [
        (4, "the vendor documents slots 0 to 9 only"),
        (5, "the vendor documents 50 bytes for a name"),
    ]
    exception = {"region": "china", "names": {"0": "a"}, "reason": "r"}
    declaration = parse(group(exceptions=[exception]), "x").declaration
    [nobody] = look_over(declaration, [], THEN)
    assert str(nobody) == 'line 1: group "shop": none of its apps is polled'
    [none_there] = look_over(declaration, [("shop", SEOUL)], THEN)
    assert "no such app is polled" in str(none_there)
    assert look_over(declaration, [("shop", CHINA)], THEN) == []


def test_a_refused_document_shows_twenty_errors_and_counts_the_rest() -> None:
    names = {f"x{number}": "a" for number in range(30)}
    with pytest.raises(InvalidDeclaration) as caught:
        parse(json.dumps({"groups": {"g": {"names": names}}}), "x")
    assert str(caught.value).count("\n") == 20
    assert "and 10 more errors" in str(caught.value)


_WORDS = st.sampled_from(["sex", "city", "", " ", "no", "x" * 60, None, 3, True, "2027-01-01"])
_SLOTS = st.sampled_from(["0", "1", "2", "999", "1000", "01", "x", ""])
_NAMES = st.dictionaries(_SLOTS, _WORDS, max_size=2)
_EXCEPTION = st.fixed_dictionaries(
    {"names": _NAMES},
    optional={
        "region": st.sampled_from(["china", "", 3]),
        "sdk_app_id": st.sampled_from([1, 0, "1", 2**63]),
        "reason": st.sampled_from(["r", "", None]),
        "until": st.sampled_from(["2027-01-01", "2027-1-1", 2027]),
        "more": st.just(1),
    },
)
_DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "groups": st.dictionaries(
            st.sampled_from(["shop", " "]),
            st.fixed_dictionaries(
                {},
                optional={
                    "names": _NAMES,
                    "other_slots": st.sampled_from(["allowed", "forbidden", "x"]),
                    "exceptions": st.lists(_EXCEPTION, max_size=2),
                },
            ),
            max_size=2,
        )
    },
)


@settings(max_examples=60, deadline=None)
@given(_DOCUMENTS)
def test_what_the_schema_refuses_is_refused_and_what_it_allows_is_refused_for_more_only(
    document: Any,
) -> None:
    """The schema cannot say that a name or a slot appears twice."""
    try:
        parse(json.dumps(document), "x")
    except InvalidDeclaration as error:
        refused = [each.text for each in error.errors]
    else:
        refused = []
    beyond = ("declared twice", "would be in slots", "is already set for the same apps")
    assert VALIDATOR.is_valid(document) == all(
        any(words in text for words in beyond) for text in refused
    )


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="{}[]:,-&*!|>#'\"\n\t ag01\\ud8\x00\u2028é", max_size=60))
def test_any_text_is_a_declaration_or_refused(text: str) -> None:
    for source in (text, "groups:\n  g: " + text, '{"groups": ' + text):
        with contextlib.suppress(InvalidDeclaration):
            assert parse(source, "x").declaration.digest
