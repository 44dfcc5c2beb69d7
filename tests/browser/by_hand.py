"""A stage and a whole Chromium for pictures: outside of the tests, on Postgres of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from launch.postgres import THROWAWAY, EmbeddedPostgres
from tests.browser import chromium
from tests.browser.stage import Stage, stage


@contextmanager
def studio() -> Iterator[tuple[Stage, Browser]]:
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-pictures-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres", settings=THROWAWAY)
        postgres.start()
        try:
            with stage(postgres, Path(folder)) as staged, sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium.find(), args=list(chromium.ARGUMENTS)
                )
                yield staged, browser
                browser.close()
        finally:
            postgres.stop()
            postgres.destroy()


def open_page(
    staged: Stage, browser: Browser, theme: str, width: int, login: str = "viewer"
) -> Page:
    """A page of a login, in a context of its own."""
    address = staged.airflow.address
    context = browser.new_context(
        base_url=address,
        timezone_id="Europe/Berlin",
        locale="en-GB",
        viewport={"width": width, "height": 820},
        reduced_motion="reduce",
    )
    context.add_cookies([{"name": "_token", "value": staged.airflow.token(login), "url": address}])
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    return context.new_page()


def drawn(page: Page, view: str) -> None:
    """Wait until all of a view is there."""
    page.wait_for_selector("main[aria-busy=false]")
    if view == "timeline":
        page.wait_for_selector(".timeline[data-drawn]")
    if view == "health":
        page.wait_for_selector("[data-chain]")
    page.wait_for_load_state("networkidle")
