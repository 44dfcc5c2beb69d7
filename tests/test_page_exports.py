"""What the page exports: As of, Attest and the heads, and the newest seal in Health."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from im_attr_audit.record.checks.heads import read_heads
from sqlalchemy import text

from tests.conftest import AuditDb
from tests.sealing import NAMES, sealing_of
from tests.test_declarations import declare
from tests.test_page_api import FORMULAS, Connection, application, now, poll, write_seal


@pytest.fixture
def client(audit_db: AuditDb) -> TestClient:
    return TestClient(application(Connection(audit_db)))


def rows(answer: Any) -> list[dict[str, str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    text = answer.content.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_as_of_is_exported_with_a_row_for_each_app_slot_and_instant(
    audit_db: AuditDb, client: TestClient
) -> None:
    poll(audit_db, {0: "", 1: "=1"}, 900, sdk_app_id=1)
    poll(audit_db, {0: "", 1: "=1"}, 600, sdk_app_id=1)
    poll(audit_db, {1: "town"}, 60, sdk_app_id=1)
    poll(audit_db, {1: "town"}, 60, sdk_app_id=2, app_group="other")
    at = now(audit_db)
    asked = {
        "at": (at - timedelta(seconds=700)).isoformat(),
        "compare": (at - timedelta(seconds=1)).isoformat(),
        "group": "default",
    }
    found = rows(client.get("/api/as-of/download", params=asked))
    assert [tuple(row.values())[4:10] for row in found] == [
        ("0", "True", "", "", "True", "True"),
        ("0", "False", "", "", "False", "True"),
        ("1", "True", "'=1", "", "True", "True"),
        ("1", "True", "town", "", "False", "True"),
    ]
    everything = rows(client.get("/api/as-of/download", params={**asked, "group": ""}))
    unknown = next(row for row in everything if row["app_group"] == "other")
    assert (unknown["known"], unknown["has_name"]) == ("False", "")


def test_the_export_of_an_instant_has_the_marks_and_the_groups_of_then(
    audit_db: AuditDb, client: TestClient
) -> None:
    brief: dict[str, Any] = {"took": 0.0, "apart": 0.0}
    for number, name in ((1, "city"), (2, "city"), (3, "town")):
        poll(audit_db, {1: name}, 0, sdk_app_id=number, app_group="old", **brief)
    first = now(audit_db)
    declare(audit_db, "groups:\n  new:\n    names: {1: city}\n")
    for _ in range(2):
        second = now(audit_db)
        for number, name in ((1, "city"), (2, "city"), (3, "town")):
            poll(audit_db, {1: name}, 0, sdk_app_id=number, app_group="new", **brief)
    asked = {"at": first.isoformat(), "compare": second.isoformat()}
    found = {
        (row["at"] == asked["at"], row["sdk_app_id"]): (
            row["app_group"], row["drift"], row["is_declared"], row["violation"],
            row["declared_name"],
        )
        for row in rows(client.get("/api/as-of/download", params=asked))
    }  # fmt: skip
    assert (found[True, "1"], found[True, "3"]) == (
        ("old", "False", "False", "", ""),
        ("old", "True", "False", "", ""),
    )
    assert (found[False, "1"], found[False, "3"]) == (
        ("new", "False", "True", "", ""),
        ("new", "False", "True", "different", "city"),
    )


def test_a_period_is_exported_as_it_is_attested(audit_db: AuditDb, client: TestClient) -> None:
    poll(audit_db, {0: "a"}, 600, app_group=FORMULAS[0])
    poll(audit_db, {0: "b"}, 60, app_group=FORMULAS[0])
    at = now(audit_db)
    asked = {
        "since": (at - timedelta(seconds=300)).isoformat(),
        "until": (at - timedelta(seconds=30)).isoformat(),
    }
    [row] = rows(client.get("/api/attest/download", params=asked))
    [app] = client.get("/api/attest", params=asked).json()["apps"]
    assert (row["verdict"], row["head_hash"]) == (app["verdict"], app["head_hash"])
    assert (row["app_group"], row["seal"]) == (f"'{FORMULAS[0]}", "")
    turned = {"since": asked["until"], "until": asked["since"]}
    assert client.get("/api/attest/download", params=turned).status_code == 422


def test_the_heads_file_is_one_that_verify_reads(
    audit_db: AuditDb, client: TestClient, tmp_path: Path
) -> None:
    for number in (1, 2):
        poll(audit_db, {0: "a", 1: "b"}, 60, sdk_app_id=number)
    answer = client.get("/api/heads/download")
    file = tmp_path / "heads.json"
    file.write_bytes(answer.content)
    heads = read_heads(file)
    assert [(head.region, head.sdk_app_id, head.seq) for head in heads] == [
        ("frankfurt", 1, 2),
        ("frankfurt", 2, 2),
    ]
    newest = client.get("/api/change?region=frankfurt&sdk_app_id=1&seq=2").json()
    assert heads[0].hash == newest["row_hash"]


def test_health_links_to_the_runbooks_where_their_address_is_set(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, shown in (("", None), ("https://git.example/r.md", "https://git.example/r.md"),
                         ("javascript:alert(1)", None)):  # fmt: skip
        monkeypatch.setenv("IM_ATTR_AUDIT_RUNBOOKS_URL", given)
        assert client.get("/api/health").json()["runbooks_url"] == shown


def test_health_shows_the_newest_seal_with_its_checkpoint(
    audit_db: AuditDb, client: TestClient, tmp_path: Path
) -> None:
    assert client.get("/api/health").json()["seal"] is None
    assert client.get("/api/checkpoint/download").status_code == 404
    made = sealing_of(audit_db, tmp_path / "witness")
    made.run(0, NAMES[0])
    sealed = made.seal()
    made.engine.dispose()
    seal = client.get("/api/health").json()["seal"]
    assert (seal["n"], seal["origin"], seal["is_stamped"]) == (0, "example.com/audit", False)
    assert seal["note"] == sealed.seal.note
    file = client.get("/api/checkpoint/download")
    assert file.text == sealed.seal.note
    assert file.headers["content-disposition"] == 'attachment; filename="checkpoint-0.txt"'
    write_seal(audit_db, "no leaf", n=7)
    refused = client.get("/api/checkpoint/download")
    assert (refused.status_code, "from a witness" in refused.text) == (409, True)
    [witness] = seal["witnesses"]
    assert (witness["target"], witness["size"]) == (f"file:{tmp_path}/witness", 1)
    with audit_db.owner.begin() as connection:
        connection.execute(
            text(
                "insert into attr_audit.witnessed (origin, size, target) values "
                "('example.com/audit', 1, 'git:https://s3cret@example.com/x.git')"
            )
        )
    answer = client.get("/api/health")
    assert "s3cret" not in answer.text, "an earlier version stored such a target"
    assert len(answer.json()["seal"]["witnesses"]) == 2
