"""Which recorded changes no asset event has announced yet. Airflow's own events are what counts.

An event exists if, and only if, the task that emitted it succeeded: Airflow stores both in one
transaction. So nothing is marked here. A task that dies after it read what is unannounced leaves no
event, and the next one reads the same again: nothing is lost, and nothing is announced twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Engine, text

from im_attr_audit.record.runs import RunChange, change_of_row

#: How far back changes are compared with the events, in the time they were seen. A task that is
#: cleared later than this needs its `publish` cleared too.
LOOK_BACK = timedelta(days=30)
#: An event is emitted after its changes were seen, but by the clock of Airflow's database.
CLOCKS_APART = timedelta(days=3)

_HEADS = """
select dag_run_id, region, sdk_app_id, max(seq) as seq, min(seen_at) as seen_at
  from attr_audit.change
 where seen_at > now() - cast(:look_back as interval) and dag_run_id is not null
 group by dag_run_id, region, sdk_app_id
"""

_ROWS = """
select c.dag_run_id, c.region, c.sdk_app_id, c.seq, c.slot, c.kind, c.old_name, c.new_name,
       c.old_type, c.new_type, c.not_before, c.seen_at, c.row_hash
  from unnest(cast(:runs as text[]), cast(:regions as text[]), cast(:apps as bigint[]),
              cast(:after as bigint[])) as u (dag_run_id, region, sdk_app_id, seq)
  join attr_audit.change c
    on c.region = u.region and c.sdk_app_id = u.sdk_app_id and c.dag_run_id = u.dag_run_id
   and c.seq > u.seq
 order by c.dag_run_id, c.region, c.sdk_app_id, c.seq
"""

_Key = tuple[str, str, int]
"""A run, a region and an app of it."""


def read_unannounced(
    engine: Engine, announced_since: Callable[[datetime], Iterable[object]]
) -> list[dict[str, Any]]:
    """The ``extra`` of the events that are missing: one per region and run, the oldest run first.

    ``announced_since`` gives the ``extra`` of every event that Airflow has since a time.
    """
    with engine.connect() as connection:
        heads = connection.execute(text(_HEADS), {"look_back": LOOK_BACK}).all()
        if not heads:
            return []
        since = min(head.seen_at for head in heads) - CLOCKS_APART
        announced = _announced(announced_since(since))
        missing = [
            (*key, announced.get(key, 0))
            for head in heads
            if head.seq > announced.get(key := (head.dag_run_id, head.region, head.sdk_app_id), 0)
        ]
        if not missing:
            return []
        runs, regions, apps, after = (list(column) for column in zip(*missing, strict=True))
        rows = connection.execute(
            text(_ROWS), {"runs": runs, "regions": regions, "apps": apps, "after": after}
        ).all()
    events: list[dict[str, Any]] = []
    begun: dict[str, datetime] = {}
    for dag_run_id, changes in groupby(rows, lambda row: row.dag_run_id):
        mine = [change_of_row(row) for row in changes]
        begun[dag_run_id] = min(change.seen_at for change in mine)
        events += events_by_region(dag_run_id, mine)
    return sorted(events, key=lambda event: (begun[event["dag_run_id"]], event["dag_run_id"]))


def events_by_region(dag_run_id: str, changes: Iterable[RunChange]) -> list[dict[str, Any]]:
    """The events that announce these changes of a run, one per region; ``changes`` by app and seq.

    They depend on these rows alone, so a retry gives the same events even if a later run has
    recorded more.
    """
    events: dict[str, dict[str, Any]] = {}
    for change in changes:
        event = events.setdefault(
            change.region,
            {
                "region": change.region,
                "changes": 0,
                "baselines": 0,
                "dag_run_id": dag_run_id,
                "chain_heads": {},
            },
        )
        event["baselines" if change.kind == "baseline" else "changes"] += 1
        event["chain_heads"][str(change.sdk_app_id)] = {
            "seq": change.seq,
            "hash": change.row_hash.hex(),
        }
    return list(events.values())


def _announced(extras: Iterable[object]) -> dict[_Key, int]:
    """The highest ``seq`` that the events announce, by run, region and app."""
    found: dict[_Key, int] = {}
    for key, seq in (head for extra in extras for head in _heads(extra)):
        found[key] = max(seq, found.get(key, 0))
    return found


def _heads(extra: object) -> Iterator[tuple[_Key, int]]:
    """The heads of one event; none of an event that is not one of ours."""
    if not isinstance(extra, Mapping):
        return
    run, region, heads = (extra.get(name) for name in ("dag_run_id", "region", "chain_heads"))
    if not (isinstance(run, str) and isinstance(region, str) and isinstance(heads, Mapping)):
        return
    for app, head in heads.items():
        seq = head.get("seq") if isinstance(head, Mapping) else None
        if isinstance(seq, int) and str(app).isascii() and str(app).isdigit():
            yield (run, region, int(app)), seq
