"""Look at every view in both themes and three widths, of few apps and of many, with axe-core, too.

`python -m tests.browser.looks FOLDER` writes the pictures and says what axe-core finds, what sticks
out sideways and what has more elements than a view may have. No part of `make test`: it takes
minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from im_attr_audit.record.upkeep.migrate import migrate
from playwright.sync_api import Browser, Page

from launch.postgres import EmbeddedPostgres
from tests.browser.by_hand import drawn, open_page, studio
from tests.browser.conftest import PAGE, axe, look_in
from tests.browser.large import APP, REGION, Size, fill_record
from tests.browser.stage import Stage

THEMES = ("light", "dark")
WIDTHS = (390, 1440, 2560)
MAX_ELEMENTS = 3_000
MANY = Size(200, 20_000, days=7, minutes=60)
#: Record -> name of the picture -> address. A group, slot and change that the record has.
VIEWS = {
    "story": {
        "overview": "",
        "names": "names",
        "slot": "names?group=shop&slot=2",
        "matrix": "names?group=shop&matrix=yes",
        "search": "names?q=city",
        "timeline": "timeline",
        "changes": "changes",
        "change": "changes?app=frankfurt/20900004&seq=6",
        "as-of": "as-of",
        "compare": "as-of?compare={start}",
        "attest": "attest?since={start}&until={later}",
        "health": "health",
    },
    "many": {
        "overview": "",
        "names": "names",
        "slot": "names?group=group+0&slot=3",
        "matrix": "names?group=group+0&matrix=yes",
        "search": "names?q=name+3",
        "timeline": "timeline",
        "changes": "changes",
        "change": f"changes?app={REGION}/{APP}&seq=90",
        "as-of": "as-of",
        "compare": "as-of?compare={start}",
        "attest": "attest",
        "health": "health",
    },
}


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    with studio() as (staged, browser):
        _make_many(staged.postgres)
        found = list(_look(staged, browser, folder))
    _say(f"{len(list(folder.glob('*.png')))} pictures in {folder}; {len(found)} findings")
    return 1 if found else 0


def _make_many(postgres: EmbeddedPostgres) -> None:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database many")
    migrate(postgres.url("many"))
    fill_record(postgres, "many", MANY)


def _look(staged: Stage, browser: Browser, folder: Path) -> Iterator[str]:
    run_time = {
        name: staged.runs[event].removeprefix("manual__").replace("+00:00", "Z")
        for name, event in (("start", "baseline"), ("later", "renamed_again"))
    }
    for record, views in VIEWS.items():
        staged.shown.show(record)
        page = open_page(staged, browser, THEMES[0], WIDTHS[0])
        for name, address in views.items():
            page.goto(f"{PAGE}{address.format(**run_time)}")
            for theme in THEMES:
                for width in WIDTHS:
                    look_in(page, theme, width)
                    drawn(page, name)
                    page.screenshot(path=folder / f"{record}-{name}-{width}-{theme}.png")
                    for finding in _findings(page, width):
                        _say(f"{record} {name} {width} {theme}: {finding}")
                        yield finding
        page.context.close()


def _findings(page: Page, width: int) -> Iterator[str]:
    for rule, what, where in axe(page):
        yield f"{rule}: {what}: {where}"
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        yield f"{wide} px wide"
    elements = page.evaluate("document.querySelectorAll('*').length")
    if elements > MAX_ELEMENTS:
        yield f"{elements} elements"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Usage: python -m tests.browser.looks FOLDER")
    sys.exit(main(Path(sys.argv[1])))
