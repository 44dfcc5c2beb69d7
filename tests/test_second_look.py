"""A second pair of eyes: the vendor's answers to it, compared with what the worker recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit import cli
from im_attr_audit.apps import AppKey
from im_attr_audit.commands import second_look
from im_attr_audit.commands.second_look import BadConnections, in_turn, look, read_targets
from im_attr_audit.errors import Misconfigured
from im_attr_audit.record.looks import Look, compare_look, digest_of
from im_attr_audit.record.store import record_polls

from simulator.control import Simulator
from tests.conftest import AuditDb
from tests.history import polled
from tests.sealing import Sealing

REGIONS = ("frankfurt",)
APP = AppKey("frankfurt", 1_400_000_001)
TRUTH = {0: "sex", 1: "city"}


@pytest.fixture
def connections(simulator: Simulator, tmp_path: Path) -> Iterator[Path]:
    """The file of connections; the vendor's answer is the truth."""
    simulator.add_app(*APP, TRUTH)
    path = tmp_path / "connections.json"
    path.write_text(json.dumps({"im_own": simulator.connection_json(*APP)}))
    path.chmod(0o600)
    yield path
    simulator.reset()


def worker_records(db: AuditDb, at: datetime, minutes: int, names: dict[int, str]) -> None:
    """A good poll of the app, so many minutes from ``at``."""
    sent = at + timedelta(minutes=minutes)
    poll = polled(names, names, at=sent, region=APP.region, sdk_app_id=APP.sdk_app_id)
    record_polls(db.writer, [poll], dag_run_id=f"run {minutes}", try_number=1)


def compared(db: AuditDb, at: datetime, names: dict[int, str], api: str = "all_member_push") -> Any:
    answer = Look(APP, api, at, at, names)
    with db.reader.connect() as connection:
        return compare_look(connection, answer)


@pytest.fixture
def at() -> datetime:
    """When the vendor was asked: long enough ago that polls may follow."""
    return datetime.now(UTC) - timedelta(minutes=30)


def test_an_answer_that_the_record_has_agrees(audit_db: AuditDb, at: datetime) -> None:
    worker_records(audit_db, at, -10, TRUTH)
    assert compared(audit_db, at, TRUTH) is None  # the next poll is waited for
    worker_records(audit_db, at, 4, TRUTH)
    assert compared(audit_db, at, TRUTH) is None  # within what clocks may be apart
    worker_records(audit_db, at, 10, TRUTH)
    found = compared(audit_db, at, TRUTH)
    assert found.disagreement is None
    assert found.answer_digest == found.record_digest == digest_of(TRUTH)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({0: "gender", 1: "city"}, "slot 0: the vendor answered 'gender'"),
        ({0: "sex"}, "slot 1: the vendor answered no name"),
        ({**TRUTH, 5: "level"}, "slot 5: the vendor answered 'level'"),
        ({**TRUTH, 1: "cit\u0443"}, r"slot 1: the vendor answered 'cit\u0443'"),
    ],
)
def test_an_answer_that_the_record_never_had_disagrees_with_both_digests(
    audit_db: AuditDb, at: datetime, answer: dict[int, str], said: str
) -> None:
    for minutes in (-10, 10):
        worker_records(audit_db, at, minutes, TRUTH)
    found = compared(audit_db, at, answer)
    assert said in found.disagreement
    assert digest_of(answer) in found.disagreement
    assert digest_of(TRUTH) in found.disagreement


def test_a_name_that_changed_between_two_polls_may_be_either(
    audit_db: AuditDb, at: datetime
) -> None:
    worker_records(audit_db, at, -10, TRUTH)
    worker_records(audit_db, at, 10, {0: "gender", 1: "city"})
    worker_records(audit_db, at, 20, {0: "later", 1: "city"})
    for answer in (TRUTH, {0: "gender", 1: "city"}):
        assert compared(audit_db, at, answer).disagreement is None
    for answer in ({0: "later", 1: "city"}, {1: "city"}, {0: "gender", 1: "town"}):
        assert compared(audit_db, at, answer).disagreement is not None


def test_an_answer_of_another_api_waits(audit_db: AuditDb, at: datetime) -> None:
    for minutes in (-10, 10):
        worker_records(audit_db, at, minutes, TRUTH)
    assert compared(audit_db, at, {0: "x"}, api="timpush") is None


def test_each_app_is_asked_in_its_turn(connections: Path) -> None:
    [target] = read_targets(connections)
    five = [target] * 5
    assert [len(in_turn(five, run, 2)) for run in range(3)] == [2, 2, 2]
    numbers: Any = range(5)
    asked: list[Any] = [number for run in range(5) for number in in_turn(numbers, run, 2)]
    assert sorted(asked) == sorted([*range(5)] * 2)
    assert in_turn([], 3, 2) == []


def test_the_vendor_is_asked_with_a_pause_and_a_failure_stops_no_other(
    connections: Path, simulator: Simulator
) -> None:
    [target] = read_targets(connections)
    pauses: list[None] = []
    looks, failed = look([target, target], pause=lambda: pauses.append(None))
    assert [(each.app, each.names) for each in looks] == [(APP, TRUTH)] * 2
    assert (len(pauses), failed) == (1, [])
    simulator.set_failing(APP.region, True)
    looks, failed = look([target, target], pause=lambda: None)
    assert (looks, len(failed)) == ([], 2)
    assert all(target.secret_key not in reason for reason in failed)
    simulator.set_failing(APP.region, False)


def test_connections_that_others_can_read_or_that_are_not_any_are_refused(
    connections: Path,
) -> None:
    secret = read_targets(connections)[0].secret_key
    for content, error in (
        (f'{{"{secret}"', BadConnections),
        (f'["{secret}"]', BadConnections),
        ("{}", BadConnections),
        (f'{{"im_own": {{"password": "{secret}"}}}}', Misconfigured),
    ):
        connections.write_text(content)
        with pytest.raises(error) as refused:
            read_targets(connections)
        assert secret not in str(refused.value)
        assert refused.value.__cause__ is None
    connections.chmod(0o644)
    with pytest.raises(BadConnections, match="run chmod 600 on it"):
        read_targets(connections)
    with pytest.raises(BadConnections, match="cannot be read"):
        read_targets(connections.with_name("none"))


def test_a_worker_that_recorded_what_the_vendor_did_not_answer_is_found(
    commanded: tuple[Sealing, Path, str],
    connections: Path,
    capsys: pytest.CaptureFixture[str],
    at: datetime,
) -> None:
    sealed, key, _ = commanded
    worker_records(sealed.db, at, -10, {0: "a lie"})
    arguments = ["checkpoint", "--key", str(key), "--to", f"file:{sealed.folder}"]
    assert cli.main([*arguments, "--poll", str(connections)]) == 0
    assert "asked the vendor for 1 app, 0 earlier answers wait" in capsys.readouterr().out
    waiting = connections.with_name("connections.json.waiting")
    assert cli.main([*arguments, "--poll", str(connections)]) == 0
    assert "asked the vendor for 1 app, 1 earlier answer waits" in capsys.readouterr().out
    # As if both had been asked half an hour ago.
    again = [
        Look(each.app, each.api, at, at, each.names) for each in second_look.read_waiting(waiting)
    ]
    second_look.write_waiting(waiting, again)
    worker_records(sealed.db, at, 10, {0: "a lie"})
    assert cli.main([*arguments, "--poll", str(connections)]) == 1
    said = capsys.readouterr().out
    assert "DISAGREES  frankfurt/1400000001 slot 0: the vendor answered 'sex'" in said
    assert digest_of(TRUTH) in said
    assert digest_of({0: "a lie"}) in said
    assert len(second_look.read_waiting(waiting)) == 1
    # What the worker records is sealed like the truth all the same: nothing else shows it.
    assert sealed.found() == []


def test_an_answer_that_no_poll_follows_for_a_week_is_dropped_and_reported(
    commanded: tuple[Sealing, Path, str],
    connections: Path,
    capsys: pytest.CaptureFixture[str],
    at: datetime,
) -> None:
    sealed, key, _ = commanded
    waiting = connections.with_name("connections.json.waiting")
    old = at - timedelta(days=7)
    second_look.write_waiting(waiting, [Look(APP, "all_member_push", old, old, TRUTH)])
    arguments = ["checkpoint", "--key", str(key), "--to", f"file:{sealed.folder}"]
    assert cli.main([*arguments, "--poll", str(connections)]) == 2
    said = capsys.readouterr()
    assert "frankfurt/1400000001: no good poll followed within 7 days" in said.err
    assert "asked the vendor for 1 app, 0 earlier answers wait" in said.out


def test_a_file_of_answers_that_was_damaged_is_refused(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    for content in ("{", "{}x", '[{"region": 1}]', "3"):
        waiting.write_text(content)
        with pytest.raises(BadConnections, match="does not hold"):
            second_look.read_waiting(waiting)
