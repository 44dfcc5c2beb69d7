"""README's table of versions leaves out none that the project allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import matrix

ROOT = Path(__file__).parents[1]


def test_each_python_and_postgres_that_is_allowed_has_its_line_in_the_table_of_versions() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.partition("## Tested versions")[2].partition("\n## ")[0]
    named = " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("| P"))
    bootstrap = (ROOT / "launch" / "bootstrap.sh").read_text("utf-8")
    lowest, highest = map(int, re.findall(r"\(3, (\d+)\)", bootstrap))
    allowed = {f"3.{minor}" for minor in range(lowest, highest + 1)}
    assert set(re.findall(r"\b3\.\d+", named)) == allowed
    assert "PostgreSQL 15 to 18" in readme
    assert {int(major) for major in re.findall(r"\b1[5-8]\b", named)} == {15, 16, 17, 18}


def test_a_result_takes_the_place_of_what_the_row_of_its_version_said() -> None:
    rows = "| Python 3.12 | nothing |\n| Python 3.13.1 | old |\n| PostgreSQL 17 | nothing |\n"
    rows = matrix.with_row(rows, "Python", "3.13.5", "7 tests passed")
    first, second, third = matrix.with_row(rows, "PostgreSQL", "17.6", "8 passed").splitlines()
    assert first == "| Python 3.12 | nothing |"
    assert second.startswith("| Python 3.13.5 | 7 tests passed, 20")
    assert third.startswith("| PostgreSQL 17.6 | 8 passed, 20")
    with pytest.raises(AssertionError, match=r"0 rows of Python 3\.1"):
        matrix.with_row(rows, "Python", "3.1.4", "")


@pytest.mark.parametrize("part", sorted({*matrix.OF_PYTHON, *matrix.OF_POSTGRES}))
def test_each_file_of_the_matrix_exists(part: str) -> None:
    assert (ROOT / "tests" / f"test_{part}.py").is_file()
