"""One Airflow, one browser and a handful of databases for all tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from launch.postgres import EmbeddedPostgres
from tests.browser.large import Size, fill_record
from tests.browser.stage import Stage, stage

TIMEOUT = 60_000
PAGE = "/im-attr-audit/"


@pytest.fixture(scope="session")
def staged(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with stage(postgres, tmp_path_factory.mktemp("page"), template) as made:
        yield made


@pytest.fixture
def story(staged: Stage) -> Stage:
    """The page sees the made-up product's history."""
    staged.shown.show("story")
    return staged


@pytest.fixture(scope="session")
def large(staged: Stage, template: str) -> Callable[[int], None]:
    """Let the page see a record of so many apps; each is made when it is first asked for."""
    made: set[int] = set()

    def show(apps: int) -> None:
        database = f"apps_{apps}"
        if apps not in made:
            with staged.postgres.connect() as connection, connection.cursor() as cursor:
                cursor.execute(f"create database {database} template {template} strategy file_copy")
            fill_record(staged.postgres, database, Size(apps, 20 * apps, days=1, minutes=240))
            made.add(apps)
        staged.shown.show(database)

    return show


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(staged: Stage, browser: Browser) -> Iterator[OpenPage]:
    """Open an address as a login; what the page complains of fails the test.

    ``quiet`` false: something will be said on the console, by Airflow or for a reason.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(
        path: str,
        login: str | None = "viewer",
        *,
        theme: str = "light",
        width: int = 1280,
        quiet: bool = True,
    ) -> Page:
        context = browser.new_context(
            base_url=staged.airflow.address,
            timezone_id="Europe/Berlin",
            viewport={"width": width, "height": 900},
        )
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        if login:
            context.add_cookies(
                [{"name": "_token", "value": token(staged, login), "url": staged.airflow.address}]
            )
        context.add_init_script(
            f"if (!localStorage.getItem('theme')) localStorage.setItem('theme', '{theme}')"
        )
        page = context.new_page()
        page.on(
            "pageerror",
            # Airflow's own pages may have troubles of their own.
            lambda error: complaints.append(str(error)) if PAGE in str(error.stack) else None,
        )
        if quiet:
            page.on(
                "console",
                lambda said: complaints.append(said.text) if said.type == "error" else None,
            )
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


_tokens: dict[tuple[str, str], str] = {}


def token(staged: Stage, login: str) -> str:
    key = (staged.airflow.address, login)
    if key not in _tokens:
        _tokens[key] = staged.airflow.token(login)
    return _tokens[key]


def ready(page: Page) -> Page:
    """Wait until a view is drawn."""
    page.wait_for_selector("main[aria-busy=false]")
    return page


_AXE = Path(__file__).parent / "vendor" / "axe.min.js"
#: Theme and width of the looks at each view: contrast depends on the theme, layout on the width.
LOOKS = (("light", 390), ("dark", 1440), ("light", 2560))


def look_in(page: Page, theme: str, width: int) -> None:
    """Change theme and width of a page that is open, as Airflow and its window do."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(
        "theme => { localStorage.setItem('theme', theme); dispatchEvent(new Event('storage')); }",
        theme,
    )


def axe(page: Page) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds."""
    if not page.evaluate("'axe' in window"):
        # Past the policy, as a developer's tool is.
        page.evaluate(_AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found["violations"]
    ]
