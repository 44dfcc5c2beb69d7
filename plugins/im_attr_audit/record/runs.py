"""Runs as recorded: what one run recorded, and which apps the next one polls.

Everything is read from the database, nothing from XCom: after a kill the record is what counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.names import AttrName
from im_attr_audit.outcomes import FAILED, FINAL, GOOD


@dataclass(frozen=True, slots=True)
class RunPoll:
    """The newest poll of one connection in a run, and the app's names as they are known now.

    ``superseded``: of a late poll, whether the app has had a good poll since the run began.
    """

    conn_id: str
    region: str | None
    sdk_app_id: int | None
    outcome: str
    error_code: int | None
    error_info: str | None
    last_ok_at: datetime | None
    names: Mapping[int, AttrName]
    superseded: bool = False

    @property
    def recorded(self) -> bool:
        """Whether what this poll saw is on record."""
        return self.outcome in GOOD

    @property
    def failed(self) -> bool:
        """Whether it fails the run: late counts where the app had no good poll in the meantime."""
        return self.outcome in FAILED or (self.outcome == "late" and not self.superseded)


class FinishedPoll(NamedTuple):
    """A poll that a task need not repeat, or what came of one that it made."""

    conn_id: str
    outcome: str
    error_info: str | None
    error_code: int | None


@dataclass(frozen=True, slots=True)
class RunChange:
    """One row of ``change`` that a run recorded."""

    region: str
    sdk_app_id: int
    seq: int
    slot: int
    kind: str
    old: AttrName | None
    new: AttrName | None
    not_before: datetime | None
    seen_at: datetime
    row_hash: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """What one run recorded: polls by region and app, changes in each app's order."""

    dag_run_id: str
    polls: tuple[RunPoll, ...]
    changes: tuple[RunChange, ...]


class KnownApp(NamedTuple):
    """What the record knows of the app that a connection polls."""

    region: str
    sdk_app_id: int
    app_group: str
    api: str


# A good poll in the future, or one that was recorded under a wrong clock, does not count.
_POLLS = """
select p.conn_id, p.region, p.sdk_app_id, p.outcome, p.error_code, p.error_info, a.last_ok_at,
       (select jsonb_agg(jsonb_build_array(s.slot, s.name, s.attr_type) order by s.slot)
          from attr_audit.snapshot s
         where s.region = p.region and s.sdk_app_id = p.sdk_app_id) as names,
       p.outcome = 'late' and exists (
           select from attr_audit.poll g
            where g.region = p.region and g.sdk_app_id = p.sdk_app_id and g.outcome = 'ok'
              and g.requested_at > r.begun_at - interval '1 hour'
              and g.requested_at <= now() + interval '1 minute'
              and (g.dag_run_id = :dag_run_id or g.responded_at >= r.begun_at)
              and not exists (select from attr_audit.clock_correction k
                               where k.region = g.region and k.sdk_app_id = g.sdk_app_id
                                 and g.requested_at > k.found_at and g.poll_id <= k.last_poll_id)
       ) as superseded
  from (select distinct on (conn_id) *
          from attr_audit.poll
         where dag_run_id = :dag_run_id
         order by conn_id, poll_id desc) p
 cross join (select min(requested_at) as begun_at
               from attr_audit.poll where dag_run_id = :dag_run_id) r
  left join attr_audit.app a using (region, sdk_app_id)
 order by p.region nulls last, p.sdk_app_id, p.conn_id
"""

_CHANGES = """
select region, sdk_app_id, seq, slot, kind, old_name, new_name, old_type, new_type,
       not_before, seen_at, row_hash
  from attr_audit.change
 where dag_run_id = :dag_run_id
 order by region, sdk_app_id, seq
"""

_FINAL = """
select conn_id, outcome, error_info, error_code
  from attr_audit.poll
 where dag_run_id = :dag_run_id and try_number >= :first_try
   and conn_id = any(:conn_ids) and outcome = any(:outcomes)
   and recorded_at >= coalesce(cast(:begun_at as timestamptz) - interval '1 minute', '-infinity')
 order by poll_id
"""

_LOCK_APPS = "select from attr_audit.app order by region, sdk_app_id for update"

_RETIRE_APPS = """
with listed as (
    select a.region, a.sdk_app_id,
           u.region is not null or a.conn_id = any(:unresolved) as is_listed
      from attr_audit.app a
      left join unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)
        using (region, sdk_app_id)
)
update attr_audit.app a
   set retired_at = case when l.is_listed then null else clock_timestamp() end
  from listed l
 where a.region = l.region and a.sdk_app_id = l.sdk_app_id
   and l.is_listed = (a.retired_at is not null)
returning a.region, a.sdk_app_id, a.retired_at is not null as retired
"""


def read_run(engine: Engine, dag_run_id: str) -> Run:
    """What the run has recorded so far."""
    with engine.connect() as connection:
        polls = connection.execute(text(_POLLS), {"dag_run_id": dag_run_id}).all()
        changes = connection.execute(text(_CHANGES), {"dag_run_id": dag_run_id}).all()
    return Run(
        dag_run_id,
        tuple(
            RunPoll(
                conn_id=p.conn_id,
                region=p.region,
                sdk_app_id=p.sdk_app_id,
                outcome=p.outcome,
                error_code=p.error_code,
                error_info=p.error_info,
                last_ok_at=p.last_ok_at,
                names={slot: AttrName(name, type_) for slot, name, type_ in p.names or ()},
                superseded=p.superseded,
            )
            for p in polls
        ),
        tuple(map(change_of_row, changes)),
    )


def change_of_row(row: Any) -> RunChange:
    """A `RunChange` of a row that has its columns."""
    return RunChange(
        region=row.region,
        sdk_app_id=row.sdk_app_id,
        seq=row.seq,
        slot=row.slot,
        kind=row.kind,
        old=None if row.old_name is None else AttrName(row.old_name, row.old_type),
        new=None if row.new_name is None else AttrName(row.new_name, row.new_type),
        not_before=row.not_before,
        seen_at=row.seen_at,
        row_hash=bytes(row.row_hash),
    )


def read_finished(
    engine: Engine,
    *,
    dag_run_id: str,
    first_try: int,
    conn_ids: Collection[str],
    begun_at: datetime | None,
) -> list[FinishedPoll]:
    """The connections that have a final outcome in this run since its try ``first_try``.

    ``begun_at`` (Airflow's clock, which may be a minute off ours) distinguishes the run from a
    deleted one of the same id.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            text(_FINAL),
            {
                "dag_run_id": dag_run_id,
                "first_try": first_try,
                "begun_at": begun_at,
                "conn_ids": list(conn_ids),
                "outcomes": sorted(FINAL),
            },
        )
        return list({row.conn_id: FinishedPoll(*row) for row in rows}.values())


def prepare_run(engine: Engine) -> None:
    """See to it that poll has its partitions, this month's and three more."""
    with engine.begin() as connection:
        connection.execute(text("select attr_audit_internal.ensure_poll_partitions()"))


def record_planned(
    engine: Engine, dag_run_id: str, targets: Sequence[tuple[str, str | None, int | None]]
) -> None:
    """Record what a run is to poll: connection, region and SDKAppID of each target."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into attr_audit.planned (dag_run_id, conn_ids, regions, sdk_app_ids) "
                "values (:dag_run_id, cast(:conn_ids as text[]), cast(:regions as text[]), "
                "cast(:ids as bigint[]))"
            ),
            {
                "dag_run_id": dag_run_id,
                "conn_ids": [conn_id for conn_id, _, _ in targets],
                "regions": [region for _, region, _ in targets],
                "ids": [number for _, _, number in targets],
            },
        )


def retire_apps(
    engine: Engine, *, listed: Iterable[AppKey], unresolved: Collection[str]
) -> list[tuple[AppKey, bool]]:
    """Mark the apps that are no longer listed as retired, and those that returned as not.

    ``unresolved``: listed connections whose app is unknown; what they last polled stays.
    Gives the apps whose state changed, with True for retired.
    """
    apps = list(listed)
    with engine.begin() as connection:
        connection.execute(text(_LOCK_APPS))
        rows = connection.execute(
            text(_RETIRE_APPS),
            {
                "regions": [region for region, _ in apps],
                "ids": [number for _, number in apps],
                "unresolved": list(unresolved),
            },
        )
        return [(AppKey(row.region, row.sdk_app_id), row.retired) for row in rows]


def read_known_apps(engine: Engine, conn_ids: Iterable[str]) -> dict[str, KnownApp]:
    """The app that each connection last polled; a connection that never did is left out."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "select distinct on (conn_id) conn_id, region, sdk_app_id, app_group, api "
                "from attr_audit.app where conn_id = any(:conn_ids) "
                "order by conn_id, last_polled_at desc"
            ),
            {"conn_ids": list(conn_ids)},
        )
        return {row.conn_id: KnownApp(*row[1:]) for row in rows}
