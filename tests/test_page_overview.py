"""What the overview says needs somebody: violations, unreviewed changes, seals, drift."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from im_attr_audit.page.models.as_of import AsOf
from im_attr_audit.page.models.names import Names, Now
from im_attr_audit.page.models.overview import Overview
from im_attr_audit.record.reviews import Answer, record_answer

from tests.conftest import AuditDb
from tests.test_declarations import declare
from tests.test_page_api import Connection, application, now, poll

DECLARED = "groups:\n  default:\n    names: {0: sex, 1: city}\n"


@pytest.fixture
def client(audit_db: AuditDb) -> TestClient:
    return TestClient(application(Connection(audit_db)))


def overview(client: TestClient) -> dict[str, Any]:
    """The answer, which is of its type to the letter."""
    said: dict[str, Any] = client.get("/api/overview").json()
    assert Overview.model_validate(said).model_dump(mode="json") == said
    return said


def review(db: AuditDb, number: int, seq: int, verdict: Any = "expected") -> None:
    at = datetime.now(UTC)
    record_answer(
        db.writer, "frankfurt", {number: [seq]}, Answer(verdict, "uma", "7", "OPS-1", None, at, "r")
    )


def test_violations_of_one_cause_are_together_with_their_apps_and_since_when(
    audit_db: AuditDb, client: TestClient
) -> None:
    declare(audit_db, DECLARED)
    for number in (1, 2):
        poll(audit_db, {0: "sex", 1: "City"}, 600 - number, sdk_app_id=number)
    poll(audit_db, {0: "sex", 1: "city", 2: "level"}, 500, sdk_app_id=3)
    poll(audit_db, {1: "city"}, 500, sdk_app_id=4)
    said = overview(client)
    found = [
        (each["violation"], each["slot"], each["declared_name"], each["actual_name"], each["apps"])
        for each in said["violations"]
    ]
    assert found == [
        ("different", 1, "city", "City", 2),
        ("missing", 0, "sex", None, 1),
        ("undeclared", 2, None, "level", 1),
    ]
    assert (said["violating_slots"], said["violation_causes"]) == (4, 3)
    assert said["violations"][0]["lookalike"] == "case"
    assert [app["sdk_app_id"] for app in said["violations"][0]["some"]] == [1, 2]
    assert all(app["since"] <= said["at"] for app in said["violations"][0]["some"])


def test_drift_is_not_reported_of_a_group_whose_names_are_declared(
    audit_db: AuditDb, client: TestClient
) -> None:
    exception = "    exceptions: [{sdk_app_id: 2, names: {1: town}, reason: local wording}]\n"
    for group in ("default", "other"):
        for number, name in ((1, "city"), (2, "town")):
            poll(audit_db, {0: "sex", 1: name}, 60, sdk_app_id=number + len(group),
                 app_group=group)  # fmt: skip
    assert [each["app_group"] for each in overview(client)["drift"]] == ["default", "other"]
    elsewhere = "  nowhere:\n    names: {0: sex}\n"
    declare(audit_db, DECLARED + exception.replace("2", "9") + elsewhere)
    said = overview(client)
    assert (said["declared_groups"], said["violations"]) == (["default"], [])
    assert [each["app_group"] for each in said["drift"]] == ["other"]


def test_an_app_whose_names_are_declared_and_that_is_not_seen_is_unknown_and_not_well(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex", 1: "city"}, 9000)
    declare(audit_db, DECLARED)
    said = overview(client)
    assert (said["violating_slots"], said["unknown_apps"], len(said["stale"])) == (0, 1, 1)


def test_a_change_waits_until_somebody_has_reviewed_it(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex", 1: "town"}, 900, sdk_app_id=1)
    poll(audit_db, {0: "gender", 1: "town"}, 600, sdk_app_id=1)
    poll(audit_db, {0: "gender", 1: "city"}, 60, sdk_app_id=1)
    said = overview(client)
    assert (said["is_reviewed"], said["unreviewed_changes"]) == (False, 2)
    assert [change["seq"] for change in said["unreviewed"]] == [4, 3]
    review(audit_db, 1, 3)
    said = overview(client)
    assert (said["is_reviewed"], [each["seq"] for each in said["unreviewed"]]) == (True, [4])
    review(audit_db, 1, 4, "not_expected")
    said = overview(client)
    assert (said["unreviewed_changes"], said["more_unreviewed"], said["unreviewed"]) == (
        0,
        False,
        [],
    )


def test_names_show_what_is_declared_and_which_names_are_not_so(
    audit_db: AuditDb, client: TestClient
) -> None:
    for number, name in ((1, "city"), (2, "City"), (3, "town")):
        poll(audit_db, {0: "sex", 1: name}, 60, sdk_app_id=number)
    exception = "    exceptions: [{sdk_app_id: 3, names: {1: town}, reason: local wording}]\n"
    declare(audit_db, "groups:\n  default:\n    names: {0: sex, 1: city, 7: level}\n" + exception)
    said = client.get("/api/names").json()
    assert Names.model_validate(said).model_dump(mode="json") == said
    [group] = said["groups"]
    assert group["is_declared"] is True
    whole, parted, missing = group["slots"]
    assert whole["declared"] == [{"name": "sex", "apps": 3}]
    assert parted["declared"] == [{"name": "city", "apps": 2}, {"name": "town", "apps": 1}]
    wrong = {each["name"]: each["violations"] for each in [parted["usual"], *parted["others"]]}
    assert wrong == {"city": 0, "City": 1, "town": 0}
    assert (missing["slot"], missing["usual"]["name"], missing["usual"]["violations"]) == (
        7,
        None,
        3,
    )
    now = client.get("/api/now?slot=1").json()
    assert Now.model_validate(now).model_dump(mode="json") == now
    [cell] = now["violations"]
    assert (cell["sdk_app_id"], cell["violation"], cell["declared_name"]) == (
        2,
        "different",
        "city",
    )


def test_as_of_marks_what_was_certainly_not_as_declared_then(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "sex", 1: "city"}, 900, sdk_app_id=1)
    poll(audit_db, {0: "sex", 1: "town"}, 900, sdk_app_id=2)
    poll(audit_db, {0: "sex", 1: "town"}, 900, sdk_app_id=3, app_group="other")
    before = now(audit_db)
    declare(audit_db, "groups:\n  default:\n    names: {0: sex, 1: city, 7: level}\n")
    after = now(audit_db)
    poll(audit_db, {0: "sex", 1: "town"}, 0, sdk_app_id=2)

    asked = {"at": after.isoformat(), "compare": before.isoformat()}
    said = client.get("/api/as-of", params=asked).json()
    assert AsOf.model_validate(said).model_dump(mode="json") == said
    then, earlier = said["marks"]
    assert (earlier["declared_groups"], earlier["violations"]) == ([], [])
    assert then["declared_groups"] == ["default"]
    # Before it was declared it drifted; of two names with as many apps the first one is usual.
    drifted = {"region": "frankfurt", "sdk_app_id": 2, "slot": 1}
    assert (then["drift"], earlier["drift"]) == ([], [drifted])
    # The names of app 1 are not certain then: it had no good poll since.
    found = [(each["sdk_app_id"], each["slot"], each["violation"], each["declared_name"])
             for each in then["violations"]]  # fmt: skip
    assert found == [(2, 1, "different", "city"), (2, 7, "missing", "level")]
    assert [slot["slot"] for slot in said["groups"][0]["slots"]] == [0, 1, 7]


def test_as_of_judges_an_app_by_the_group_that_it_was_in_then(
    audit_db: AuditDb, client: TestClient
) -> None:
    # Polls that take no time: each ends before the next begins, so the names between are certain.
    brief: dict[str, Any] = {"sdk_app_id": 1, "took": 0.0, "apart": 0.0}
    names = {0: "sex", 1: "town"}
    declare(audit_db, DECLARED)
    poll(audit_db, names, 0, app_group="other", **brief)
    in_other = now(audit_db)
    poll(audit_db, names, 0, app_group="other", **brief)
    poll(audit_db, names, 0, **brief)
    in_default = now(audit_db)
    poll(audit_db, names, 0, **brief)

    said = client.get("/api/as-of", params={"at": in_other.isoformat()}).json()
    assert [each["app_group"] for each in said["groups"]] == ["other"]
    assert said["marks"][0]["violations"] == []
    asked = {"at": in_default.isoformat(), "compare": in_other.isoformat()}
    said = client.get("/api/as-of", params=asked).json()
    assert [each["slot"] for each in said["marks"][0]["violations"]] == [1]
    [group] = said["groups"]
    assert (group["app_group"], group["apps"][0]["compared_group"]) == ("default", "other")
