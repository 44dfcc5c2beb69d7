"""Airflow's Required Actions as a person sees them: list, question, form and answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from playwright.sync_api import Browser, Page, Response

#: On a busy machine Airflow needs a minute to draw a page.
TIMEOUT = 180_000
ADDRESS = "/required_actions?response_received=false"


@contextmanager
def visitor(browser: Browser, address: str, login: str) -> Iterator[Page]:
    """A browser of this person's own, in which they have logged in by the form."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT)
    try:
        page = context.new_page()
        page.goto(f"/auth/login/?next={quote(ADDRESS)}")
        page.fill("input[name=username]", login)
        page.fill("input[name=password]", login)
        page.press("input[name=password]", "Enter")
        page.wait_for_url("**/required_actions**", wait_until="commit")
        yield page
    finally:
        context.close()


class Question:
    """One question, opened from Airflow's list of required actions."""

    def __init__(self, page: Page, subject: str) -> None:
        self.page = page
        page.get_by_role("link", name=subject).click()
        self.body = page.locator("div:has(> p):has(> table)")
        self.body.locator("table").wait_for()

    def answer(self, option: str, ticket: str) -> int:
        """Fill the form and choose; the status of Airflow's answer."""
        self.page.fill("#element_ticket", ticket)
        with self.page.expect_response(_is_answer) as answered:
            self.page.get_by_test_id(f"hitl-option-{option}").click()
        return answered.value.status

    def tags(self) -> set[str]:
        """The elements that Airflow made of the question's text; the form is beside it."""
        found: list[str] = self.body.locator("> p, > table").evaluate_all(
            "texts => texts.flatMap(each => [each, ...each.querySelectorAll('*')])"
            ".map(each => each.localName)"
        )
        return set(found)


def _is_answer(response: Response) -> bool:
    return response.request.method == "PATCH" and "hitlDetails" in response.url
