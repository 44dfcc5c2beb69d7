"""README's table of versions leaves out none that the project allows."""

from __future__ import annotations

import re
from pathlib import Path

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
