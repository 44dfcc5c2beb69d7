"""Counts of what the long tests tried, printed at the end of the test run.

::

    count("SIGKILL of a sync", "before commit")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

_counted: dict[str, Counter[str]] = {}


def count(title: str, what: str, number: int = 1) -> None:
    """Add to one line of one list."""
    _counted.setdefault(title, Counter())[what] += number


def counted(title: str) -> Counter[str]:
    """What was counted under a title so far."""
    return _counted.get(title, Counter())


def everything() -> dict[str, dict[str, int]]:
    """All lists."""
    return {title: dict(counts) for title, counts in _counted.items()}


def take_over(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Add the lists of another process."""
    for title, more in counts.items():
        _counted.setdefault(title, Counter()).update(more)


def lines() -> list[str]:
    """Every list: its sum, then its lines by name, as many on a line as fit."""
    shown = []
    for title, counts in _counted.items():
        shown.append(f"{title}: {sum(counts.values()):,}")
        line = "   "
        for what, number in sorted(counts.items()):
            item = f" {what} {number:,};"
            if len(line) + len(item) > 100 and line.strip():
                shown.append(line)
                line = "   "
            line += item
        shown.append(line.rstrip(";"))
    return shown


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one of several test processes: hand the lists to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = everything()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Where there are several test processes: take over the lists of one that ended."""
    take_over(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the lists below pytest's own summary."""
    if _counted:
        terminalreporter.section("what was tried")
        for line in lines():
            terminalreporter.line(line)
