"""The page in a real browser before a real Airflow with FAB."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
import yaml
from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.evidence.proof import check_proof, read_proof
from im_attr_audit.messages import notify
from im_attr_audit.names import AttrName
from im_attr_audit.page import models
from im_attr_audit.page.models import (
    as_of,
    attest,
    changes,
    health,
    names,
    overview,
    timeline,
)
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.notifications import Alert
from im_attr_audit.record.reviews import Answer, record_answer
from im_attr_audit.record.seals.sealing import make_checkpoint
from playwright.sync_api import Browser, Frame, Page, Route, expect
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from tests import grafana
from tests.browser.airflow import SHOWN, SIMPLE, Airflow
from tests.browser.conftest import LOOKS, OpenPage, axe, look_in, ready, token
from tests.browser.large import Size, fill_record
from tests.browser.stage import Stage
from tests.browser.story import APPS, HOSTILE
from tests.conftest import SEALER, WRITER
from tests.sealing import folder_at

PAGE = "/im-attr-audit/"
VIEWS = {
    "": "Overview",
    "names": "Names",
    "timeline": "Timeline",
    "changes": "Changes",
    "as-of": "As of",
    "attest": "Attest",
    "health": "Health",
}
#: States of a view that look unlike the view itself.
STATES = (
    "names?group=shop&matrix=yes",
    "names?q=city",
    "as-of?compare=2026-01-01T00:00:00Z&all=yes",
)
MODELS: dict[str, type[BaseModel]] = {
    "overview": overview.Overview,
    "names": names.Names,
    "names?group=shop": names.Names,
    "search?name=city": names.NameUses,
    "name-in-period?name=city": names.NameInPeriod,
    "now": names.Now,
    "now?group=shop&slot=2": names.Now,
    "setup": models.Setup,
    "changes": changes.Changes,
    "run?run=x": changes.Run,
    "changes/count": changes.ChangeCount,
    "attest": attest.Attest,
    "timeline": timeline.Timeline,
    "timeline?lanes=all&slot=2": timeline.Timeline,
    "as-of": as_of.AsOf,
    "as-of?compare=2026-01-01T00:00:00Z": as_of.AsOf,
    "health": health.Health,
    "verification": health.Verification,
    "change?region=frankfurt&sdk_app_id=20900004&seq=1": changes.ChangeDetail,
}
API = (*MODELS, "changes/download")


# Who may look ----------------------------------------------------------------------------------


def test_an_anonymous_visitor_gets_nothing_but_the_health_word(story: Stage) -> None:
    get = story.airflow.get
    for path in (*(f"api/{path}" for path in API), "static/x/page.js", "nothing", "openapi.json"):
        status, body, _ = get(f"{PAGE}{path}")
        assert status in (401, 404), path
        assert b"sex" not in body
    for view in VIEWS:
        status, body, headers = get(f"{PAGE}{view}?region=seoul")
        assert (status, body) == (303, b"")
        there = quote(f"{PAGE}{view}?region=seoul")
        assert headers["location"] == f"/auth/login?next={there}"
    assert get(f"{PAGE}healthz")[0] in (200, 503)
    assert re.fullmatch(rb"[a-z]+", get(f"{PAGE}healthz")[1])


def test_who_may_log_in_but_not_read_the_dag_gets_nothing(story: Stage) -> None:
    stranger = token(story, "somebody")
    for path in (*(f"api/{path}" for path in API), *VIEWS, "static/x/page.js"):
        status, body, _ = story.airflow.get(f"{PAGE}{path}", stranger)
        assert status == 403, path
        assert b"sex" not in body


def test_a_deleted_users_token_is_refused_as_by_airflows_own_api(story: Stage) -> None:
    leaver, get = token(story, "leaver"), story.airflow.get
    addresses = ("/api/v2/dags", f"{PAGE}api/now", f"{PAGE}api/changes/download", PAGE)
    assert [get(address, leaver)[0] for address in addresses] == [200] * 4
    with story.postgres.connect(story.airflow.database) as connection, connection.cursor() as ask:
        ask.execute(
            "delete from ab_user_role where user_id in "
            "(select id from ab_user where username = 'leaver')"
        )
        ask.execute("delete from ab_user where username = 'leaver'")
    deadline = time.monotonic() + 60
    while get("/api/v2/dags", leaver)[0] == 200:  # until FAB's cache of users forgets them
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [get(address, leaver)[0] for address in addresses] == [403] * 4


def test_a_viewer_reads_every_answer(story: Stage) -> None:
    viewer = token(story, "viewer")
    for path in API:
        status, body, headers = story.airflow.get(f"{PAGE}api/{path}", viewer)
        assert status == 200, (path, body)
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", MODELS)
def test_an_answer_is_exactly_of_its_type(story: Stage, path: str) -> None:
    body = story.airflow.get(f"{PAGE}api/{path}", token(story, "viewer"))[1]
    said = MODELS[path].model_validate_json(body)
    assert said.model_dump(mode="json") == json.loads(body)


def test_nothing_can_be_written(story: Stage) -> None:
    import urllib.error
    import urllib.request

    for method in ("POST", "PUT", "PATCH", "DELETE"):
        request = urllib.request.Request(
            f"{story.airflow.address}{PAGE}api/now", method=method,
            headers={"Authorization": f"Bearer {token(story, 'admin')}"},
        )  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request)
        assert refusal.value.code == 405


def test_a_shared_link_leads_through_the_login_and_back(story: Stage, open_page: OpenPage) -> None:
    page = open_page(f"{PAGE}changes?kind=renamed", None, quiet=False)
    page.get_by_label("Username").fill("viewer")
    page.get_by_label("Password").fill("viewer")
    page.get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).click()
    page.wait_for_url(f"**{PAGE}changes?kind=renamed")
    expect(ready(page).locator("tbody tr")).to_have_count(3)


def test_under_the_simple_auth_manager_and_below_a_path_it_is_guarded_and_shown_too(
    story: Stage, tmp_path: Path, browser: Browser
) -> None:
    airflow = Airflow(tmp_path, story.postgres, auth=SIMPLE, below="/data/airflow")
    airflow.start()
    try:
        airflow.wait()
        for path in API:
            assert airflow.get(f"{PAGE}api/{path}")[0] == 401
        status, _, headers = airflow.get(f"{PAGE}changes?kind=renamed")
        there = quote(f"/data/airflow{PAGE}changes?kind=renamed")
        assert (status, headers["location"]) == (303, f"/data/airflow/auth/login?next={there}")
        assert airflow.get(f"{PAGE}healthz")[0] in (200, 503)
        viewer = airflow.token("viewer")
        assert airflow.get(f"{PAGE}api/now", viewer)[0] == 200

        context = browser.new_context()
        context.add_cookies([{"name": "_token", "value": viewer, "url": airflow.address}])
        page = context.new_page()
        page.goto(f"{airflow.address}/plugin/attribute-names")
        frame = frame_of(page)
        expect(frame.get_by_role("heading", name="Changes of the last 7 days")).to_be_visible()
        frame.get_by_role("link", name="Changes", exact=True).click()
        expect(frame_of(page).locator("tbody tr").first).to_be_visible()
        page.goto(f"{airflow.address}{PAGE}changes")
        run = ready(page).get_by_role("link", name=story.runs["renamed_again"]).first
        path = f"/data/airflow/dags/im_attr_name_audit/runs/{story.runs['renamed_again']}"
        assert unquote(urlsplit(run.evaluate("link => link.href")).path) == path
        context.close()
    finally:
        airflow.stop()


# What the views show ---------------------------------------------------------------------------


def test_the_overview_says_what_needs_somebody(story: Stage, open_page: OpenPage) -> None:
    page = ready(open_page(PAGE))
    expect(page.locator("[data-state=needs]")).to_contain_text(
        "1 of 8 apps is stale; 3 slots drift."
    )
    needs = page.get_by_role("list", name="What needs attention").get_by_role("listitem")
    expect(needs).to_have_count(4)
    expect(needs.first).to_contain_text("silicon_valley/1721900005")
    expect(needs.first).to_contain_text("last good poll")
    expect(needs.first).to_contain_text("Check the connection's password")
    expect(needs.nth(2)).to_contain_text("Loyalty tier 2 in frankfurt/20900004")
    at = needs.first.locator("time").first
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC", at.get_attribute("title") or ""
    )
    newest = page.get_by_role("table", name="Newest changes").locator("tbody tr").first
    expect(newest).to_contain_text("Loyalty tier 2")
    hints = page.get_by_role("region", name="Not used yet").get_by_role("listitem")
    expect(hints).to_have_count(3)
    expect(hints.first).to_contain_text("im-attr-audit declare")


def drawn(page: Page) -> Page:
    """Wait until a view is drawn, lanes included."""
    ready(page)
    if page.locator(".timeline").count():
        page.wait_for_selector(".timeline[data-drawn]")
    return page


def answered(page: Page, view: str, **changed: object) -> None:
    """Let the page see this view's answer with some of its values changed."""

    def answer(route: Route) -> None:
        said = {**route.fetch().json(), **changed}
        route.fulfill(json=said)

    page.unroute(f"**/api/{view}")
    page.route(f"**/api/{view}", answer)


def test_the_overview_says_that_all_is_as_declared_and_sealed(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}health")
    at = json.loads(story.airflow.get(f"{PAGE}api/overview", token(story, "viewer"))[1])["at"]
    well = {"stale": [], "failing": [], "drift": [], "declared_groups": ["push", "shop"]}
    answered(page, "overview", **well, is_reviewed=True, unreviewed_changes=0, unreviewed=[],
             newest_seal={"n": 3, "sealed_at": at})  # fmt: skip
    page.goto(PAGE)
    expect(ready(page).locator("[data-state=well]")).to_contain_text(
        re.compile(r"All names are as declared, seen \d+ (s|min) ago, sealed \d+ s ago\.")
    )
    expect(page.get_by_role("region", name="Not used yet")).to_have_count(0)


def test_the_overview_claims_nothing_of_names_that_are_not_declared_or_not_seen(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}health")
    well = {"stale": [], "failing": [], "drift": [], "declared_groups": ["shop"]}
    answered(page, "overview", **well)
    page.goto(PAGE)
    expect(ready(page).locator("[data-state=well]")).to_contain_text(
        "All declared names are as declared, and no others drift, seen"
    )
    answered(page, "overview", **well, unknown_apps=1)
    page.reload()
    expect(ready(page).locator("[data-state=needs]")).to_contain_text(
        "1 app with declared names has no recent good poll."
    )
    expect(page.locator("[data-state=well]")).to_have_count(0)


def test_names_of_apps_that_are_not_seen_lately_are_not_called_as_declared(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}health")
    groups = json.loads(story.airflow.get(f"{PAGE}api/names", token(story, "viewer"))[1])["groups"]
    push = next(group for group in groups if group["app_group"] == "push")
    push["is_declared"] = True
    for slot in push["slots"]:
        slot["declared"] = [{"name": slot["usual"]["name"], "apps": 2}]
    first = page.get_by_role("row", name=re.compile("Slot 0 of push"))
    for stale, said in (
        (0, "✓ as declared"),
        (1, "? as declared where known"),
        (2, "? no recent good poll"),
    ):
        push["stale"] = stale
        answered(page, "names", groups=[push])
        page.goto(f"{PAGE}names")
        ready(page)
        expect(first).to_contain_text(said)
    expect(page.locator("tbody")).not_to_contain_text("as declared")


def test_a_seal_that_is_older_than_a_day_is_red(story: Stage, open_page: OpenPage) -> None:
    page = open_page(f"{PAGE}health")
    answered(page, "overview", newest_seal={"n": 3, "sealed_at": "2026-01-01T00:00:00Z"})
    page.goto(PAGE)
    overdue = ready(page).locator(".need.bad", has_text="The record was last sealed")
    expect(overdue).to_contain_text("im-attr-audit checkpoint")
    expect(page.locator("[data-state=needs]")).to_contain_text("the record's seal is overdue")


def test_violations_and_unreviewed_changes_are_above_everything(
    staged: Stage, open_page: OpenPage
) -> None:
    staged.shown.show("hostile")
    page = ready(open_page(PAGE))
    first = page.get_by_role("list", name="What needs attention").get_by_role("listitem").first
    expect(first).to_contain_text('<b title="x">own/7 since')
    expect(page.locator(".need.bad", has_text="declared: <b>sex</b>")).to_contain_text(
        "is: <script>window.owned=1</script>"
    )
    waiting = page.locator(".need", has_text="unreviewed")
    expect(waiting).to_contain_text("9 changes of the last 30 days are unreviewed")
    expect(waiting).to_contain_text("Required Actions")


def test_names_has_a_row_for_each_slot_and_opens_the_apps_that_differ(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}names"))
    tier = page.get_by_role("row", name=re.compile("Slot 2 .*Membership level"))
    expect(tier).to_contain_text("4 of 6")
    expect(tier).to_contain_text("Loyalty tier 2 in frankfurt/20900004")
    expect(page.get_by_role("row", name=re.compile("Slot 4 "))).to_contain_text(
        "language in 2 apps"
    )
    tier.get_by_role("link", name="Slot 2 of shop").click()
    page.wait_for_url(f"**{PAGE}names?group=shop&slot=2")
    rows = ready(page).locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="frankfurt/20900004")).to_contain_text(
        re.compile(r"between .* and ")
    )
    page.goto(f"{PAGE}names?group=shop&matrix=yes")
    matrix = ready(page).get_by_role("table", name="Names of all apps of shop")
    assert matrix.get_by_role("row").count() == 1 + len(APPS)
    expect(matrix.get_by_role("row", name=re.compile("silicon_valley"))).to_contain_text("stale")
    odd = matrix.get_by_role("link", name="drift: Loyalty tier 2")
    odd.focus()
    expect(page.get_by_role("tooltip")).to_contain_text("Usual in this slot: Membership level")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tooltip")).to_contain_text("frankfurt/20900004, slot 1: city")


def test_a_search_finds_who_has_a_name_since_when_and_until_when(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}names"))
    page.get_by_label("Find a name").fill("CITY")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{PAGE}names?q=CITY")
    uses = ready(page).get_by_role("table", name="Slots with this name")
    expect(uses.locator("tbody tr").first).to_contain_text("5 of 6")
    table = page.get_by_role("table", name="Apps with this name: since when, until when")
    spans = table.locator("tbody tr")
    until = page.locator("td:last-child", has_text="between")
    gone = spans.filter(has_text="jakarta/20900006").filter(has=until)
    expect(gone).to_have_count(1)
    # Stale: whether it still has the name is not known.
    expect(spans.filter(has_text="silicon_valley")).to_contain_text("last seen 5 h ago")
    expect(page.locator("main")).not_to_contain_text("still")


def test_a_search_answers_whether_a_name_was_there_all_through_a_period(
    story: Stage, open_page: OpenPage
) -> None:
    since, until = (story.runs[event].removeprefix("manual__") for event in ("added", "back"))
    page = ready(open_page(f"{PAGE}names?q=Membership+level&since={quote(since)}"))
    page.get_by_role("textbox", name="Campaign to", exact=True).fill(until[:10])
    page.keyboard.press("Enter")
    page.wait_for_url("**&until=*")
    answer = ready(page).get_by_role(
        "region", name="Did every app have Membership level throughout?"
    )
    rows = answer.locator("tbody tr")
    expect(rows.filter(has_text="frankfurt/20900004")).to_contain_text("at no time")
    expect(rows.filter(has_text="seoul/20900003")).to_contain_text("✓ throughout")
    expect(answer.locator(".chips")).to_contain_text("✕ at no time: 4 apps")


def test_a_time_is_written_in_24_hours_beside_the_browsers_own_day(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}changes?since=2026-05-03T10:00:30.5Z"))
    fields = page.get_by_role("group", name="Seen from")
    day = fields.get_by_label("Seen from", exact=True)
    clock = fields.get_by_label("time in 24 hours")
    # Berlin's time; what nobody touches stays exactly what it was.
    assert (day.input_value(), clock.input_value()) == ("2026-05-03", "12:00:30")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url(f"**{PAGE}changes?since=2026-05-03T10%3A00%3A30.5Z")
    ready(page)
    for written, meant in (("9", "07%3A00"), ("2305", "21%3A05"), ("", "22%3A00")):
        clock.fill(written)
        clock.press("Enter")
        page.wait_for_url(f"**{PAGE}changes?since=2026-05-0*T{meant}%3A00.000Z")
        ready(page)
    clock.press("Home")
    clock.press("ArrowUp")
    assert clock.input_value() == "01:00"
    clock.fill("25:00")
    clock.press("Enter")
    assert clock.evaluate("input => input.validationMessage") == "Write a time from 00:00 to 24:00."


def test_the_timeline_draws_the_lanes_that_changed_with_gaps_and_failures(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}timeline?group=shop"))
    page.wait_for_selector(".timeline[data-drawn]")
    lanes = page.locator(".lane:not(.head)")
    expect(lanes).to_have_count(5 + 5)
    expect(lanes.first).to_contain_text("china/1400900001")
    crosses = page.locator(".lane .failed")
    assert (
        sum(int(each) for each in crosses.evaluate_all("all => all.map(e => e.dataset.polls)")) == 8
    )
    assert page.locator(".lane.polls .gap").count() == 5 + 1
    expect(page.locator(".legend")).to_contain_text("Loyalty tier 2")
    page.goto(f"{PAGE}timeline?group=shop&slot=2&lanes=all")
    page.wait_for_selector(".timeline[data-drawn]")
    expect(lanes).to_have_count(len(APPS))
    before = page.locator(".timeline").get_attribute("data-from")
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Earlier").click()
    assert page.locator(".timeline").get_attribute("data-from") != before
    page.reload()
    page.wait_for_selector(".timeline[data-drawn]")
    page.get_by_role("link", name=re.compile(
        "frankfurt.20900004 slot 2 renamed: Loyalty tier to Loyalty tier 2")).click()  # fmt: skip
    page.wait_for_url("**/changes?app=frankfurt%2F20900004&seq=6")
    change = ready(page).get_by_role("region", name="Change 6 of frankfurt/20900004")
    for text in ("Loyalty tier", "Not before", "Seen at", story.runs["renamed_again"]):
        expect(change).to_contain_text(text)
    expect(change.locator("mark")).to_have_text("␣2")
    assert re.search(r"\b[0-9a-f]{64}\b", change.inner_text())
    page.get_by_role("link", name="Previous in the chain").click()
    expect(ready(page).get_by_role("heading", level=2)).to_have_text(
        "Change 5 of frankfurt/20900004"
    )


def test_a_period_is_attested_app_by_app(story: Stage, open_page: OpenPage) -> None:
    since, until = (story.runs[event].removeprefix("manual__") for event in ("added", "back"))
    page = ready(open_page(f"{PAGE}attest?group=shop&since={quote(since)}&until={quote(until)}"))
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(len(APPS))
    expect(rows.filter(has_text="frankfurt")).to_contain_text("unchanged")
    expect(rows.filter(has_text="singapore")).to_contain_text("changed")
    assert re.search(r"[0-9a-f]{64}", rows.first.inner_text())
    expect(page.get_by_label("The query")).to_contain_text("attr_audit.attest('20")


def test_changes_are_filtered_paged_and_addressed(story: Stage, open_page: OpenPage) -> None:
    page = ready(open_page(f"{PAGE}changes"))
    assert page.locator("tbody tr").count() == 25
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("renamed")
    expect(first).to_contain_text("Loyalty tier 2")
    page.get_by_label("Kind", exact=True).select_option("added")
    page.get_by_label("Name contains").fill("LANG")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url(f"**{PAGE}changes?kind=added&name=LANG")
    expect(ready(page).locator("tbody tr")).to_have_count(2)
    page.reload()
    expect(ready(page).locator("tbody tr")).to_have_count(2)
    page.go_back()
    expect(ready(page).locator("tbody tr")).to_have_count(25)
    baselines = page.request.get(f"{PAGE}api/changes/count?kind=baseline").json()["changes"]
    expect(page.locator(".pager").first).to_contain_text(
        f"Showing 25 of 36 changes ({baselines} baselines)"
    )
    page.get_by_role("link", name="Older changes").first.click()
    expect(ready(page).locator("tbody tr")).to_have_count(11)
    page.goto(f"{PAGE}changes?app=frankfurt/20900004&seq=6")
    expect(ready(page).locator(".change")).to_contain_text("Loyalty tier␣2")


def test_a_change_shows_its_review_and_offers_its_proof_once_it_is_sealed(
    staged: Stage, open_page: OpenPage
) -> None:
    staged.shown.show("hostile")
    page = ready(open_page(f"{PAGE}changes?review=expected"))
    [row] = page.locator("tbody tr").all()
    for text in ("✓ expected", "by <i>uma</i>, <b>T-1</b>"):
        expect(row).to_contain_text(text)
    row.get_by_role("link").first.click()
    change = ready(page).locator(".change")
    expect(change).to_contain_text("✓ expected by <i>uma</i>, ")
    expect(change).to_contain_text("once it is sealed")
    answered(page, "change?*", seal={"n": 0, "sealed_at": "2026-01-01T00:00:00Z"})
    page.reload()
    link = ready(page).get_by_role("link", name="Download the proof of this change")
    assert link.get_attribute("href") == (
        "api/proof?region=%3Cb+title%3D%22x%22%3Eown&sdk_app_id=7&seq=2"
    )
    expect(change).to_contain_text("im-attr-audit prove --region '<b title=\"x\">own' --app 7")


def test_each_poll_of_a_run_offers_its_proof_once_it_is_sealed(
    story: Stage, open_page: OpenPage
) -> None:
    story.shown.show("story")
    page = open_page(f"{PAGE}changes?run={quote(next(iter(story.runs.values())))}")
    run_ = json.loads(
        story.airflow.get(
            f"{PAGE}api/run?run={quote(next(iter(story.runs.values())))}", token(story, "viewer")
        )[1]
    )
    [first, second, *_] = run_["polls"]
    half = {**second, "conn_id": "im_half", "sdk_app_id": None, "outcome": "misconfigured"}
    answered(page, "run?*", polls=[{**first, "is_sealed": True}, second, half])
    page.reload()
    ready(page).get_by_text("All 3 polls, with proofs").click()
    rows = page.get_by_role("region", name="Polls of the run").locator("tbody tr")
    link = rows.nth(0).get_by_role("link", name="Download the proof")
    asked = {"region": first["region"], "sdk_app_id": str(first["sdk_app_id"])}
    assert dict(parse_qsl(urlsplit(link.get_attribute("href") or "").query)) == {
        **asked,
        "at": first["requested_at"],
    }
    expect(rows.nth(1)).to_contain_text("once it is sealed")
    expect(rows.nth(2)).to_contain_text("im_half")
    expect(rows.nth(2)).to_contain_text("it names no app")


@pytest.mark.parametrize("kind", notify.KINDS)
def test_the_link_of_an_alert_leads_to_what_it_is_about(
    story: Stage, open_page: OpenPage, kind: str
) -> None:
    with story.postgres.connect(SHOWN) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select region, sdk_app_id, app_group, seq, slot, kind, old_name, new_name, dag_run_id,"
            " seen_at from attr_audit.changes where kind = 'renamed' order by seen_at limit 1"
        )
        [(region, number, group, seq, slot, change, old, new, run, at)] = cursor.fetchall()
    of_change, of_slot = kind in ("change", "unreviewed"), kind.startswith("violation")
    about: dict[str, Any] = {"gap_from": at, "gap_to": at, "outcome": "unavailable"}
    if of_slot:
        about |= {"violation": "different", "declared_name": old, "actual_name": new, "slot": slot}
    if of_change:
        about = {"seq": seq, "slot": slot, "change": change, "not_before": at, "seen_at": at}
        about |= {"old": AttrName(old), "new": AttrName(new)}
    alert = Alert(1, kind, region, number, group, run, "im", **about)
    _, message = notify.compose([alert], base_url="https://airflow.example")
    [address] = re.findall("^Page: https://airflow.example(/.*)$", message, re.MULTILINE)
    page = ready(open_page(address))
    view = "Changes" if of_change or of_slot else "Health"
    expect(page.locator("header nav a[aria-current]")).to_have_text(view)
    shown = page.locator("main")
    expect(shown).to_contain_text(f"{region}/{number}")
    # Where two names are compared, a space is shown as a sign.
    text = shown.inner_text().replace("␣", " ")
    assert view == "Health" or (old in text and new in text)


def test_the_page_of_each_metric_alert_is_a_view(story: Stage, open_page: OpenPage) -> None:
    file = grafana.FOLDER.with_name("prometheus") / "alerts.yml"
    [group] = yaml.safe_load(file.read_text("utf-8"))["groups"]
    rules = [*group["rules"], *grafana.RULES.values()]
    addresses = {rule["annotations"]["page"] for rule in rules}
    assert len(addresses) == 4
    for address in addresses:
        page = ready(open_page(address))
        view = VIEWS[address.removeprefix(PAGE)]
        expect(page.locator("header nav a[aria-current]")).to_have_text(view)


def test_pages_by_key_give_every_change_once(story: Stage) -> None:
    viewer = token(story, "viewer")
    seen: list[int] = []
    before = ""
    while True:
        path = f"{PAGE}api/changes?limit=7" + (f"&before={before}" if before else "")
        answer = json.loads(story.airflow.get(path, viewer)[1])
        seen += [change["change_id"] for change in answer["changes"]]
        before = answer["before"]
        if not before:
            break
    assert len(seen) == len(set(seen)) == 36


def test_a_download_holds_exactly_what_is_filtered(story: Stage, open_page: OpenPage) -> None:
    page = ready(open_page(f"{PAGE}changes?kind=baseline&group=shop"))
    for kind in ("CSV", "JSON"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=kind).click()
        assert waiting.value.suggested_filename.startswith("attribute-name-changes-for-reading.")
        text = waiting.value.path().read_text(encoding="utf-8-sig")
        if kind == "CSV":
            rows = list(csv.DictReader(io.StringIO(text)))
        else:
            assert "not for verification" in text
            rows = json.loads(text)["changes"]
        assert len(rows) == 24
        assert {row["kind"] for row in rows} == {"baseline"}


def test_as_of_shows_what_was_and_how_certain(story: Stage, open_page: OpenPage) -> None:
    def at(event: str, minutes: int) -> str:
        instant = datetime.fromisoformat(story.runs[event].removeprefix("manual__"))
        return quote((instant + timedelta(minutes=minutes)).isoformat())

    page = ready(open_page(f"{PAGE}as-of?at={at('renamed', 60)}"))
    table = page.get_by_role("region", name=re.compile("Names of shop"))
    frankfurt = table.get_by_role("row", name=re.compile("frankfurt"))
    expect(frankfurt.get_by_role("cell").nth(2)).to_contain_text("Loyalty tier")
    expect(frankfurt).to_contain_text("drift: Loyalty tier")
    tier = {"region": "frankfurt", "sdk_app_id": 20900004, "slot": 2}
    wrong = {**tier, "violation": "different", "declared_name": "Membership level"}
    answered(page, "as-of?*", marks=[
        {"declared_groups": ["shop"], "violations": [wrong], "drift": []}])  # fmt: skip
    page.reload()
    ready(page)
    expect(frankfurt).to_contain_text("Loyalty tier ≠ declared: Membership level")
    expect(table).not_to_contain_text("drift")
    page.unroute_all()
    page.goto(f"{PAGE}as-of?at={at('renamed', -5)}")
    expect(ready(page).locator("td.unsure")).to_have_count(1)
    expect(page.locator("td.unsure")).to_contain_text("Membership level")
    expect(page.locator("td.unsure")).to_contain_text("not certain")
    page.goto(f"{PAGE}as-of?at={at('baseline', -60)}")
    expect(ready(page).get_by_text("Nothing was known at that instant")).to_be_visible()
    page.goto(f"{PAGE}as-of?at={at('baseline', 60)}&compare={at('renamed_again', 10)}")
    rows = ready(page).locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(page.locator("tbody")).to_contain_text("home city")
    expect(rows.filter(has_text="Loyalty tier 2")).to_contain_text("drift: Loyalty tier 2")
    expect(rows.filter(has_text="UserID").or_(rows.filter(has_text="token"))).to_contain_text(
        "token type 1token type 0≠ type differs"
    )
    page.get_by_role("link", name=re.compile("Show the .* without a known difference")).click()
    expect(ready(page).locator("tbody tr")).to_have_count(6 * 5 + 4)


def test_what_is_unknown_at_one_of_two_instants_is_neither_different_nor_the_same(
    story: Stage, open_page: OpenPage
) -> None:
    baseline = datetime.fromisoformat(story.runs["baseline"].removeprefix("manual__"))
    before, seen = baseline - timedelta(hours=2), baseline - timedelta(hours=1)
    after = datetime.now(UTC)
    page = open_page(
        f"{PAGE}as-of?at={quote(seen.isoformat())}&compare={quote(before.isoformat())}"
    )
    expect(ready(page).get_by_text("Nothing was known at that instant")).to_be_visible()
    # Whichever of the two is asked for first, the earlier one comes first.
    for at, compare in ((after, before), (before, after)):
        page.goto(f"{PAGE}as-of?at={quote(at.isoformat())}&compare={quote(compare.isoformat())}")
        said = ready(page).locator(".pager").first
        expect(said).to_contain_text("0 slots differ, 0 are the same, 34 cannot be compared.")
        row = page.locator("tbody tr").first
        expect(row).to_contain_text("unknown at the earlier time")
        expect(row.locator("td.unknown")).to_have_text("not known yet")
        assert row.locator("td").all_inner_texts().index("not known yet") == 2
    # Within the bounds of a change nobody knows which of the two names it was.
    renamed = datetime.fromisoformat(story.runs["renamed"].removeprefix("manual__"))
    within, later = renamed - timedelta(minutes=5), renamed + timedelta(hours=1)
    page.goto(f"{PAGE}as-of?at={quote(within.isoformat())}&compare={quote(later.isoformat())}")
    expect(ready(page).locator(".pager").first).to_contain_text("0 slots differ, 1 perhaps differs")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text("name differs, not certain")
    # The newest good polls are 3 minutes old: nothing of now is certain, so nothing is the same.
    just_now = quote((after - timedelta(seconds=1)).isoformat())
    page.goto(f"{PAGE}as-of?at={quote(after.isoformat())}&compare={just_now}")
    said = ready(page).locator(".pager").first
    expect(said).to_contain_text(
        re.compile(r"^0 slots differ, 0 are the same, \d+ are the same as")
    )
    expect(page.locator("[data-empty=unsure]")).to_be_visible()


def test_a_group_that_was_never_seen_is_not_the_same_at_two_instants(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}health")
    app = {"region": "seoul", "sdk_app_id": 7, "app_group": "new", "first_ok_at": None}
    never = {**app, "compared_group": None}
    new: dict[str, Any] = {"app_group": "new", "apps": [never], "slots": []}
    answered(page, "as-of?*", groups=[new])
    page.goto(f"{PAGE}as-of?compare=2026-01-01T00:00:00Z")
    expect(ready(page).locator("main")).to_contain_text("Nothing was known at that instant")
    seen = {**app, "sdk_app_id": 8, "first_ok_at": "2025-01-01T00:00:00Z", "compared_group": None}
    both = {**new, "apps": [never, seen]}
    answered(page, "as-of?*", groups=[both])
    page.goto(f"{PAGE}as-of?at=2026-01-01T00:00:00Z")
    expect(ready(page).locator("main")).to_contain_text("No app is known to have had a name.")
    cell = {"name": "sex", "attr_type": None, "certain": True, "known": True}
    same = {"slot": 0, "cells": [cell], "compared": [cell]}
    shop = {"app_group": "shop", "apps": [{**seen, "app_group": "shop"}], "slots": [same]}
    answered(page, "as-of?*", groups=[shop, both])
    page.goto(f"{PAGE}as-of?at=2026-01-01T00:00:00Z")
    expect(ready(page).locator("main")).to_contain_text(
        "1 of 2 apps had no good poll by then; the others had no name, as far as is known."
    )
    page.goto(f"{PAGE}as-of?at=2026-01-02T00:00:00Z&compare=2026-01-01T00:00:00Z")
    expect(ready(page).locator(".pager").first).to_contain_text(
        "1 is the same. No name of 1 more app is known at the earlier time."
    )
    expect(page.locator("[data-empty=unsure]")).to_be_visible()


def test_nothing_is_claimed_of_the_time_before_a_baseline(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}changes?kind=baseline"))
    expect(page.locator("tbody tr").first.locator("td[data-title=From]")).to_have_text("unknown")
    page.locator("tbody tr").first.get_by_role("link").first.click()
    names_of = ready(page).locator(".names-of-change")
    expect(names_of.get_by_role("row", name=re.compile("^From"))).to_contain_text("unknown")


def test_the_quarter_that_is_not_over_is_attested_until_every_app_was_seen(
    large: Callable[[int], None], open_page: OpenPage
) -> None:
    large(200)
    page = ready(open_page(f"{PAGE}attest?all=yes"))
    page.get_by_role("link", name=re.compile("^Q. 20.. until ")).click()
    page.wait_for_url("**since=**")
    marked = ready(page).locator(".pager [aria-current]")
    expect(marked).to_have_count(1)
    expect(marked).to_contain_text(" until ")
    asked = dict(parse_qsl(urlsplit(page.url).query))
    since, until = (datetime.fromisoformat(asked[name]) for name in ("since", "until"))
    begin = page.evaluate("at => [new Date(at).getMonth(), new Date(at).getDate()]", asked["since"])
    assert begin[0] % 3 == 0
    assert begin[1] == 1
    assert timedelta(0) < until - since < timedelta(days=93)
    apps = page.request.get(f"{PAGE}api/setup").json()["apps"]
    fresh = [datetime.fromisoformat(app["last_ok_at"]) for app in apps if not app["stale"]]
    assert timedelta(0) <= min(fresh) - until < timedelta(milliseconds=1)
    # Nobody has polled after "now", and so nothing could be unchanged until then.
    query = f"since={quote(asked['since'])}&until={quote(asked['until'])}"
    attested = page.request.get(f"{PAGE}api/attest?{query}").json()["apps"]
    seen = [datetime.fromisoformat(app["last_good_at"]) >= until for app in attested]
    assert len(seen) == 200
    # In this record one poll in 211 failed.
    assert seen.count(False) <= 2


def test_good_polls_outside_of_an_attested_period_are_called_so(
    story: Stage, open_page: OpenPage
) -> None:
    baseline = datetime.fromisoformat(story.runs["baseline"].removeprefix("manual__"))
    for (since, until), said in {
        (-3, -2): ["after: "], (-1, 30): ["first: ", "last: "], (1, 2): ["before: ", "after: "],
    }.items():  # fmt: skip
        period = [quote((baseline + timedelta(days=each)).isoformat()) for each in (since, until)]
        page = ready(open_page(f"{PAGE}attest?group=shop&since={period[0]}&until={period[1]}"))
        cell = page.locator("tbody tr").first.locator("td[data-title='Polls at the bounds']")
        assert re.findall("[a-z]+: ", cell.inner_text()) == said


def test_health_explains_what_is_wrong_and_what_to_do(story: Stage, open_page: OpenPage) -> None:
    page = ready(open_page(f"{PAGE}health"))
    first = page.get_by_role("row", name=re.compile("silicon_valley"))
    expect(first).to_contain_text("rejected 70009")
    expect(first).to_contain_text("the key is another app's")
    expect(first).to_contain_text("Check the connection's password")
    expect(first.get_by_role("cell").nth(2)).to_have_text("7")
    expect(first.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"\d+ good and 7 failed polls"))  # fmt: skip
    expect(page.get_by_text('section "Alert: stale"')).to_be_visible()
    expect(page.get_by_text("Every chain is intact.")).to_be_visible()
    expect(page.get_by_text(re.compile(r"36 changes in 8 chains, checked "))).to_be_visible()


def test_health_shows_the_newest_seal_and_offers_the_heads(
    story: Stage, open_page: OpenPage
) -> None:
    page = ready(open_page(f"{PAGE}health"))
    expect(page.get_by_role("region", name="The newest seal")).to_contain_text(
        "The record is not sealed."
    )
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the heads of all chains").click()
    assert len(json.loads(waiting.value.path().read_text())["heads"]) == 8
    unreadable = {"origin": "<b>", "n": 9, "sealed_at": "2026-01-01T00:00:00Z"}
    answered(page, "health", unreadable_seals=[unreadable],
             runbooks_url="https://git.example/r.md", seal={
             "n": 3, "sealed_at": "2026-01-01T00:00:00Z", "is_stamped": True,
             "origin": "example.com/<b>audit", "note": "<i>signed</i>",
             "witnesses": [
                 {"target": "git:<b>x", "size": 4, "witnessed_at": "2026-01-01T00:00:00Z"},
                 {"target": "s3://y", "size": 3, "witnessed_at": datetime.now(UTC).isoformat()},
             ]})  # fmt: skip
    page.reload()
    seal = ready(page).get_by_role("region", name="The newest seal")
    expect(page.get_by_role("link", name="Alert: stale")).to_have_attribute(
        "href", "https://git.example/r.md#alert-stale"
    )
    expect(seal.locator("[data-seal=overdue]")).to_contain_text("im-attr-audit checkpoint")
    for text in ("example.com/<b>audit", "RFC 3161", "<i>signed</i>"):
        expect(seal).to_contain_text(text)
    expect(seal.get_by_role("link", name="Download the checkpoint")).to_have_attribute(
        "href", "api/checkpoint/download"
    )
    expect(seal.locator("[data-unreadable]")).to_contain_text("Seal 9: unreadable")
    expect(seal.locator("[data-witness=overdue]")).to_contain_text("git:<b>x")
    expect(seal.locator("[data-witness=behind]")).to_contain_text("has 3 of 4 seals s3://y")


def test_a_view_is_refreshed_while_a_run_is_going_and_not_under_who_reads(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}changes")
    page.clock.install()
    runs: list[dict[str, str]] = [{"state": "running"}]
    page.route("**/api/v2/dags/*/dagRuns?*", lambda route: route.fulfill(json={"dag_runs": runs}))
    page.goto(PAGE)
    ready(page)
    answered(page, "overview", violating_slots=7)
    page.clock.fast_forward(16_000)
    expect(page.locator("[data-state=needs]")).to_contain_text("7 slots are not as declared")
    page.get_by_role("link", name="Slot 2 of shop drifts").focus()
    answered(page, "overview", violating_slots=8)
    page.clock.fast_forward(16_000)
    newer = page.get_by_role("button", name="Show newer data")
    expect(newer).to_be_visible()
    expect(page.locator("[data-state=needs]")).to_contain_text("7 slots are not as declared")
    newer.click()
    expect(page.locator("[data-state=needs]")).to_contain_text("8 slots are not as declared")
    # A filter that is filled in and not asked for yet stays.
    page.goto(f"{PAGE}names")
    find = ready(page).get_by_label("Find a name")
    find.fill("cit")
    find.blur()
    page.clock.fast_forward(16_000)
    expect(newer).to_be_visible()
    expect(find).to_have_value("cit")


def test_the_names_of_an_instant_and_an_attested_period_are_downloaded(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}as-of?group=shop")
    for view, link in (("as-of?group=shop", "the group"), ("attest?group=shop", "")):
        page.goto(f"{PAGE}{view}")
        with page.expect_download() as waiting:
            ready(page).get_by_role("link", name=re.compile(f"Download {link}.*as CSV")).click()
        text = waiting.value.path().read_text(encoding="utf-8-sig")
        found = list(csv.DictReader(io.StringIO(text)))
        assert {row["app_group"] for row in found} == {"shop"}


# Five tasks, each in at most four clicks from the overview, by keyboard alone -------------------


class Hands:
    """Goes to links with the keyboard and follows them, each of which is a click with a mouse."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.clicks = 0

    def reach(self, name: str | re.Pattern[str], within: str = "body") -> None:
        link = self.page.locator(within).get_by_role("link", name=name).first
        expect(link).to_be_visible()
        for _ in range(150):
            self.page.keyboard.press("Tab")
            if link.evaluate("link => link === document.activeElement"):
                return
        raise AssertionError(f"Tab does not lead to {name}")

    def click(self, name: str | re.Pattern[str], within: str = "body") -> None:
        self.clicks += 1
        self.reach(name, within)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")
        ready(self.page)


@pytest.fixture
def hands(story: Stage, open_page: OpenPage) -> Iterator[Hands]:
    made = Hands(ready(open_page(PAGE)))
    yield made
    assert made.clicks <= 4


@pytest.fixture(scope="session")
def signer(staged: Stage, tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """Makes the database `sealed`: the story, its last change reviewed, and a seal over it all."""
    staged.shown.show(None)
    with staged.postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database sealed template story strategy file_copy")

    def engine(role: str) -> Engine:
        return create_audit_engine(make_url(staged.postgres.url("sealed", role)))

    writer, sealer = engine(WRITER), engine(SEALER)
    signer = new_signer("example.com/audit")
    try:
        answer = Answer("expected", "uma", "7", "OPS-1", None, datetime.now(UTC), "review")
        record_answer(writer, "frankfurt", {APPS["frankfurt"]: [6]}, answer)
        make_checkpoint(sealer, signer, [folder_at(tmp_path_factory.mktemp("witness"))])
    finally:
        writer.dispose()
        sealer.dispose()
    return signer


@pytest.fixture
def sealed_hands(staged: Stage, signer: Signer, open_page: OpenPage) -> Iterator[Hands]:
    """The same where changes are reviewed and sealed."""
    del signer
    staged.shown.show("sealed")
    made = Hands(ready(open_page(PAGE)))
    yield made
    assert made.clicks <= 4


NEWEST = "table:has(caption:text('Newest changes'))"


def test_task_find_where_a_name_is_called_something_else(hands: Hands) -> None:
    hands.click("Slot 2 of shop drifts")
    differ = hands.page.get_by_role("table", name="Apps that differ").locator("tbody tr")
    expect(differ).to_have_count(2)
    expect(hands.page.locator("#content")).to_contain_text("Usual: Membership level in 4 of 6")


def test_task_say_since_when_and_until_when_at_worst(hands: Hands) -> None:
    hands.click("Slot 2 of shop drifts")
    row = hands.page.get_by_role("row", name="frankfurt/20900004")
    expect(row).to_contain_text(re.compile(r"between .* and "))
    hands.click(re.compile("between .* and "), "tr:has-text('frankfurt/20900004')")
    hands.click(re.compile("change 6 of frankfurt"))
    for text in ("Not before", "Seen at"):
        expect(hands.page.locator(".change")).to_contain_text(text)


def test_task_say_who_reviewed_the_last_change(sealed_hands: Hands) -> None:
    sealed_hands.click(re.compile(r"\d\d:\d\d"), NEWEST)
    change = sealed_hands.page.locator(".change")
    expect(change).to_contain_text("✓ expected by uma, ")
    expect(change).to_contain_text("ticket OPS-1")


def test_task_say_whether_a_region_was_watched_all_through_a_quarter(hands: Hands) -> None:
    hands.click("Attest")
    hands.click(re.compile(r"Q\d 20\d\d"))
    row = hands.page.get_by_role("row", name="frankfurt/20900004")
    expect(row).to_contain_text(re.compile("no change seen, with gaps|changed|not watched"))


def test_task_hand_an_auditor_the_proof_of_one_change(sealed_hands: Hands, signer: Signer) -> None:
    sealed_hands.click(re.compile(r"\d\d:\d\d"), NEWEST)
    sealed_hands.clicks += 1
    sealed_hands.reach("Download the proof of this change")
    with sealed_hands.page.expect_download() as waiting:
        sealed_hands.page.keyboard.press("Enter")
    proof = read_proof(waiting.value.path().read_text(encoding="utf-8"))
    row = check_proof(proof, signer.verifier).row
    assert (row["old_name"], row["new_name"]) == ("Loyalty tier", "Loyalty tier 2")


# In Airflow ------------------------------------------------------------------------------------


def frame_of(page: Page) -> Frame:
    page.wait_for_selector("iframe")
    handle = page.query_selector("iframe")
    assert handle is not None
    frame = handle.content_frame()
    assert frame is not None
    frame.wait_for_selector("main[aria-busy=false]")
    return frame


def test_it_is_under_browse_and_its_views_are_in_the_address(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page("/", "admin", quiet=False)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Attribute names").click()
    page.wait_for_url("**/plugin/attribute-names**")
    frame = frame_of(page)
    frame.get_by_role("link", name="Changes", exact=True).click()
    page.wait_for_url("**/plugin/attribute-names/im-attr-audit/changes")
    frame_of(page).get_by_label("Kind", exact=True).select_option("removed")
    frame_of(page).get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**/plugin/attribute-names/im-attr-audit/changes?kind=removed")
    page.go_back()
    page.wait_for_url("**/plugin/attribute-names/im-attr-audit/changes")
    page.go_forward()
    page.wait_for_url("**/plugin/attribute-names/im-attr-audit/changes?kind=removed")
    page.reload()
    expect(frame_of(page).locator("tbody tr")).to_have_count(1)
    # A link into Airflow leaves the frame.
    frame_of(page).get_by_role("link", name=story.runs["removed"]).first.click()
    page.wait_for_url(f"**/dags/im_attr_name_audit/runs/{quote(story.runs['removed'])}**")
    expect(page.locator("iframe")).to_have_count(0)


def test_it_is_a_tab_of_the_dag_and_of_a_run(story: Stage, open_page: OpenPage) -> None:
    run_id = story.runs["removed"]
    admin = token(story, "admin")
    story.airflow.ask(
        "/api/v2/dags/im_attr_name_audit/dagRuns",
        {"dag_run_id": run_id, "logical_date": None}, admin,
    )  # fmt: skip
    page = open_page("/dags/im_attr_name_audit", "admin", quiet=False)
    page.get_by_role("link", name="Attribute names").click()
    expect(frame_of(page).get_by_role("heading", name="Overview")).to_be_visible()
    page.goto(f"/dags/im_attr_name_audit/runs/{quote(run_id, safe='')}")
    page.get_by_role("link", name="Attribute names").click()
    frame = frame_of(page)
    # All polls of the run are in another table, folded.
    expect(frame.locator("tbody tr:not(details tr)")).to_have_count(1)
    expect(frame.locator("#content")).to_contain_text("What the run")
    expect(frame.locator("tbody:not(details tbody)")).to_contain_text("signup channel")


GROUND = "getComputedStyle(document.documentElement).backgroundColor"


def test_the_theme_follows_airflow_live(story: Stage, open_page: OpenPage) -> None:
    page = open_page("/plugin/attribute-names", "admin", quiet=False)
    frame = frame_of(page)
    assert frame.evaluate("document.documentElement.dataset.theme") == "light"
    expect(frame.get_by_text("Attribute names", exact=True)).to_be_hidden()
    page.evaluate("localStorage.setItem('theme', 'dark')")
    frame.wait_for_selector("html[data-theme=dark]")
    # As Airflow's own switch does; its colours are taken as they are.
    page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    ground = page.evaluate(GROUND)
    frame.wait_for_function(f"ground => {GROUND} === ground", arg=ground)
    assert ground != "rgb(255, 255, 255)"
    # So are its sizes of type and controls, which are the page's own elsewhere.
    host = "getComputedStyle(document.documentElement)"
    page.evaluate("document.documentElement.style.setProperty('--chakra-sizes-10', '3.25rem')")
    page.evaluate("document.documentElement.style.setProperty('--chakra-font-sizes-sm', '0.9rem')")
    page.evaluate("document.documentElement.classList.replace('dark', 'light')")
    page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    frame.wait_for_function(f"{host}.getPropertyValue('--control') === '3.25rem'")
    control = "getComputedStyle(document.querySelector('input'))"
    frame.get_by_role("link", name="Health").click()
    frame.wait_for_selector("input")
    assert frame.evaluate(f"[{control}.minHeight, {control}.fontSize]") == ["52px", "14.4px"]
    page.emulate_media(color_scheme="light")
    page.evaluate("localStorage.setItem('theme', 'system')")
    frame.wait_for_selector("html[data-theme=light]")
    page.emulate_media(color_scheme="dark")
    frame.wait_for_selector("html[data-theme=dark]")


# For everybody, everywhere ---------------------------------------------------------------------


@pytest.mark.parametrize("view", [*VIEWS, *STATES])
def test_axe_finds_nothing(story: Stage, open_page: OpenPage, view: str) -> None:
    page = drawn(open_page(f"{PAGE}{view}"))
    if view == "timeline":
        page.locator(".as-list summary").click()
        expect(page.locator(".as-list table")).to_be_visible()
    for theme, width in LOOKS:
        look_in(page, theme, width)
        assert axe(page) == [], (theme, width)


@pytest.mark.parametrize("apps", [200, 2000])
def test_of_many_apps_a_first_view_is_small_and_axe_finds_nothing(
    large: Callable[[int], None], open_page: OpenPage, apps: int
) -> None:
    large(apps)
    page = open_page(f"{PAGE}health")
    looks = itertools.cycle(LOOKS)
    for view in VIEWS:
        page.goto(f"{PAGE}{view}")
        drawn(page)
        assert page.evaluate("document.querySelectorAll('*').length") <= 3000, view
        theme, width = next(looks)
        look_in(page, theme, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert axe(page) == [], (view, theme, width)


# Scrolls through a table, and says which rows were seen, by how much each row that was read moved,
# and what was wrong.
SCROLL = """
([frame, by]) => new Promise((done) => {
  const shown = () => new Map([...frame.querySelectorAll("tbody tr:not(.spacer)")].map(
    (row) => [Number(row.ariaRowIndex), row.getBoundingClientRect()]));
  const box = frame.getBoundingClientRect();
  let top = box.top;
  const isIn = (place) => place.bottom > top && place.top < box.bottom;
  const seen = new Set(), moved = [];
  let before = new Map(), at = null, still = 0;
  const step = () => {
    const now = shown();
    // Rows begin below the head, which stays in sight; on a phone there is none.
    top = Math.max(box.top, frame.querySelector("thead th").getBoundingClientRect().bottom);
    const places = [...now.values()].sort((a, b) => a.top - b.top);
    for (const [row, place] of now) {
      if (isIn(place)) seen.add(row);
      const was = before.get(row);
      if (was && isIn(was)) moved.push(was.top - place.top);
    }
    if (!places.length || places.at(-1).bottom < box.bottom - 2 || places[0].top > top + 2) {
      const drawn = places.length ? [places[0].top - top, box.bottom - places.at(-1).bottom] : [];
      return done({ error: `a hole at ${frame.scrollTop}: ${drawn}` });
    }
    still = frame.scrollTop === at ? still + 1 : 0;
    if (still > 2) return done({ seen: [...seen].sort((a, b) => a - b), moved });
    [before, at] = [now, frame.scrollTop];
    frame.scrollTop += by;
    requestAnimationFrame(() => requestAnimationFrame(step));
  };
  step();
})
"""
WIDTHS_OF_COLUMNS = "e => [...e.querySelectorAll('thead th')].map((h) => Math.round(h.offsetWidth))"


@pytest.fixture(scope="module")
def uneven(staged: Stage, template: str) -> str:
    """A record of 200 apps, some with a group, a name or a reason that takes several lines."""
    with staged.postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database uneven template {template} strategy file_copy")
    fill_record(staged.postgres, "uneven", Size(200, 4000, days=1, minutes=240))
    with staged.postgres.connect("uneven") as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "update attr_audit.app set app_group = 'production_marketing_europe_frankfurt' "
            "where sdk_app_id between 1090 and 1095;"
            "update attr_audit.snapshot set name = 'customer acquisition channel and "
            "home city of the newest order' where sdk_app_id % 50 = 7 and slot = 4;"
            "update attr_audit.app set last_outcome = 'rejected' where sdk_app_id % 7 = 3;"
            "update attr_audit.poll set outcome = 'rejected', error_code = 70009, "
            "error_info = 'The signature fails the check' where sdk_app_id % 7 = 3 and poll_id in "
            "(select max(poll_id) from attr_audit.poll group by region, sdk_app_id)"
        )
    return "uneven"


@pytest.mark.parametrize("width", [390, 1440])
def test_a_table_of_many_rows_hides_nothing_and_does_not_move_what_is_read(
    staged: Stage, uneven: str, open_page: OpenPage, width: int
) -> None:
    staged.shown.show(uneven)
    page = open_page(f"{PAGE}health", width=width)
    for view in ("names", "health", "attest?all=yes", "as-of?compare=2026-01-01T00:00:00Z"):
        page.goto(f"{PAGE}{view}")
        frame = ready(page).locator(".frame.tall:has(.fixed:not(.matrix))")
        table = frame.locator("table")
        assert frame.evaluate("each => each.scrollWidth - each.clientWidth") <= 0, view
        cells = frame.locator("tbody tr:not(.spacer) > :is(th, td)").all()
        assert len(cells) > 60
        for cell in cells[:60]:
            fits = cell.evaluate(
                "(e) => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight"
            )
            assert fits, (view, cell.inner_text())
        columns = table.evaluate(WIDTHS_OF_COLUMNS)
        frame.evaluate("each => { each.scrollTop = each.scrollHeight; }")
        count = int(table.get_attribute("aria-rowcount") or 0)
        frame.locator(f"tr[aria-rowindex='{count}']").wait_for(state="attached")
        assert table.evaluate(WIDTHS_OF_COLUMNS) == columns, view
        if view not in ("names", "health"):
            continue
        # Upwards first: of the rows above nothing is known then.
        for by in (-400, 400):
            found = page.evaluate(SCROLL, [frame.element_handle(), by])
            assert "error" not in found, (view, by, found)
            moved = Counter(round(each) for each in found["moved"])
            assert moved[by] > 100, (view, moved)
            # Less at the end only; a row may end within a pixel.
            other = {each for each in moved if min(abs(each), abs(each - by)) > 1}
            assert len(other) <= 1, (view, by, moved)
        assert found["seen"] == list(range(2, count + 1)), view


def test_all_rows_of_a_long_table_are_printed(
    large: Callable[[int], None], open_page: OpenPage
) -> None:
    large(200)
    page = ready(open_page(f"{PAGE}attest?all=yes"))
    rows = "document.querySelectorAll('tbody tr:not(.spacer)').length"
    shown = page.evaluate(rows)
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {rows}; }})")
    page.pdf()
    assert page.evaluate("window.printed") == 200 > shown
    page.wait_for_function(f"{rows} < 200")


def test_a_view_asks_for_each_answer_once_and_together_with_its_script(
    story: Stage, open_page: OpenPage
) -> None:
    page = open_page(f"{PAGE}health")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(PAGE)[2]))
    odd = quote("a~b*c d'é(+)")
    for view, answers in {
        "": 1,
        "names": 1,
        f"timeline?group={odd}&lanes=all": 2,
        f"changes?name={odd}&kind=renamed": 2,
        "changes?app=frankfurt/20900004&seq=6": 1,
        "as-of?compare=2026-01-01T00:00:00Z": 1,
        "attest": 2,
        "health": 1,
    }.items():
        asked.clear()
        page.goto(f"{PAGE}{view}")
        drawn(page)
        found = [each for each in asked if each.startswith("api/")
                 and not each.startswith(("api/changes/count", "api/verification"))]  # fmt: skip
        assert len(found) == len(set(found)) == answers, view
        if view != "attest":
            script = next(at for at, each in enumerate(asked) if "/views/" in each)
            assert asked.index(found[0]) <= script + len(found), view


@pytest.mark.parametrize("width", [360, 1920])
def test_nothing_sticks_out_sideways(story: Stage, open_page: OpenPage, width: int) -> None:
    page = open_page(PAGE, width=width)
    for view in VIEWS:
        page.goto(f"{PAGE}{view}")
        ready(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, view


def test_the_keyboard_alone_is_enough(story: Stage, open_page: OpenPage) -> None:
    page = ready(open_page(f"{PAGE}changes"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Timeline")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_selector(".timeline[data-drawn]")
    page.get_by_role("region", name=re.compile("Timeline")).focus()
    from_ = page.locator(".timeline").get_attribute("data-from")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".timeline").get_attribute("data-from") != from_
    page.keyboard.press("ArrowRight")
    mark = page.get_by_role("link", name=re.compile("Loyalty tier to Loyalty tier 2"))
    mark.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".change")).to_contain_text("Loyalty tier␣2")


def test_hostile_names_stay_inert_and_readable(staged: Stage, open_page: OpenPage) -> None:
    staged.shown.show("hostile")
    page = open_page(PAGE)
    for view in VIEWS:
        page.goto(f"{PAGE}{view}")
        ready(page)
        if view == "timeline":
            page.wait_for_selector(".timeline[data-drawn]")
        assert page.evaluate("window.owned === undefined"), view
        assert page.locator("#content script, #content img").count() == 0, view
        assert page.locator("#content i, #content b").count() == 0, view
        if view in ("names", "changes"):
            for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4], HOSTILE[8]):
                expect(page.locator("#content")).to_contain_text(str(name))
            for sign in ("U+202E", "(empty)", "␣", "U+200B", "U+0009", "U+001B"):
                expect(page.locator("#content")).to_contain_text(sign)
        if view not in ("", "health", "timeline"):
            expect(page.locator("#content")).to_contain_text("<i>group</i>")
    with page.expect_download() as waiting:
        page.goto(f"{PAGE}changes")
        ready(page).get_by_role("link", name="CSV").click()
    text = waiting.value.path().read_text(encoding="utf-8-sig")
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert "'=HYPERLINK(0)" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]


# When there is nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_database_says_what_to_do(staged: Stage, open_page: OpenPage, view: str) -> None:
    staged.shown.show("empty")
    page = ready(open_page(f"{PAGE}{view}"))
    expect(page.locator("[data-empty=no-targets]")).to_contain_text("im_attr_audit_conn_ids")


@pytest.mark.parametrize(
    ("database", "code", "said"),
    [("bare", "not_migrated", "im-attr-audit migrate"), (None, "database_down", "Postgres is up")],
)
def test_without_a_database_every_view_says_so(
    staged: Stage, open_page: OpenPage, database: str | None, code: str, said: str
) -> None:
    staged.shown.show(database)
    page = open_page(PAGE, quiet=False)
    for view in VIEWS:
        page.goto(f"{PAGE}{view}")
        ready(page)
        expect(page.locator(f"[data-trouble={code}]")).to_contain_text(said)
    status, body, _ = staged.airflow.get(f"{PAGE}api/now", token(staged, "viewer"))
    assert (status, json.loads(body)["error"]) == (503, code)
    assert b"127.0.0.1" not in body
    assert b"attr_audit_reader " not in body
