"""Reviews in the lists of changes, and the proofs that the page gives out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from im_attr_audit.evidence.note import Signer
from im_attr_audit.evidence.proof import check_proof, read_proof
from im_attr_audit.page import proofs
from im_attr_audit.record.seals.prove import Bounds

from launch.postgres import EmbeddedPostgres
from tests.conftest import AuditDb, fresh_audit_db
from tests.sealing import NAMES, Sealing, sealing_of
from tests.test_declarations import declare
from tests.test_page_api import Connection, application, poll
from tests.test_page_overview import review
from tests.test_schema import run

ONE = "/api/proof?region=seoul&sdk_app_id=7"


@pytest.fixture(scope="module")
def sealed(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sealing]:
    """Two runs that are sealed, and one that is not."""
    with fresh_audit_db(postgres, template) as db:
        made = sealing_of(db, tmp_path_factory.mktemp("witness"))
        for number in range(2):
            made.run(number, NAMES[number])
        made.seal()
        made.run(2, NAMES[2])
        yield made
        made.engine.dispose()


@pytest.fixture(scope="module")
def client(sealed: Sealing) -> TestClient:
    return TestClient(application(Connection(sealed.db)), raise_server_exceptions=False)


def claim(content: str, signer: Signer) -> Any:
    return check_proof(read_proof(content), signer.verifier)


def test_a_sealed_change_and_its_poll_come_with_their_proof(
    sealed: Sealing, client: TestClient
) -> None:
    answer = client.get(f"{ONE}&seq=3")
    assert answer.headers["cache-control"] == "no-store"
    assert 'filename="proof-seoul-7-change-3.json"' in answer.headers["content-disposition"]
    row = claim(answer.text, sealed.signer).row
    assert (row["seq"], row["old_name"], row["new_name"]) == (3, "sex", "gender")
    change = client.get("/api/change?region=seoul&sdk_app_id=7&seq=3").json()
    answer = client.get(
        ONE, params={"region": "seoul", "sdk_app_id": 7, "at": change["requested_at"]}
    )
    row = claim(answer.text, sealed.signer).row
    assert (row["poll_id"], row["dag_run_id"]) == (change["poll_id"], "run 1")


def test_each_poll_of_a_run_that_is_sealed_offers_its_proof(
    sealed: Sealing, client: TestClient
) -> None:
    def polls(number: int) -> list[Any]:
        listed: list[Any] = client.get(f"/api/run?run=run {number}").json()["polls"]
        return listed

    assert [each["is_sealed"] for n in range(3) for each in polls(n)] == [True] * 4 + [False] * 2
    for each in polls(1):
        asked = {"region": each["region"], "sdk_app_id": 7, "at": each["requested_at"]}
        row = claim(client.get("/api/proof", params=asked).text, sealed.signer).row
        assert (row["region"], row["dag_run_id"], row["outcome"]) == (each["region"], "run 1", "ok")


def test_what_is_not_sealed_or_not_there_has_no_proof_and_the_reason(client: TestClient) -> None:
    for asked, reason in {
        "seq=4": "is not sealed yet",
        "seq=99": "no change with seq 99",
        "at=2020-01-01T00:00:00Z": "No poll of",
        "at=9990-01-01T00:00:00Z": "is not sealed yet",
    }.items():
        answer = client.get(f"{ONE}&{asked}")
        assert (answer.status_code, reason in answer.json()["detail"]) == (404, True), answer.text
    for asked in ("", "&seq=1&at=2026-01-01T00:00:00Z", "&seq=0", "&at=soon"):
        assert client.get(ONE + asked).status_code == 422


def test_a_seal_that_is_too_large_is_left_to_the_command(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "BOUNDS", Bounds(seconds=30, rows=1))
    answer = client.get(f"{ONE}&seq=3")
    assert (answer.status_code, "im-attr-audit prove" in answer.text) == (404, True)


def test_no_proof_is_given_of_a_record_that_is_not_as_it_was_sealed(
    sealed: Sealing, client: TestClient
) -> None:
    with sealed.db.server.connect(sealed.db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            "update attr_audit.change set new_name = 'x' where sdk_app_id = 7 and seq = 3"
        )
    assert "not as they were sealed" in client.get(f"{ONE}&seq=1").json()["detail"]


def test_changes_are_filtered_by_their_review(audit_db: AuditDb) -> None:
    client = TestClient(application(Connection(audit_db)))
    for ago, name in ((900, "a"), (600, "b"), (500, "c"), (400, "d"), (60, "e")):
        poll(audit_db, {0: name}, ago, sdk_app_id=1)
    review(audit_db, 1, 2)
    review(audit_db, 1, 3, "not_expected")
    review(audit_db, 1, 4, "not_expected")
    review(audit_db, 1, 4)

    def found(state: str) -> list[int]:
        given = {"review": state}
        listed = [
            each["seq"] for each in client.get("/api/changes", params=given).json()["changes"]
        ]
        assert client.get("/api/changes/count", params=given).json()["changes"] == len(listed)
        file = client.get("/api/changes/download", params={**given, "format": "json"}).json()
        assert [each["seq"] for each in file["changes"]] == listed
        return listed

    assert found("unreviewed") == [5]
    assert found("reviewed") == [4, 3, 2]
    assert found("expected") == [4, 2]
    assert found("not_expected") == [3]
    assert client.get("/api/changes?review=perhaps").status_code == 422
    shown = client.get("/api/changes?review=not_expected").json()["changes"][0]
    assert (shown["verdict"], shown["reviewer"], shown["ticket"]) == (
        "not_expected",
        "uma",
        "OPS-1",
    )


def test_a_change_that_is_as_declared_waits_for_no_review(audit_db: AuditDb) -> None:
    client = TestClient(application(Connection(audit_db)))
    poll(audit_db, {0: "a"}, 900, sdk_app_id=1)
    declare(audit_db, "groups: {default: {names: {0: b}}}")
    [declared_at] = run(audit_db.reader, "select recorded_at from attr_audit.declaration")
    assert declared_at
    poll(audit_db, {0: "b"}, -1, sdk_app_id=1)
    [change] = client.get("/api/changes?kind=renamed").json()["changes"]
    assert (change["declared"], change["verdict"]) == (True, None)
    assert client.get("/api/changes?review=unreviewed").json()["changes"] == []
