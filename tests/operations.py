"""The operations guide: its blocks, and its tables by `python -m tests.operations`."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.settings import SETTINGS, Seconds
from im_attr_audit.tencent.codes import CODES, Code

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
RUNBOOKS = GUIDE.with_name("runbooks.md")
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of the guide."""

    section: str
    language: str
    text: str
    not_run: str | None

    @property
    def is_command(self) -> bool:
        return self.language in ("sh", "dockerfile")


def blocks(page: Path = GUIDE) -> list[Block]:
    """The guide's or another page's, in its order."""
    found = []
    section = ""
    pattern = r"^## ([^\n]+)$|^(?:<!-- not run: ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if match[1]:
            section = match[1]
        else:
            found.append(Block(section, match[3], match[4], match[2]))
    return found


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
