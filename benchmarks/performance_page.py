"""The measured part of docs/performance.md: one section per part of `make bench`.

The page itself is where the other parts' sections are kept. A clone in which only one part was
measured therefore replaces that part's section and no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_INTRODUCTION = (
    "`make bench` measures everything again; `make bench PARTS=record` measures only the "
    "named parts."
)
# A section's last line names its part.
_LAST_LINE = re.compile(r"^\*`(\w+)`, measured .*$", re.M)


def section(part: str, figures: str, *, measured: str) -> str:
    """A part's section. ``measured``: when, for how long and on what."""
    return f"{figures.strip()}\n\n*`{part}`, measured {measured}.*"


def sections(page: str) -> dict[str, str]:
    """The page's sections by part, in the page's order."""
    text = page.partition(BEGIN)[2].partition(END)[0].strip().removeprefix(_INTRODUCTION)
    found = {}
    begin = 0
    for last_line in _LAST_LINE.finditer(text):
        found[last_line[1]] = text[begin : last_line.end()].strip()
        begin = last_line.end()
    return found


def replaced(page: str, new: Mapping[str, str], order: Sequence[str]) -> str:
    """The page with these sections in place of its own; all others stay, in the given order."""
    merged = {**sections(page), **new}
    text = "\n\n".join([_INTRODUCTION, *(merged[part] for part in order if part in merged)])
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"
