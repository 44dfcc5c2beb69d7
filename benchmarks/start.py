"""`make run` from a fresh clone with nothing installed, and started again.

From the command to the page that answers to the printed login, and to the first recorded run of
that start. The clone asks the bundled simulator, whose schedule is every minute. A second start
begins right after such a minute has passed, when a run is due: what is measured is the start, not
the wait for the schedule.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.clone import Clone, clone


def measure(clones: int = 2, starts: int = 3, *, empty_cache: bool = True) -> dict[str, Any]:
    """Medians in seconds; ``empty_cache``: the installer finds nothing of an earlier time."""
    cold: list[dict[str, float]] = []
    again: list[dict[str, float]] = []
    for number in range(clones):
        with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as caches:
            empty = {"UV_CACHE_DIR": f"{caches}/uv", "PIP_CACHE_DIR": f"{caches}/pip"}
            with clone(empty if empty_cache else {}) as made:
                cold.append(_start(made, recorded=6))
                shutil.rmtree(Path(caches) / "uv", ignore_errors=True)
                # Evenly over the clones; a start takes the simulator's story a step further.
                for _ in range(number, starts, clones):
                    # Nothing but the clock makes the next run due, once its minute has passed.
                    time.sleep(61 - time.time() % 60)
                    again.append(_start(made))
    return {
        "cache": "empty" if empty_cache else "unchanged",
        "cold": _medians(cold),
        "again": _medians(again),
    }


def render(figures: Any) -> str:
    """Its section of the page."""
    cold, again = figures["cold"], figures["again"]
    cache = (
        "with an empty installer cache, so every package is downloaded"
        if figures["cache"] == "empty"
        else "with the installer's cache unchanged"
    )
    return (
        f"### `make run`\n\nFrom a fresh clone, {cache}: the page answers after {cold['page']:.0f} "
        f"s ({cold['installed']:.0f} s of them for the installation), and the first run is "
        f"recorded after **{cold['recorded']:.0f} s** (median of {cold['starts']}; the longest "
        f"{cold['longest']:.0f} s). Stopped and started again: {again['page']:.0f} s and "
        f"**{again['recorded']:.0f} s** (median of {again['starts']}; the longest "
        f"{again['longest']:.0f} s)."
    )


def _start(made: Clone, recorded: int | None = None) -> dict[str, float]:
    """Seconds until each thing was there; stopped afterwards."""
    began = time.monotonic()
    took: dict[str, float] = {}
    with made.running() as running:
        running.wait_for("Starting Postgres")
        took["installed"] = time.monotonic() - began
        running.wait_for_page()
        took["page"] = time.monotonic() - began
        run = running.wait_for(r"Run \S+: (\d+) of (\d+) targets recorded")
        took["recorded"] = time.monotonic() - began
        # In some steps of the story a region does not answer, and the run says so.
        assert int(run[2]) == 6, run[0]
        assert int(run[1]) >= (recorded or 5), run[0]
    return took


def _medians(starts: list[dict[str, float]]) -> dict[str, float]:
    found = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    longest = max(each["recorded"] for each in starts)
    return {**found, "longest": longest, "starts": len(starts)}
