"""What no asset event has announced yet: everything once, wherever a task was killed or cleared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from im_attr_audit.record.publication import LOOK_BACK, read_unannounced
from im_attr_audit.record.store import record_polls

from tests.conftest import AuditDb
from tests.history import NamesLike, polled

NOW = datetime.now(UTC)


def record(db: AuditDb, run: str, names: NamesLike, *, minutes: int, region: str) -> None:
    at = NOW - timedelta(minutes=minutes)
    poll = polled(names, names, at=at, region=region, sdk_app_id=7)
    record_polls(db.writer, [poll], dag_run_id=run, try_number=1)


def missing(db: AuditDb, *announced: object) -> list[dict[str, Any]]:
    return read_unannounced(db.writer, lambda since: announced)


def brief(events: list[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    return [(e["dag_run_id"], e["region"], e["baselines"], e["changes"]) for e in events]


@pytest.fixture
def db(audit_db: AuditDb) -> AuditDb:
    record(audit_db, "run 1", {0: "sex"}, minutes=30, region="china")
    record(audit_db, "run 1", {0: "sex"}, minutes=29, region="seoul")
    record(audit_db, "run 2", {0: "gender"}, minutes=15, region="seoul")
    return audit_db


def test_what_no_event_announces_is_one_event_a_region_and_run_and_the_same_for_a_retry(
    db: AuditDb,
) -> None:
    events = missing(db)
    assert brief(events) == [
        ("run 1", "china", 1, 0),
        ("run 1", "seoul", 1, 0),
        ("run 2", "seoul", 0, 1),
    ]
    assert missing(db) == events
    assert missing(db, *events) == []


def test_what_a_cleared_task_recorded_after_its_runs_event_is_announced_alone(db: AuditDb) -> None:
    events = missing(db)
    record(db, "run 1", {0: "sex", 1: "city"}, minutes=5, region="china")
    [late] = missing(db, *events)
    assert brief([late]) == [("run 1", "china", 0, 1)]
    assert late["chain_heads"]["7"]["seq"] == 2
    assert missing(db, *events, late) == []


def test_an_event_of_one_run_does_not_stand_for_another_runs_changes(db: AuditDb) -> None:
    first, _, last = missing(db)
    assert brief(missing(db, first, last)) == [("run 1", "seoul", 1, 0)]


@pytest.mark.parametrize(
    "extra", [None, {}, {"dag_run_id": "run 1", "region": "china", "chain_heads": {"7": "x"}}, []]
)
def test_an_event_that_is_not_ours_announces_nothing(db: AuditDb, extra: object) -> None:
    assert len(missing(db, extra)) == 3


def test_events_are_asked_for_from_before_the_first_change_on_and_no_further_back(
    db: AuditDb,
) -> None:
    asked: list[datetime] = []

    def events_since(at: datetime) -> tuple[()]:
        asked.append(at)
        return ()

    read_unannounced(db.writer, events_since)
    assert NOW - LOOK_BACK < asked[0] < NOW - timedelta(minutes=30)
