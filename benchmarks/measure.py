"""Measuring side against side: in turn, one after the other, never at the same time."""

from __future__ import annotations

import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Side:
    """One way of doing it; ``run`` is what is timed."""

    name: str
    run: Callable[[], object]


def seconds(what: Callable[[], object]) -> float:
    """How long it takes, without what others left to be collected."""
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def in_turn(sides: Sequence[Side], rounds: int) -> dict[str, list[float]]:
    """Each side's seconds, round by round; who begins changes."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 else list(reversed(sides))
        for side in order:
            times[side.name].append(seconds(side.run))
    return times


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The median of the rounds' ratios: other load on the machine affects both sides of a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def machine() -> str:
    """What this was measured on, without naming it."""
    cpu = "unknown processor"
    memory = ""
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        cpu = found[1] if found else platform.machine()
        kilobytes = int(re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[0])
        memory = f", {kilobytes / 1e6:.0f} GB"
    return f"{os.cpu_count()} processors ({cpu}{memory}), Python {platform.python_version()}"
