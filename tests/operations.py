"""Generates the tables of docs/operations.md: `python -m tests.operations`."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.settings import SETTINGS, Seconds
from im_attr_audit.tencent.codes import CODES, Code

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def codes_table() -> str:
    """The vendor's error codes; neighbours with the same text share a row."""
    rows = ["| code | means | what happens | what to do |", "|---|---|---|---|"]
    for _, group in itertools.groupby(CODES.values(), key=_words):
        alike = list(group)
        first = alike[0]
        happens = f"{first.action.value} → `{first.outcome}`"
        rows.append(f"| {_numbers(alike)} | {first.meaning} | {happens} | {first.advice} |")
    return "\n".join(rows) + "\n"


def settings_table() -> str:
    """Every setting of the product."""
    rows = ["| name | set as | default | meaning |", "|---|---|---|---|"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "none"
        meaning = setting.meaning
        if isinstance(setting, Seconds):
            meaning += f" From {setting.least:g} to {setting.most:,}."
        rows.append(f"| `{setting.name}` | {setting.form} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def outcomes_table() -> str:
    """Every outcome of a poll."""
    rows = ["| outcome | means | what to do |", "|---|---|---|"]
    rows += [
        f"| `{outcome.name}` | {outcome.meaning} | {outcome.advice or 'Nothing.'} |"
        for outcome in OUTCOMES.values()
    ]
    return "\n".join(rows) + "\n"


TABLES = {"codes": codes_table, "outcomes": outcomes_table, "settings": settings_table}


def written(guide: str) -> str:
    """The guide with its generated parts up to date."""
    return _GENERATED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], guide)


def _words(code: Code) -> tuple[str, str, str, str]:
    return code.meaning, code.action.value, code.outcome, code.advice


def _numbers(codes: list[Code]) -> str:
    numbers = [code.code for code in codes]
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
