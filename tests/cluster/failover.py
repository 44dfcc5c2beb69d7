"""The audit database on two Postgres servers: read from the replica, switched over, lost.

Part of `make test-cluster`. What it prints is in docs/operations.md; times are reported there and
judged nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from im_attr_audit.page import checks
from im_attr_audit.page.app import make_app
from im_attr_audit.page.reader import Reader
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from simulator.control import Simulator
from tests.cluster.pair import AirflowConnection, Pair, PairDb, audit_db_of
from tests.cluster.scale_out import (
    eventually,
)
from tests.cluster.scale_out import say as say
from tests.conftest import READER
from tests.rig import Rig, app_of, brief
from tests.test_page_api import let_in

REGIONS = ("seoul",)
RENAMED = [(1, "renamed", "city", "town")]
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.destroy()


@pytest.fixture
def db(pair: Pair) -> Iterator[PairDb]:
    made = audit_db_of(pair)
    yield made
    made.dispose()


def scalar(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar_one()


def newest(vendor: Simulator) -> int:
    """The place of the newest entry in the vendor's log."""
    return max((entry.seq for entry in vendor.log()), default=0)


def page_over(connection: AirflowConnection) -> FastAPI:
    reader = Reader(lambda: connection)
    health = checks.HealthCheck(reader, seconds=0)
    return make_app(reader, let_in, lambda: True, health)


def replayed(db: PairDb) -> None:
    """Wait until the replica shows all that is recorded; a commit only waits until it has it."""
    # A reader's open connection stays with its server, which may have been promoted since.
    db.reader.dispose()
    written = scalar(db.owner, "select pg_current_wal_lsn()::text")
    shown = f"select pg_last_wal_replay_lsn() >= '{written}'"
    eventually("the replica", lambda: scalar(db.reader, shown), seconds=60)


def test_page_bi_and_verify_read_from_the_replica(
    pair: Pair, db: PairDb, simulator: Simulator
) -> None:
    rig = Rig(simulator, db.writer)
    target = rig.add_app("seoul", {0: "sex", 1: "city"})
    rig.sync(target)
    rig.set_names(target, {0: "sex", 1: "town"})
    rig.sync(target)
    replayed(db)
    assert scalar(db.reader, "select pg_is_in_recovery()")
    assert not scalar(db.writer, "select pg_is_in_recovery()")

    reader = AirflowConnection(pair.connection(READER, "prefer-standby"))
    with TestClient(page_over(reader)) as client:
        assert "town" in client.get("/api/now").text
        for address in ("changes", "timeline", "as-of", "health", "setup", "changes/download"):
            assert client.get(f"/api/{address}").status_code == 200, address
        assert client.get("/healthz").text.strip('"') == "ok"
    with db.reader.connect() as connection:
        views = connection.execute(
            text("select viewname from pg_views where schemaname = 'attr_audit' order by 1")
        ).scalars()
        for view in [*views, "names_as_of(now())", "verify_chain()"]:
            connection.execute(text(f"select * from attr_audit.{view}")).all()
    for processes in (1, 2):
        checked = check_database(db.reader, processes=processes)
        assert (checked.rows, checked.findings) == (3, ())


def test_a_page_on_a_replica_that_gets_nothing_more_is_stale_and_not_green(
    pair: Pair, db: PairDb, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(simulator, db.writer)
    target = rig.add_app("seoul", {0: "sex"})
    rig.sync(target)
    replayed(db)
    pair.let_replica_fall_behind()
    monkeypatch.setenv("IM_ATTR_AUDIT_STALE_AFTER", "1")
    reader = AirflowConnection(pair.connection(READER, "standby"))
    with TestClient(page_over(reader)) as client:

        def word() -> bool:
            assert rig.outcomes(target) == ["ok"]
            answer = client.get("/healthz")
            return (answer.status_code, answer.text.strip('"')) == (503, "stale")

        eventually("the page to be stale", word, seconds=60)


def test_a_sync_that_meets_a_switch_over_records_each_change_once_when_retried(
    pair: Pair, db: PairDb, simulator: Simulator, say: Callable[[str], None]
) -> None:
    rig = Rig(simulator, db.writer)
    targets = [rig.add_app("seoul", {0: "sex", 1: "city"}) for _ in range(16)]
    rig.sync(*targets)
    for target in targets:
        rig.set_names(target, {0: "sex", 1: "town"})
    run, seen = rig.new_run(), newest(simulator)
    simulator.set_latency(2)
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(rig.sync, *targets, run=run)
        eventually("the polls", lambda: len(simulator.log(seen)) > 0)
        pair.stop_primary()
        pair.promote()
        away = pair.since_loss()
        pair.follow()
        failed = syncing.exception()
    simulator.set_latency(0)
    assert failed is None or isinstance(failed, OperationalError), failed
    recorded = rig.sync(*targets, run=run, try_number=2)
    assert [one.outcome for one in recorded] == ["ok"] * 16
    for target in targets:
        assert brief(rig.record(target).changes_of(app_of(target))[2:]) == RENAMED
    # The old primary follows the new one and is the replica that reads are sent to.
    replayed(db)
    assert scalar(db.reader, "select pg_is_in_recovery()")
    assert check_database(db.reader).findings == ()
    assert migrate(pair.owner_url()) == revisions()[-1]
    say(f"switch-over in the middle of a sync: {away:.1f} s without a primary")


def test_nothing_recorded_is_lost_with_a_primary_whose_replica_is_synchronous(
    pair: Pair, db: PairDb, simulator: Simulator
) -> None:
    rig = Rig(simulator, db.writer)
    target = rig.add_app("seoul", {0: "sex", 1: "city"})
    rig.sync(target)
    rig.set_names(target, {0: "sex", 1: "town"})
    rig.sync(target)
    before = rig.record(target)
    pair.lose_primary()
    pair.promote()
    assert rig.record(target) == before
    assert brief(before.changes_of(app_of(target))[2:]) == RENAMED
    assert rig.outcomes(target) == ["ok"]
    assert rig.record(target).changes == before.changes


def test_what_an_asynchronous_replica_lost_is_named_and_recorded_again(
    pair: Pair, db: PairDb, simulator: Simulator
) -> None:
    rig = Rig(simulator, db.writer)
    target = rig.add_app("seoul", {0: "sex", 1: "city"})
    rig.sync(target)
    replayed(db)
    last_kept = scalar(db.reader, "select last_ok_at from attr_audit.app")
    pair.let_replica_fall_behind()
    rig.set_names(target, {0: "sex", 1: "town"})
    rig.sync(target)
    [lost] = rig.record(target).changes_of(app_of(target))[2:]
    witnessed = check_database(db.owner).heads

    pair.lose_primary()
    pair.promote()
    [finding] = check_database(db.owner, witnessed).findings
    assert "are gone" in str(finding)
    rig.sync(target)
    [again] = rig.record(target).changes_of(app_of(target))[2:]
    assert brief([again]) == brief([lost]) == RENAMED
    assert again.not_before == lost.not_before == last_kept
    assert again.seen_at > lost.seen_at
