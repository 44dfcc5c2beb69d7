"""How soon a view of the page is complete in a browser, how large it is, how a matrix scrolls."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, Frame, Page, sync_playwright

from tests.browser import chromium
from tests.browser.airflow import Airflow

#: What is measured: name -> address.
VIEWS = {
    "overview": "",
    "names": "names",
    "timeline": "timeline",
    "changes": "changes",
    "change": "changes?app={region}/{app}&seq=100",
    "as of": "as-of",
    "attest": "attest",
    "health": "health",
}


@dataclass
class View:
    """Seconds until it is complete: with nothing in the browser's cache, again, and again at once,
    while the browser is still busy with what it put off of the view before."""

    first: float
    again: float
    at_once: float
    nodes: int


@dataclass
class Framed:
    """Seconds inside Airflow: until Airflow begins to load the view, and from then on."""

    airflow_first: float
    view_first: float
    airflow_again: float
    view_again: float


@dataclass
class Scrolling:
    """Frames of a scrolling matrix; ``late``: those that came after more than 1.5 of their time.
    ``speed``: pixels a second."""

    frames: int
    seconds: float
    late: int
    nodes: int
    speed: float


#: Runs in every document before its own scripts, and notes by the page's own clock when the view is
#: complete: from the start of the navigation until the frame after the last change. Asked from
#: outside, the question itself would take a tenth of a second.
_WATCH = """addEventListener("DOMContentLoaded", () => {
  const note = () => { window.complete = performance.now() / 1000; };
  const look = () => {
    const main = document.querySelector("main");
    const chart = document.querySelector(".timeline");
    const isComplete = !main || (main.ariaBusy === "false" && (!chart || chart.dataset.drawn));
    requestAnimationFrame(isComplete ? () => setTimeout(note) : look);
  };
  look();
})"""
_COMPLETE = """() => new Promise((resolve) => {
  const look = () => (window.complete ? resolve(window.complete) : setTimeout(look, 20));
  look();
})"""
_EMPTY = "static/x/icon.svg"
#: Seconds before a view is opened: who opens one has looked at another. For some tenths of a second
#: after a view is complete, the browser is busy with what it put off.
_REST = 0.7

#: Scrolls at a steady speed for some seconds, and gives the time of each frame.
_SCROLL = """([seconds, speed]) => new Promise((resolve) => {
  const frame = document.querySelector(".frame.tall");
  const times = [];
  const step = (time) => {
    times.push(time);
    if (time - times[0] > seconds * 1000) return resolve(times);
    frame.scrollTop = (time - times[0]) / 1000 * speed;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
_SECONDS = 5
#: As fast as a hand makes a page go, in pixels a second.
_FLICK = 3_600
#: Rows, columns and frame as large as the matrix's, and nothing in them.
_EMPTY_TABLE = (
    "<!doctype html><style>.frame { overflow: auto; height: 756px; font-size: 14px }"
    "table { border-spacing: 0; table-layout: fixed; width: 127rem }"
    "td { height: 37px; padding: 0; border-bottom: 1px solid #ddd }</style>"
    f"<div class='frame tall'><table>{('<tr>' + '<td></td>' * 11 + '</tr>') * 2_000}</table></div>"
)
_NODES = "document.querySelectorAll('*').length"


@contextmanager
def opened_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.find(), args=list(chromium.ARGUMENTS)
        )
        yield browser
        browser.close()


def measure_views(
    browser: Browser, airflow: Airflow, token: str, texts: Mapping[str, str], rounds: int
) -> dict[str, View]:
    """Every view in each round: a machine that is slower for a while is so for all of them."""
    addresses = {"*empty document*": _EMPTY, **VIEWS}
    times: dict[str, list[list[float]]] = {name: [] for name in addresses}
    nodes = dict.fromkeys(addresses, 0)
    for _ in range(rounds):
        for name, address in addresses.items():
            page = _page(browser, airflow, token)
            taken = []
            for rest in (_REST, _REST, 0.0):
                page.wait_for_timeout(rest * 1000)
                page.goto(f"/im-attr-audit/{address.format(**texts)}", wait_until="commit")
                taken.append(_seconds(page))
                nodes[name] = max(nodes[name], int(page.evaluate(_NODES)))
            times[name].append(taken)
            page.context.close()
    return {
        name: View(first, again, at_once, nodes[name])
        for name, each in times.items()
        for first, again, at_once in [map(statistics.median, zip(*each, strict=True))]
    }


def measure_framed(browser: Browser, airflow: Airflow, token: str, rounds: int) -> Framed:
    """The Overview inside Airflow's own page."""
    times: list[list[float]] = []
    for _ in range(rounds):
        page = _page(browser, airflow, token)
        taken = []
        for _ in ("first", "again"):
            page.wait_for_timeout(_REST * 1000)
            page.goto("/plugin/attribute-names", wait_until="commit")
            frame = page.wait_for_selector("iframe", timeout=60_000)
            view = frame.content_frame() if frame else None
            if view is None:
                raise SystemExit("Airflow shows no frame")
            view.wait_for_selector("main")
            complete = _seconds(view)
            begun = "(performance.timeOrigin - parent.performance.timeOrigin) / 1000"
            taken += [float(view.evaluate(begun)), complete]
        times.append(taken)
        page.context.close()
    return Framed(*(statistics.median(each) for each in zip(*times, strict=True)))


def measure_scrolling(
    browser: Browser, airflow: Airflow, token: str, group: str
) -> dict[str, Scrolling]:
    """The matrix of a group in two speeds, and an empty table of the same size."""
    page = _page(browser, airflow, token)
    page.goto(f"/im-attr-audit/names?group={group}&matrix=yes", wait_until="commit")
    _seconds(page)
    height = page.evaluate("document.querySelector('.frame.tall').scrollHeight")
    found = {
        "from the first row to the last": _scrolled(page, height / _SECONDS),
        "as by a flick": _scrolled(page, _FLICK),
    }
    page.set_content(_EMPTY_TABLE)
    found["an empty table, from the first row to the last"] = _scrolled(page, height / _SECONDS)
    page.context.close()
    return found


def _scrolled(page: Page, speed: float) -> Scrolling:
    page.evaluate("document.querySelector('.frame.tall').scrollTop = 0")
    times = page.evaluate(_SCROLL, [_SECONDS, speed])
    nodes = int(page.evaluate(_NODES))
    between = [b - a for a, b in itertools.pairwise(times)]
    usual = statistics.median(between)
    late = sum(each > 1.5 * usual for each in between)
    return Scrolling(len(between), sum(between) / 1000, late, nodes, speed)


def _seconds(shown: Page | Frame) -> float:
    """When the view was complete."""
    return float(shown.evaluate(_COMPLETE))


def _page(browser: Browser, airflow: Airflow, token: str) -> Page:
    context = browser.new_context(base_url=airflow.address, viewport={"width": 1440, "height": 900})
    context.add_init_script(_WATCH)
    context.add_cookies([{"name": "_token", "value": token, "url": airflow.address}])
    return context.new_page()
