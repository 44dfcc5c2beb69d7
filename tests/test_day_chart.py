"""The picture of a day in fast motion."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.day_chart import COLOURS, SIZE, draw, ticks

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def figures(runs: int) -> dict[str, Any]:
    measured = [
        {
            "seconds": {name: number + place for place, name in enumerate(COLOURS, 1)},
            "database_bytes": 10_000_000 * (number + 1),
        }
        for number in range(runs)
    ]
    return {"apps": 1_200, "runs": measured}


def test_each_run_has_a_bar_of_each_part_as_high_as_its_seconds() -> None:
    root = ET.fromstring(draw(figures(32)))
    bars: dict[str, list[float]] = {colour: [] for colour in COLOURS.values()}
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("fill") in bars and rect.get("width") != "10.0":  # the legend's
            bars[str(rect.get("fill"))].append(float(rect.get("height", "0")))
    assert {len(heights) for heights in bars.values()} == {32}
    sync, seal = bars[COLOURS["sync"]], bars[COLOURS["seal"]]
    assert sync[31] / sync[0] == pytest.approx(33 / 2, rel=0.02)
    assert seal[0] / sync[0] == pytest.approx(2, rel=0.1)


def test_the_size_of_the_database_is_drawn_to_the_scale_beside_it() -> None:
    root = ET.fromstring(draw(figures(32)))
    lines = [line for line in root.iter(f"{SVG}polyline") if line.get("stroke-width") == "2"]
    [points] = [line.get("points", "").split() for line in lines]
    height = sum(SIZE) - float(points[-1].split(",")[1])
    assert height / SIZE[1] == pytest.approx(320 / ticks(320, 3)[-1], abs=0.01)


def test_the_picture_in_the_docs_is_one_of_these() -> None:
    text = (ROOT / "docs" / "images" / "day.svg").read_text("utf-8")
    assert "in fast motion" in text
    assert ET.fromstring(text).tag == f"{SVG}svg"
    assert "images/day.svg" in (ROOT / "docs" / "performance.md").read_text("utf-8")
