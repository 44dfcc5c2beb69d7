"""Make docs/images again: every view in both themes. `python -m tests.browser.screenshots`."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.browser.by_hand import drawn, open_page, studio
from tests.browser.stage import Stage

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PAGE = "/im-attr-audit/"
THEMES = ("light", "dark")
#: What the story's names and the page's marks need a font for.
SIGNS = ("会", "≠", "✓", "⚠", "◷")
#: Whether a sign is drawn as one that no font has.
_IS_BOX = """sign => {
  const drawn = (text) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 40 });
    const context = canvas.getContext("2d");
    context.font = "24px sans-serif";
    context.fillText(text, 4, 30);
    return canvas.toDataURL();
  };
  return drawn(sign) === drawn("\\u{10fffe}");
}"""


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with studio() as (staged, browser):
        _require_fonts(browser)
        for theme in THEMES:
            _views(staged, browser, theme)


def _require_fonts(browser: Browser) -> None:
    """SystemExit where names of the story would be boxes: no picture is taken then."""
    page = browser.new_page()
    boxed = [sign for sign in SIGNS if page.evaluate(_IS_BOX, sign)]
    page.close()
    if boxed:
        raise SystemExit(
            f"No font on this machine has {' '.join(boxed)}, so the pictures would show boxes. "
            "Install fonts and make them again (Debian: apt-get install "
            f"{' '.join(chromium.FONTS)})."
        )


def _views(staged: Stage, browser: Browser, theme: str) -> None:
    start = staged.runs["renamed"].removeprefix("manual__").replace("+00:00", "Z")
    later = staged.runs["renamed_again"].removeprefix("manual__").replace("+00:00", "Z")
    page = open_page(staged, browser, theme, 1280)
    for name, address in {
        "overview": "",
        "names": "names",
        "matrix": "names?group=shop&matrix=yes",
        "timeline": "timeline?group=shop",
        "changes": "changes",
        "as-of": f"as-of?at={later}",
        "compare": f"as-of?at={start}&compare={later}",
        "attest": f"attest?group=shop&since={start}&until={later}",
        "health": "health",
    }.items():
        page.goto(PAGE + address)
        _shoot(page, name, theme)
    page.goto(f"{PAGE}changes?app=frankfurt/20900004&seq=6")
    page.wait_for_selector(".change dl")
    _shoot(page, "change", theme)
    page.context.close()

    narrow = open_page(staged, browser, theme, 390)
    narrow.goto(PAGE)
    _shoot(narrow, "overview-390", theme)
    narrow.context.close()

    inside = open_page(staged, browser, theme, 1440, "admin")
    inside.goto("/plugin/attribute-names")
    inside.frame_locator("iframe").locator("main[aria-busy=false]").wait_for()
    inside.wait_for_load_state("networkidle")
    inside.screenshot(path=IMAGES / f"in-airflow-{theme}.png")
    inside.context.close()


def _shoot(page: Page, name: str, theme: str) -> None:
    drawn(page, name)
    page.evaluate("document.fonts.ready")
    whole = name in ("overview", "names", "timeline", "health", "overview-390")
    page.screenshot(path=IMAGES / f"{name}-{theme}.png", full_page=whole)


if __name__ == "__main__":
    main()
