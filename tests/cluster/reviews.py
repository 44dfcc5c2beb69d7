"""A change at the simulator, until a person has answered for it in Airflow's Required Actions.

`make test-review`: a real scheduler, FAB's users and roles, and a browser for each person. On a
machine that does nothing else it takes about two minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any

import pytest
from im_attr_audit.messages.inert import inert_word
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.settings import REVIEW_DAG_ID
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.engine import make_url

from launch import api, databases, processes
from simulator.control import Simulator
from tests.browser.airflow import FAB
from tests.browser.required_actions import Question, visitor
from tests.browser.story import HOSTILE
from tests.conftest import WRITER
from tests.rig import Rig, target_of
from tests.test_under_airflow import REGIONS, Airflow, Scene, reviews
from tests.webhook import webhook

pytestmark = pytest.mark.timeout(1800)


class FabAirflow(Airflow):
    """Airflow with FAB's users; the password of each is the login."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.variables["AIRFLOW__CORE__AUTH_MANAGER"] = FAB

    def log_in(self, user: str) -> str:
        return api.log_in(self.address, user, user)

    def start_part(self, name: str) -> None:
        if name != "api-server":
            super().start_part(name)
            return
        # It makes the users first.
        self.parts[name] = self._popen(name, [sys.executable, "-m", "tests.browser.serve"])


@pytest.fixture
def scene(simulator: Simulator, tmp_path: Any) -> Iterator[Scene]:
    """An app in each of two regions, polled once."""
    made = {}
    for number, region in enumerate(REGIONS, start=1_400_200_001):
        simulator.add_app(region, number, {0: "sex", 1: "city"}, rate_limit=None)
        made[f"good_{region}"] = simulator.connection_json(region, number)
    with webhook() as alerts:
        airflow = FabAirflow(tmp_path / "local", made, alerts)
        try:
            airflow.start()
            engine = create_audit_engine(make_url(airflow.server.url(databases.AUDIT, WRITER)))
            targets = [target_of(name, given) for name, given in made.items()]
            scene = Scene(airflow, Rig(simulator, engine), targets, alerts)
            assert scene.run().state == "success"
            yield scene
            engine.dispose()
        finally:
            airflow.stop()


def check_inert(question: Question, address: str) -> str:
    """No element in the question came from a name, and every name is readable.

    Gives the question's link to the audit's own page.
    """
    assert question.tags() == {"p", "a", "code", "table", "thead", "tbody", "tr", "th", "td"}
    links = [link.get_attribute("href") or "" for link in question.body.locator("a").all()]
    assert all(link.startswith(address) for link in links)
    assert len(links) == 1 + len(HOSTILE)
    assert question.page.evaluate("window.owned === undefined")
    braces = str.maketrans({"{": "\\u007b", "}": "\\u007d"})
    names = {inert_word(str(name)).translate(braces) for name in HOSTILE.values()}
    assert names <= set(question.body.locator("td code").all_inner_texts())
    return links[-1]


def check_page(person: Page, link: str, scene: Scene) -> None:
    """The audit's own page shows who answered, the ticket and when."""
    with scene.airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
        cursor.execute("select distinct reviewed_at from attr_audit.review where reviewer = 'uma'")
        [(reviewed_at,)] = cursor.fetchall()
    person.goto(link)
    shown = person.locator(".change dl").first
    shown.wait_for()
    expect(shown).to_contain_text("not expected by uma, ")
    expect(shown).to_contain_text(f"{reviewed_at.astimezone(UTC):%H:%M:%S}")
    expect(shown).to_contain_text(", ticket OPS-1")


def test_a_person_answers_in_a_browser_and_a_viewer_cannot(scene: Scene, browser: Browser) -> None:
    airflow = scene.airflow
    airflow.pause_reviews(False)
    china, frankfurt = scene.targets
    scene.rig.set_names(china, {slot: str(name) for slot, name in HOSTILE.items()})
    scene.rig.set_names(frankfurt, {0: "gender", 1: "city"})
    assert scene.run().state == "success"

    def wait(found: Callable[[], bool]) -> None:
        assert processes.wait_until(found, seconds=300, interval=0.3)

    wait(lambda: len(airflow.waiting_reviews()) == len(REGIONS))
    first, second = sorted(airflow.waiting_reviews(), key=lambda each: str(each["subject"]))
    subject = "china: 10 changes of attribute names. Expected?"
    assert first["subject"] == subject
    answered = [("china", "not_expected", "uma", "OPS-1")] * len(HOSTILE)

    with visitor(browser, airflow.address, "viewer") as viewer:
        question = Question(viewer, subject)
        page = check_inert(question, airflow.address)
        assert question.answer("Expected", "OPS-0") == 403
        viewer.get_by_text("Access Denied").wait_for()
    assert airflow.answer(first, "Expected", "viewer") == 403
    assert reviews(scene) == []

    with (
        visitor(browser, airflow.address, "admin") as admin,
        visitor(browser, airflow.address, "uma") as uma,
    ):
        late = Question(admin, subject)  # open before another person answers
        assert Question(uma, subject).answer("Not expected", "OPS-1") == 200
        wait(lambda: reviews(scene) == answered)
        assert late.answer("Expected", "OPS-2") == 409
        assert reviews(scene) == answered
        check_page(uma, page, scene)
    assert [each["subject"] for each in airflow.waiting_reviews()] == [second["subject"]]

    # Cleared, it asks again. The last answer counts.
    cleared = {
        "dry_run": False,
        "only_failed": False,
        "dag_run_id": first["task_instance"]["dag_run_id"],
        "task_ids": [["of_region.review", first["task_instance"]["map_index"]]],
        "include_downstream": True,
    }
    airflow.ask("clearTaskInstances", cleared, dag=REVIEW_DAG_ID)
    wait(lambda: len(airflow.waiting_reviews()) == len(REGIONS))

    def settled(count: int) -> bool:
        # An answer within a second of the question may be asked for again: docs/operations.md.
        for asked in airflow.waiting_reviews():
            assert airflow.answer(asked, "Expected", "admin") == 200
        return len(reviews(scene)) == count

    wait(lambda: settled(2 * len(HOSTILE) + 1))
    assert {review[1:3] for review in reviews(scene)[len(HOSTILE) :]} == {("expected", "admin")}
    wait(lambda: airflow.review_states() == {"success"})
    with airflow.server.connect(databases.AUDIT) as audit, audit.cursor() as cursor:
        cursor.execute("select count(*) from attr_audit.unreviewed_changes")
        assert cursor.fetchone() == (0,)
    airflow.pause_reviews(True)
