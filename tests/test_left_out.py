"""Planned targets without a poll: `verify --checkpoints` states only what the record shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from im_attr_audit.record.seals import left_out
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.upkeep.fold import fold_old_polls
from im_attr_audit.record.upkeep.retention import drop_old_polls

from tests.sealing import Sealing, as_superuser, folder_at
from tests.test_schema import run

NOTED = "planned im_seoul_7 and recorded no poll of it"


def months_ago(number: int) -> datetime:
    now = datetime.now(UTC)
    back = now.year * 12 + now.month - 1 - number
    return datetime(back // 12, back % 12 + 1, 2, tzinfo=UTC)


def planned(sealed: Sealing, run_id: str, at: datetime, targets: dict[str, str | None]) -> None:
    """A run of a month that is over: its targets with the outcome of each; None: left out."""
    names = ", ".join(f"'im_{region}_7'" for region in targets)
    regions = ", ".join(f"'{region}'" for region in targets)
    polls = [
        f"('im_{region}_7', '{region}', 7, 'timpush', '{run_id}', timestamptz '{at}', '{outcome}')"
        for region, outcome in targets.items()
        if outcome
    ]
    run(
        sealed.db.owner,
        f"select attr_audit_internal.create_poll_partition(date '{at:%Y-%m-01}') "
        f"where to_regclass('attr_audit_internal.poll_{at:%Y_%m}') is null",
    )
    as_superuser(
        sealed.db,
        "insert into attr_audit.planned (planned_id, dag_run_id, recorded_at, conn_ids, regions, "
        "sdk_app_ids) overriding system value "
        f"select -{(datetime.now(UTC) - at).days}, '{run_id}', '{at}', "
        f"array[{names}], array[{regions}], array_fill(7::bigint, array[{len(targets)}]); "
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, requested_at, "
        f"outcome) values {', '.join(polls)}",
    )


def noted(sealed: Sealing) -> list[str]:
    _, found = check_seals(sealed.engine, [folder_at(sealed.folder)], sealed.signer.verifier)
    return [each for each in found.notes if " planned " in each]


@pytest.fixture
def past(sealed: Sealing) -> Sealing:
    """Runs of two months that are over. Those of the older month leave out one target once."""
    old, later = months_ago(4), months_ago(3)
    for day in range(4):
        targets: dict[str, str | None] = {"seoul": "ok", "tokyo": "rejected"}
        if day == 2:
            targets["seoul"] = None
        planned(sealed, f"old {day}", old + timedelta(days=day), targets)
        planned(sealed, f"later {day}", later + timedelta(days=day), {"seoul": "ok"})
    planned(sealed, "last", later + timedelta(days=9), {"seoul": None, "tokyo": "ok"})
    return sealed


def test_a_target_of_a_folded_month_is_not_said_to_be_left_out(past: Sealing) -> None:
    assert noted(past) == [f"run last {NOTED}", f"run old 2 {NOTED}"]
    folded = fold_old_polls(past.db.server.url(past.db.name), unsealed=True)
    assert [each.polls for each in folded] == [3, 5]
    # The last run lies after the last good poll of Seoul, so no folded poll was its own.
    assert noted(past) == [
        "run last planned im_seoul_7 and has no row of it in poll, and coverage has no poll of "
        "seoul/7 since then"
    ]


def test_a_target_of_a_dropped_month_is_not_said_to_be_left_out(past: Sealing) -> None:
    drop_old_polls(past.db.server.url(past.db.name), older_than=months_ago(3).replace(day=1))
    assert noted(past) == [f"run last {NOTED}"]


def test_a_target_that_was_left_out_after_the_folded_months_is_noted(past: Sealing) -> None:
    fold_old_polls(past.db.server.url(past.db.name), unsealed=True)
    planned(past, "recent", months_ago(1), {"seoul": None, "tokyo": "ok"})
    assert f"run recent {NOTED}" in noted(past)


def test_each_poll_is_read_once_however_many_targets_a_run_has(sealed: Sealing) -> None:
    at, runs, targets = months_ago(1), 3, 400
    for number in range(runs + 1):
        regions: dict[str, str | None] = {f"r{target}": "ok" for target in range(targets)}
        planned(sealed, f"many {number}", at + timedelta(days=number), regions)
    as_superuser(sealed.db, "analyze attr_audit.poll; analyze attr_audit.planned")
    # Whatever join the planner takes: what it expects of an array is a guess.
    [[plan]] = run(
        sealed.db.owner,
        "set local enable_hashjoin = off; set local enable_mergejoin = off; "
        "set local enable_seqscan = off; "
        f"explain (analyze, timing off, buffers off, format json) {left_out._LEFT_OUT}",
    )
    # Each of the last run's, too, which may not be over.
    assert _rows_read(plan[0]["Plan"]) <= 1.1 * (runs + 1) * targets


def _rows_read(node: dict[str, Any]) -> float:
    """How many rows of poll a plan read, and how many pairs its joins compared in vain."""
    found = float(sum(map(_rows_read, node.get("Plans", []))))
    found += float(node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"])
    if node.get("Relation Name", "").startswith("poll"):
        each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        found += float(each * node["Actual Loops"])
    return found
