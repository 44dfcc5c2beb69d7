"""The figures of `tests.cluster.day` as a picture: seconds and megabytes, run by run.

`make test-day DAY="--chart docs/images/day.svg"` draws those of a new day;
`python -m tests.cluster.day_chart FIGURES.json PICTURE.svg` draws kept ones again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from tests.cluster.day_world import Events

WIDTH, LEFT, RIGHT = 960, 64, 16
#: Top and height of the panels.
SECONDS, SIZE = (76, 250), (396, 150)
COLOURS = {
    "plan": "#7b8794",
    "sync": "#2f6fb3",
    "publish and report": "#e0a030",
    "seal": "#4d9a6a",
}


def ticks(most: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to a little over ``most``."""
    step = next(
        factor * 10**power
        for power in range(-1, 9)
        for factor in (1, 2, 5)
        if most / (factor * 10**power) <= count
    )
    return [step * number for number in range(int(most / step) + 2)]


class Drawing:
    """The SVG as it grows."""

    def __init__(self, runs: int) -> None:
        self.parts: list[str] = []
        self.step = (WIDTH - LEFT - RIGHT) / runs

    def x(self, run: float) -> float:
        return LEFT + run * self.step

    def rect(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{fill}"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )

    def axis(self, panel: tuple[int, int], marks: Sequence[float]) -> float:
        """Lines and labels; how many pixels one unit is."""
        top, height = panel
        unit = height / marks[-1]
        for mark in marks:
            y = top + height - mark * unit
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], "#d9dee3")
            self.text(LEFT - 8, y + 4, f"{mark:g}", anchor="end")
        return unit


def draw(figures: dict[str, Any]) -> str:
    """The whole picture, as SVG."""
    runs = figures["runs"]
    made = Drawing(len(runs))
    bottom = SIZE[0] + SIZE[1]
    events = Events(len(runs))
    marked = (
        (events.region_down.start, events.region_down.stop, "a region fails"),
        (events.all_down.start, events.all_down.stop, "all fail"),
        (events.failed_over, events.failed_over + 1, "failover"),
        (events.jumped, events.jumped + 1, "clock 1 h ahead"),
    )
    for place, (begin, end, words) in enumerate(marked):
        width = (end - begin) * made.step
        made.rect(made.x(begin), SECONDS[0], width, bottom - SECONDS[0], "#f6dfdc")
        made.text(
            made.x((begin + end) / 2), SECONDS[0] - 6 - 12 * (place % 2), words, anchor="middle"
        )
    totals = [sum(run["seconds"].values()) for run in runs]
    unit = made.axis(SECONDS, ticks(max(totals)))
    for number, run in enumerate(runs):
        y = float(sum(SECONDS))
        for name, colour in COLOURS.items():
            high = run["seconds"][name] * unit
            y -= high
            made.rect(made.x(number) + 0.5, y, made.step - 1, high, colour)
    megabytes = [run["database_bytes"] / 1e6 for run in runs]
    unit = made.axis(SIZE, ticks(max(megabytes), 3))
    made.line(
        [(made.x(n + 0.5), sum(SIZE) - size * unit) for n, size in enumerate(megabytes)],
        COLOURS["sync"],
        2,
    )
    for number in range(0, len(runs) + 1, 8):
        made.text(made.x(number), bottom + 18, f"{number}", anchor="middle")
    made.text(WIDTH / 2, bottom + 36, "run (one every quarter of an hour)", anchor="middle")
    made.text(LEFT, 20, f"A day of {figures['apps']:,} apps in fast motion", bold=True)
    made.text(LEFT, SECONDS[0] + SECONDS[1] + 40, "Size of the database, in MB", bold=True)
    made.text(LEFT, 40, "Seconds of each run:", bold=True)
    x = LEFT + 140
    for name, colour in COLOURS.items():
        made.rect(x, 31, 10, 10, colour)
        made.text(x + 15, 40, name)
        x += 34 + 7 * len(name)
    body = "\n".join(made.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 48}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    given, picture = map(Path, sys.argv[1:])
    picture.write_text(draw(json.loads(given.read_text("utf-8"))), "utf-8")
