"""The page's application by itself, and what it costs users who do not open it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from im_attr_audit import settings
from im_attr_audit.errors import Rejected
from im_attr_audit.evidence.canonical import run_leaf
from im_attr_audit.page import checks, filters, shell
from im_attr_audit.page.app import make_app
from im_attr_audit.page.models import Problem
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.routes import attest
from im_attr_audit.record.notifications import record_gaps
from im_attr_audit.record.store import record_polls
from sqlalchemy import text

from launch.network import free_port
from tests.browser.story import HOSTILE
from tests.conftest import READER, AuditDb, fresh_audit_db
from tests.history import NamesLike, polled

ROOT = Path(__file__).parents[1]


class Connection:
    """As much of an Airflow Connection as is read."""

    def __init__(self, db: AuditDb, role: str = READER) -> None:
        self.host: str | None = "127.0.0.1"
        self.port: int | None = db.server.port
        self.login: str | None = role
        self.password: str | None = db.server.password(role)
        self.schema: str | None = db.name
        self.extra_dejson: dict[str, object] = {}


def let_in() -> None:
    """A guard that lets everybody in."""


def application(connection: Connection | None, *, seconds: float = 0.0) -> FastAPI:
    reader = Reader(lambda: connection)
    return make_app(reader, let_in, lambda: True, checks.HealthCheck(reader, seconds=seconds))


@pytest.fixture
def client(audit_db: AuditDb) -> Iterator[TestClient]:
    with TestClient(application(Connection(audit_db))) as made:
        yield made


def now(db: AuditDb) -> datetime:
    with db.reader.connect() as connection:
        at = connection.execute(text("select now()")).scalar_one()
    assert isinstance(at, datetime)
    return at


def poll(db: AuditDb, names: NamesLike, ago: float, **more: Any) -> None:
    at = now(db) - timedelta(seconds=ago)
    made = polled(names, names, at=at, **more)
    record_polls(db.writer, [made], dag_run_id=f"run-{ago}", try_number=1)


def write_seal(db: AuditDb, leaf: str, *, n: int = 0) -> None:
    """A row of the seals' copy, as the sealer's login can write one; nothing checks its texts."""
    with db.owner.begin() as connection:
        connection.execute(
            text(
                "insert into attr_audit.seal (n, leaf, note, last_poll_id, last_change_id, "
                "last_planned_id, marks) values (:n, :leaf, 'note', 1000, 1000, 0, '')"
            ),
            {"n": n, "leaf": leaf},
        )


def leaf_closed(at: datetime, *, n: int = 0) -> str:
    return run_leaf(n, int(at.timestamp() * 1e6), 0, "", 0, "", 0, "", []).decode()


# The word for a monitor outside -----------------------------------------------------


def test_the_health_word_is_ok_while_every_app_was_seen(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok")


def test_the_health_word_reports_a_stale_app(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "sex"}, 60)
    poll(audit_db, {0: "sex"}, 4000, sdk_app_id=2)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "stale")


def test_an_app_that_was_never_seen_counts_too(audit_db: AuditDb, client: TestClient) -> None:
    for ago in (4000, 30):
        refused = polled(
            at=now(audit_db) - timedelta(seconds=ago),
            failure=Rejected("no", http_status=200, error_code=70009),
        )
        record_polls(audit_db.writer, [refused], dag_run_id=f"r{ago}", try_number=1)
    assert client.get("/healthz").text == "stale"


@pytest.mark.parametrize(("region", "number"), [(None, None), ("frankfurt", None), (None, 9)])
def test_a_connection_that_never_named_its_app_counts_too(
    audit_db: AuditDb, client: TestClient, region: str | None, number: int | None
) -> None:
    poll(audit_db, {0: "sex"}, 60)

    def misconfigured(ago: float) -> None:
        with audit_db.owner.begin() as connection:
            connection.execute(
                text(
                    "insert into attr_audit.poll (conn_id, region, sdk_app_id, dag_run_id, "
                    "requested_at, outcome, error_info) values ('im_nowhere', :region, :number, "
                    "'run', now() - :ago, 'misconfigured', 'no app')"
                ),
                {"ago": timedelta(seconds=ago), "region": region, "number": number},
            )

    misconfigured(3000)
    misconfigured(2000)
    assert client.get("/healthz").text == "ok"
    misconfigured(4000)
    misconfigured(10)
    assert client.get("/healthz").text == "stale"
    for view in ("setup", "overview", "health"):
        listed = client.get(f"/api/{view}").json()["misconfigured"]
        assert [(each["conn_id"], each["what"]) for each in listed] == [("im_nowhere", "no app")]
    write_seal(audit_db, leaf_closed(now(audit_db)))
    [shown] = client.get("/api/run?run=run").json()["polls"]
    assert not shown["is_sealed"], "no proof: a proof is asked for by region and SDKAppID"
    poll(audit_db, {0: "sex"}, 1, sdk_app_id=9, conn_id="im_nowhere")
    assert client.get("/healthz").text == "ok"


def test_the_health_word_says_when_there_is_nothing_to_watch(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "empty")


def test_the_health_word_says_when_the_schema_or_the_database_is_missing(
    audit_db: AuditDb,
) -> None:
    bare, gone = Connection(audit_db), Connection(audit_db)
    bare.schema, bare.login, bare.password = "postgres", "postgres", None
    bare.password = audit_db.server.password("postgres")
    gone.port = free_port()
    odd = Connection(audit_db)
    odd.extra_dejson = {"sqlalchemy_query": {"no_such_option": "1"}}
    for connection, word in ((bare, "unmigrated"), (gone, "down"), (odd, "down"), (None, "down")):
        answer = TestClient(application(connection)).get("/healthz")
        assert (answer.status_code, answer.text) == (503, word)


def test_the_health_word_is_looked_up_at_most_every_ten_seconds(audit_db: AuditDb) -> None:
    at = 100.0
    check = checks.HealthCheck(Reader(lambda: Connection(audit_db)), clock=lambda: at)
    assert check.word() == "empty"
    poll(audit_db, {0: "sex"}, 60)
    at = 109.9
    assert check.word() == "empty"
    at = 110.0
    assert check.word() == "ok"


def test_the_limit_can_be_set(
    audit_db: AuditDb, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll(audit_db, {0: "sex"}, 400)
    assert client.get("/healthz").text == "ok"
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", "300")
    assert client.get("/healthz").text == "stale"
    assert client.get("/api/now").json()["groups"][0]["apps"][0]["stale"] is True


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "1e99"])
def test_a_bad_limit_is_reported_by_name_and_never_replaced(
    audit_db: AuditDb, client: TestClient, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    poll(audit_db, {0: "sex"}, 10)
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", given)
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (
        503,
        "misconfigured",
    )
    answer = client.get("/api/now")
    assert answer.status_code == 503
    assert answer.json()["what"].startswith("IM_ATTR_AUDIT_STALE_AFTER is")


@pytest.mark.parametrize(
    ("given", "age", "word"), [("30", 25, "ok"), ("30", 45, "stale"), ("5000000", 2e6, "ok")]
)
def test_the_limit_is_the_alerts_limit_and_not_clipped(
    audit_db: AuditDb,
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    age: float,
    word: str,
) -> None:
    poll(audit_db, {0: "sex"}, age)
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", given)
    assert client.get("/healthz").text == word
    [app] = client.get("/api/health").json()["apps"]
    assert app["stale"] is (word == "stale")
    record_gaps(audit_db.writer, dag_run_id="run", stale_after=settings.stale_after())
    with audit_db.reader.connect() as connection:
        alerts = connection.execute(
            text("select count(*) from attr_audit.notification where kind = 'stale'")
        )
        assert alerts.scalar_one() == (word == "stale")


# Answers ---------------------------------------------------------------------------------------


def test_every_route_but_the_health_word_is_behind_the_guard() -> None:
    def guard() -> None: ...

    made = make_app(Reader(lambda: None), guard, lambda: True)
    open_routes = [
        route.path
        for route in made.routes
        if isinstance(route, APIRoute)
        and guard not in [each.call for each in route.dependant.dependencies]
    ]
    assert open_routes == ["/healthz"]
    assert {method for r in made.routes if isinstance(r, APIRoute) for method in r.methods} == {
        "GET"
    }


IMPOSSIBLE = """
changes?name=%00
changes?region=a%00
changes?slot=1000
changes?slot=x
changes?kind=other
changes?since=2026-01-01T00:00:00
changes?since=soon
changes?before=1
changes?before=9.9999999999999999999
changes?limit=0
changes?app=frankfurt
changes?app=a/99999999999999999999
changes?run=%00
changes?region=seoul&app=frankfurt/1
timeline?until=2020-01-01T00:00:00Z&since=2021-01-01T00:00:00Z
change?region=a&sdk_app_id=1&seq=0
as-of?at=never
name-in-period?name=
name-in-period?name=a&since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z
changes/download?format=xlsx
"""

#: Addresses whose answer would be about something else than what was meant.
MISSPELT = """
attest?from_at=2026-01-01T00:00:00Z&to_at=2026-02-01T00:00:00Z
attest/download?app_group=shop
as-of?on=2026-01-01T00:00:00Z
as-of/download?app=frankfurt/1
changes?sicne=2026-01-01T00:00:00Z
changes/count?sdk_app_id=1
changes/download?from=2026-01-01T00:00:00Z
timeline?name=sex
names?slot=2
now?app=frankfurt/1
search?name=sex&region=seoul
name-in-period?name=sex&region=seoul
run?run=manual&region=seoul
change?region=a&sdk_app_id=1&seq=1&slot=1
proof?region=a&sdk_app_id=1&seq=1&slot=1
verification?region=seoul
overview?group=shop
health?group=shop
setup?group=shop
heads/download?region=seoul
checkpoint/download?n=1
"""

ODD = """
changes?name=%25_%5C%27
changes?region=%27%3B--
changes?since=0001-01-01T00:00:00Z
changes?until=9999-12-31T23:59:59Z
as-of?at=0001-01-01T00:00:00%2B14:00
as-of?at=9999-12-31T23:59:59-12:00
timeline?since=0001-01-02T00:00:00Z
timeline?until=9999-12-31T00:00:00Z
timeline?until=0001-01-02T00:00:00Z
timeline?since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z
changes?before=-1.1
changes?slot=&name=
"""


def test_what_cannot_be_asked_is_refused_with_a_reason(client: TestClient) -> None:
    for asked in (*IMPOSSIBLE.split(), *MISSPELT.split()):
        answer = client.get(f"/api/{asked}")
        assert answer.status_code == 422, (asked, answer.text)
        assert answer.json()["detail"]


def test_a_timeline_shows_a_month_or_all_of_a_younger_record(
    audit_db: AuditDb, client: TestClient
) -> None:
    def shown(**asked: str) -> tuple[datetime, datetime]:
        answer = client.get("/api/timeline", params=asked).json()
        return (
            datetime.fromisoformat(answer["window_from"]),
            datetime.fromisoformat(answer["window_to"]),
        )

    month = timedelta(days=30)
    begin, end = shown()
    assert end - begin == month
    poll(audit_db, {0: "sex"}, 3600, region="seoul")
    first = now(audit_db) - timedelta(hours=1)
    begin, end = shown()
    assert timedelta() < first - begin < timedelta(minutes=5)
    begin, end = shown(until=(first - timedelta(days=1)).isoformat())
    assert end - begin == month
    begin, end = shown(until=(first + timedelta(days=40)).isoformat())
    assert end - begin == month


def test_odd_questions_get_an_answer(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "sex"}, 60)
    for asked in ODD.split():
        answer = client.get(f"/api/{asked}")
        assert answer.status_code in (200, 422), (asked, answer.text)


def test_a_part_of_a_name_is_found_as_it_is_written(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "100%", 1: "a_b", 2: "aXb", 3: "back\\slash"}, 60)
    for part, found in (("%", ["100%"]), ("A_B", ["a_b"]), ("\\", ["back\\slash"])):
        changes = client.get("/api/changes", params={"name": part}).json()["changes"]
        assert [change["new_name"] for change in changes] == found


def test_a_slot_has_a_usual_name_and_every_other_one_with_its_apps(
    audit_db: AuditDb, client: TestClient
) -> None:
    for number, names in enumerate(({0: "sex", 1: "city"}, {0: "sex", 1: "City"}, {0: "sex"}), 1):
        poll(audit_db, names, 600 - number, sdk_app_id=number)
    poll(audit_db, {0: "sex", 1: "city"}, 500, sdk_app_id=4)
    poll(audit_db, {0: "sex"}, 60, sdk_app_id=4)
    refused = polled(at=now(audit_db), sdk_app_id=5, failure=Rejected("no", http_status=200))
    record_polls(audit_db.writer, [refused], dag_run_id="r", try_number=1)
    [group] = client.get("/api/names").json()["groups"]
    assert (group["apps"], group["known"]) == (5, 4)
    whole, parted = group["slots"]
    assert (whole["usual"]["name"], whole["usual"]["apps"], whole["others"]) == ("sex", 4, [])
    assert whole["newest_change_at"] is None, "a baseline is not a change"
    said = {each["name"]: each["apps"] for each in [parted["usual"], *parted["others"]]}
    assert said == {None: 2, "City": 1, "city": 1}
    removal = client.get("/api/changes?kind=removed").json()["changes"][0]
    assert parted["newest_change_at"] == removal["seen_at"]


def test_a_name_that_as_many_apps_have_as_have_none_is_the_usual_one(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    poll(audit_db, {}, 60, sdk_app_id=2)
    [slot] = client.get("/api/names").json()["groups"][0]["slots"]
    assert (slot["usual"]["name"], slot["others"][0]["name"]) == ("sex", None)


def test_the_overview_puts_apps_with_one_cause_together(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    for number in (2, 3):
        poll(audit_db, {0: "sex"}, 9000 + number, sdk_app_id=number, app_group=f"g{number}")
        refused = polled(
            at=now(audit_db) - timedelta(seconds=50), sdk_app_id=number, app_group=f"g{number}",
            failure=Rejected("no", http_status=200, error_code=70009),
        )  # fmt: skip
        record_polls(audit_db.writer, [refused], dag_run_id="r", try_number=1)
    said = client.get("/api/overview").json()
    [cause] = said["stale"]
    assert (cause["apps"], cause["app_groups"], cause["error_code"]) == (2, ["g2", "g3"], 70009)
    assert [app["sdk_app_id"] for app in cause["some"]] == [3, 2], "the longest not seen first"
    assert "Check the connection's password" in cause["advice"]
    assert (said["failing"], said["drift"], said["misconfigured"]) == ([], [], [])


def test_a_change_says_what_it_looks_like_and_where_the_chain_ends(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "city"}, 600)
    poll(audit_db, {0: "City"}, 60)
    first = client.get("/api/change?region=frankfurt&sdk_app_id=1400000001&seq=1").json()
    assert (first["lookalike"], first["verdict"], first["head_seq"]) == (None, None, 2)
    listed = client.get("/api/changes").json()["changes"]
    assert [each["lookalike"] for each in listed] == ["case", None]
    assert client.get("/api/changes/count?kind=renamed").json() == {
        "changes": 1,
        "baselines": 0,
        "more": False,
    }
    assert client.get("/api/changes/count").json() == {"changes": 2, "baselines": 1, "more": False}


def test_a_timeline_has_only_the_apps_that_changed_unless_asked(
    audit_db: AuditDb, client: TestClient
) -> None:
    for number in (1, 2):
        poll(audit_db, {0: "city", 1: "sex"}, 600, sdk_app_id=number)
    poll(audit_db, {0: "town", 1: "sex"}, 60, sdk_app_id=2)

    def apps(**asked: str) -> list[int]:
        answer = client.get("/api/timeline", params=asked).json()
        return [app["sdk_app_id"] for app in answer["apps"]]

    assert apps() == apps(slot="0") == [2]
    assert apps(lanes="all") == [1, 2]
    assert apps(slot="1") == []
    assert apps(slot="1", lanes="all") == [1, 2]
    assert apps(app="frankfurt/1") == [1], "an app that is asked for is shown"


def test_a_period_is_attested_by_the_function_of_the_record(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "city"}, 600)
    poll(audit_db, {0: "town"}, 60)
    at = now(audit_db)
    asked = {
        "since": (at - timedelta(seconds=300)).isoformat(),
        "until": (at - timedelta(seconds=30)).isoformat(),
        "group": "default",
    }
    [app] = client.get("/api/attest", params=asked).json()["apps"]
    assert (app["verdict"], app["changes"], app["head_seq"]) == ("changed", 1, 2)
    month = client.get("/api/attest").json()
    begin, end = (datetime.fromisoformat(month[key]) for key in ("since", "until"))
    assert (begin.day, end.day, (end - timedelta(days=1)).month) == (1, 1, begin.month)
    assert client.get("/api/attest", params={**asked, "group": "other"}).json()["apps"] == []
    turned = {"since": asked["until"], "until": asked["since"]}
    assert client.get("/api/attest", params=turned).status_code == 422


def test_every_answer_has_the_groups_in_the_order_of_their_numbers(
    audit_db: AuditDb, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, group in enumerate(("shop 10", "shop 9"), 1):
        poll(audit_db, {0: "city"}, 600, sdk_app_id=number, app_group=group)
        poll(audit_db, {0: "town"}, 60, sdk_app_id=number, app_group=group)
    asked = {
        "names": "groups", "now": "groups", "as-of": "groups", "setup": "apps", "health": "apps",
        "timeline?lanes=all": "apps", "attest?since=2000-01-01T00:00:00Z": "apps",
        "name-in-period?name=city": "apps", "search?name=town": "uses",
    }  # fmt: skip
    for path, listed in asked.items():
        said = client.get(f"/api/{path}").json()[listed]
        assert [each["app_group"] for each in said] == ["shop 9", "shop 10"], path
    spans = client.get("/api/search?name=t").json()["spans"]
    assert [(span["name"], span["app_group"]) for span in spans] == [
        ("town", "shop 9"), ("town", "shop 10"), ("city", "shop 9"), ("city", "shop 10"),
    ]  # fmt: skip
    monkeypatch.setattr(attest, "MANY_APPS", 1)
    assert client.get("/api/attest?brief=yes").json()["group"] == "shop 9"


def test_a_brief_answer_attests_the_first_group_of_many_apps(
    audit_db: AuditDb, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, group in enumerate("bca", 1):
        poll(audit_db, {0: "city"}, 600 + number, sdk_app_id=number, app_group=group)
    asked = {"since": (now(audit_db) - timedelta(seconds=300)).isoformat(), "brief": "yes"}
    asked["until"] = now(audit_db).isoformat()

    def groups(**more: str) -> tuple[str | None, list[str]]:
        said = client.get("/api/attest", params={**asked, **more}).json()
        return said["group"], [app["app_group"] for app in said["apps"]]

    assert groups() == (None, ["a", "b", "c"])
    monkeypatch.setattr(attest, "MANY_APPS", 2)
    assert groups() == ("a", ["a"])
    assert groups(group="b") == ("b", ["b"])
    assert groups(brief="no") == (None, ["a", "b", "c"])


def test_the_page_says_what_is_sealed(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "city"}, 600)
    one = "/api/change?region=frankfurt&sdk_app_id=1400000001&seq=1"
    assert client.get("/api/overview").json()["newest_seal"] is None
    assert client.get(one).json()["seal"] is None
    at = now(audit_db)
    write_seal(audit_db, leaf_closed(at))
    assert client.get("/api/overview").json()["newest_seal"]["n"] == 0
    assert client.get(one).json()["seal"]["n"] == 0

    def seal_of_period(until: datetime) -> Any:
        asked = {"since": (at - timedelta(days=1)).isoformat(), "until": until.isoformat()}
        return client.get("/api/attest", params=asked).json()["seal"]

    assert seal_of_period(at - timedelta(seconds=1))["n"] == 0
    assert seal_of_period(at + timedelta(seconds=1)) is None


NOT_LEAVES = [
    "x",
    "",
    "[]",
    '["run-v1",5]',
    '["run-v1",5,"a time"]',
    '["run-v1",5,1e999999,0,"",0,"",0,"",[]]',
    '["run-v1",5,NaN,0,"",0,"",0,"",[]]',
    '["run-v1",5,9999999999999999999999,0,"",0,"",0,"",[]]'[:-1],
    '["run-v1",5,999999999999999999,0,"",0,"",0,"",[',
    '["run-v1",6,999999999999999999,0,"",0,"",0,"",[]]',
    '["run-v1","\\u0000",999999999999999999]',
    "[" * 100_000,
]


@pytest.mark.parametrize("leaf", NOT_LEAVES)
def test_a_row_that_is_not_of_a_seal_is_reported_and_not_taken_for_one(
    audit_db: AuditDb, client: TestClient, leaf: str
) -> None:
    poll(audit_db, {0: "city"}, 600)
    until = now(audit_db)
    write_seal(audit_db, leaf, n=5)
    asked = {"since": (until - timedelta(days=1)).isoformat(), "until": until.isoformat()}
    one = "/api/change?region=frankfurt&sdk_app_id=1400000001&seq=1"

    def read() -> tuple[list[Any], list[int]]:
        said = [client.get("/api/attest", params=asked).json(), client.get("/api/health").json()]
        seals = [each["seal"] for each in said]
        seals += [client.get("/api/overview").json()["newest_seal"], client.get(one).json()["seal"]]
        return (
            [each and each["n"] for each in seals],
            [seal["n"] for each in said for seal in each["unreadable_seals"]],
        )

    assert read() == ([None] * 4, [5, 5])
    write_seal(audit_db, leaf_closed(until + timedelta(seconds=1), n=6), n=6)
    assert read() == ([6] * 4, [5]), "Health looks no further back than the newest seal"
    assert client.get("/api/attest/download", params=asked).status_code == 200


def test_a_seal_behind_many_unreadable_rows_is_found(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "city"}, 600)
    until = now(audit_db)
    for n in range(50):
        write_seal(audit_db, "x", n=n)
    write_seal(audit_db, leaf_closed(until + timedelta(seconds=1), n=50), n=50)
    asked = {"since": (until - timedelta(days=1)).isoformat(), "until": until.isoformat()}
    said = client.get("/api/attest", params=asked).json()
    assert (said["seal"]["n"], len(said["unreadable_seals"])) == (50, 20)


def test_a_stored_declaration_that_is_not_one_is_reported(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "city"}, 600)
    with audit_db.writer.begin() as connection:
        connection.execute(
            text(
                "insert into attr_audit.declaration (dag_run_id, source, document) values ('r', "
                """'x', '{"groups": {"a": {"names": {}, "other_slots": 5, "exceptions": []}}}')"""
            )
        )
    answer = client.get("/api/as-of", params={"at": now(audit_db).isoformat()})
    assert answer.status_code == 200
    assert [each["is_declaration_unreadable"] for each in answer.json()["marks"]] == [True]


def test_a_search_by_name_gives_its_present_and_its_past(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "city", 1: "100%"}, 600)
    poll(audit_db, {0: "town", 1: "100%"}, 60)
    said = client.get("/api/search", params={"name": "CIT"}).json()
    [use], [span] = said["uses"], said["spans"]
    assert (use["apps"], use["apps_ever"], use["gone_by"]) == (0, 1, span["valid_to"])
    assert span["certain_to"] < span["valid_to"]
    [found] = client.get("/api/search", params={"name": "%"}).json()["uses"]
    assert (found["name"], found["apps"], found["gone_by"]) == ("100%", 1, None)
    assert client.get("/api/search", params={"name": ""}).status_code == 422


# The last but one is a full-width sign, which some spreadsheets take for the plain one.
FORMULAS = ("=1+1", "+1", "-1", "@a", "\ta", "\ra", " =1", "'quoted", 'a"b,c', "\uff1d1", "plain")


def test_a_csv_is_safe_in_a_spreadsheet_and_whole(audit_db: AuditDb, client: TestClient) -> None:
    names = dict(enumerate(FORMULAS))
    poll(audit_db, names, 60)
    answer = client.get("/api/changes/download")
    assert (
        'filename="attribute-name-changes-for-reading.csv"' in answer.headers["content-disposition"]
    )
    assert "not for verification" in answer.headers["x-im-attr-audit-note"]
    rows = list(csv.reader(io.StringIO(answer.text.lstrip("\ufeff"), newline="")))
    assert rows[0][0] == "seen_at", "valid CSV from the first line"
    written = {int(row[6]): row[9] for row in rows[1:]}
    for slot, name in names.items():
        assert written[slot] in (name, f"'{name}")
    for name in written.values():
        assert name.lstrip()[:1] not in ("=", "+", "-", "@", "\uff1d"), name
        assert name[:1] not in ("\t", "\r", "\n")


def test_a_long_download_is_streamed_whole(audit_db: AuditDb, client: TestClient) -> None:
    for ago in range(40, 0, -1):
        poll(audit_db, {slot: f"name {slot} {ago}" for slot in range(40)}, ago * 5)
    kept = client.get("/api/changes/download?format=json").json()["changes"]
    assert len(kept) == 1600
    assert [change["seq"] for change in kept] == list(range(1600, 0, -1))
    assert client.get("/api/changes/download").text.count("\n") == 1601


def test_hostile_names_come_as_they_are(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, HOSTILE, 60)
    answer = client.get("/api/now")
    assert answer.headers["content-type"] == "application/json"
    (group,) = answer.json()["groups"]
    assert {slot["slot"]: slot["cells"][0]["name"] for slot in group["slots"]} == HOSTILE


def test_an_altered_row_is_reported_when_the_chains_are_checked_again(
    audit_db: AuditDb, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll(audit_db, {0: "sex", 1: "city"}, 60)
    assert client.get("/api/verification").json()["ok"] is True
    with audit_db.server.connect(audit_db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.change set new_name = 'town' where seq = 2")
    assert client.get("/api/verification").json()["ok"] is True, "the last result is kept a while"
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 6)
    again = client.get("/api/verification?again=true").json()
    assert again["ok"] is False
    assert [broken["first_bad_seq"] for broken in again["broken"]] == [2]


def test_a_check_of_the_chains_is_never_shown_for_another_database(
    audit_db: AuditDb, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll(audit_db, {0: "sex"}, 60)
    connection = Connection(audit_db)
    with (
        fresh_audit_db(audit_db.server, template) as another,
        TestClient(application(connection)) as client,
    ):
        assert client.get("/api/verification").json()["chains"] == 1
        connection.schema = another.name
        clock = time.monotonic
        # Longer than a connection is trusted, shorter than a result is kept.
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 60)
        assert client.get("/api/verification").json()["chains"] == 0


def test_the_page_can_only_read_even_as_the_owner(audit_db: AuditDb) -> None:
    reader = Reader(lambda: Connection(audit_db, "attr_audit_writer"))
    with pytest.raises(Exception, match="read-only"), reader.transaction() as connection:
        connection.execute(text("update attr_audit.app set api = 'x'"))


def test_a_question_that_takes_too_long_is_given_up(audit_db: AuditDb) -> None:
    made = application(Connection(audit_db))

    @made.get("/slow")
    def slow() -> None:
        with made.state.reader.transaction(seconds=1) as connection:
            connection.execute(text("select pg_sleep(30)"))

    made.state.reader = Reader(lambda: Connection(audit_db))
    answer = TestClient(made).get("/slow")
    assert (answer.status_code, answer.json()["error"]) == (503, "timeout")


def test_an_error_shows_neither_host_nor_user_nor_password(audit_db: AuditDb) -> None:
    connection = Connection(audit_db)
    connection.password = "not-the-password"
    answer = TestClient(application(connection)).get("/api/now")
    assert (answer.status_code, Problem(**answer.json()).error) == (503, "database_down")
    for hidden in ("not-the-password", "127.0.0.1", str(connection.port), connection.login or ""):
        assert hidden not in answer.text.replace("role attr_audit_reader", "")


def test_a_connection_that_was_fixed_counts_at_once(audit_db: AuditDb) -> None:
    connection = Connection(audit_db)
    right, connection.password = connection.password, "wrong"
    client = TestClient(application(connection))
    assert client.get("/api/now").status_code == 503
    connection.password = right
    assert client.get("/api/now").status_code == 200


def test_files_outside_the_static_folder_cannot_be_had(client: TestClient) -> None:
    version = shell.static_version()
    assert client.get(f"/static/{version}/page.js").status_code == 200
    for path in ("../app.py", "..%2Fapp.py", "%2e%2e/app.py", "/etc/passwd", "vendor"):
        assert client.get(f"/static/{version}/{path}").status_code == 404


def test_no_page_has_script_or_style_in_line(client: TestClient) -> None:
    for view in shell.VIEWS:
        page = client.get("/" if view == shell.FIRST_VIEW else f"/{view}")
        assert page.status_code == 200
        assert "<script>" not in page.text
        assert "style=" not in page.text
        assert " on" not in page.text.replace(" one", "").replace(" only", "")
        assert "http" not in page.text


# What it costs others --------------------------------------------------------------------------

LOAD_AS_A_TASK_DOES = """
import json, sys
import airflow.sdk.execution_time.task_runner
import airflow.sdk.plugins_manager as plugins
before = set(sys.modules)
plugins.integrate_macros_plugins()
loaded = plugins._get_plugins()[0]
print(json.dumps([sorted(set(sys.modules) - before), [plugin.name for plugin in loaded]]))
"""


def test_a_task_process_that_loads_the_plugin_loads_nothing_of_the_page(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AS_A_TASK_DOES],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    new, plugins = json.loads(done.stdout.splitlines()[-1])
    assert "im_attr_audit" in plugins
    assert "im_attr_audit_plugin" in new
    heavy = ("fastapi", "starlette", "pydantic", "sqlalchemy", "airflow.api_fastapi", "flask")
    assert [name for name in new if name.startswith((*heavy, "im_attr_audit.page"))] == []


def test_airflow_starts_although_the_page_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "im_attr_audit.page.app", None)
    monkeypatch.syspath_prepend(str(ROOT / "plugins"))
    from im_attr_audit_plugin import ImAttrAuditPlugin

    assert ImAttrAuditPlugin().fastapi_apps == []


def test_times_are_compared_in_one_zone() -> None:
    assert filters.page_key(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 7) == "1000000.7"
    assert filters.change_of_key("1000000.7") == (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 7)
