"""`make bench` with some parts replaces their sections of docs/performance.md and no others."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import PARTS
from benchmarks.performance_page import BEGIN, END, PAGE, replaced, section, sections

ORDER = list(PARTS)
ON_THE_PAGE = sections(PAGE.read_text("utf-8"))


def test_the_page_has_a_section_for_every_part_of_the_bench() -> None:
    assert list(ON_THE_PAGE) == ORDER
    assert all(text.startswith("### ") for text in ON_THE_PAGE.values())


def test_measuring_nothing_leaves_the_page_as_it_is() -> None:
    page = PAGE.read_text("utf-8")
    assert replaced(page, {}, ORDER) == page


@pytest.mark.parametrize("part", ORDER)
def test_a_part_measured_in_a_fresh_clone_replaces_its_own_section_alone(part: str) -> None:
    new = section(part, "### Something\n\n1.0 s", measured="2030-01-01 in 1 min: a machine")
    page = replaced(PAGE.read_text("utf-8"), {part: new}, ORDER)
    assert sections(page) == {**ON_THE_PAGE, part: new}


def test_a_part_that_the_page_does_not_have_goes_to_its_place() -> None:
    page = f"# Title\n\n{BEGIN}\n{END}\n\nafter\n"
    for part in ("calls", "record"):
        page = replaced(page, {part: section(part, f"### {part}", measured="today")}, ORDER)
    assert list(sections(page)) == ["record", "calls"]
    assert page.startswith("# Title\n")
    assert page.endswith("\nafter\n")
