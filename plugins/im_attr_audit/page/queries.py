"""The page's questions to the record, as SQL. Functions are verb + noun, take a connection of a
read-only transaction and give rows; no statement is built of what a visitor wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import Connection, text

App: TypeAlias = tuple[str, int]
Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Row]

#: What one window of the timeline holds at most: more cannot be told apart on a screen.
MAX_LANE_CHANGES = 400
MAX_FAILED_POLLS = 400

APPS = """
select a.region, a.sdk_app_id, a.app_group, a.first_polled_at, a.first_ok_at, a.last_ok_at,
       a.last_outcome,
       now() - coalesce(a.last_ok_at, a.first_polled_at) > :stale_after as stale,
       a.retired_at is not null as retired
  from attr_audit.app a
"""

CURRENT = """
select region, sdk_app_id, slot, name, attr_type, not_before, seen_at
  from attr_audit.current_names
 order by slot
"""

DISAGREEING = "select app_group, slot, distinct_names from attr_audit.drift"

UNREADABLE = """
select distinct on (p.conn_id) p.conn_id, p.requested_at as at, p.error_info as what
  from attr_audit.poll p
 where p.requested_at > now() - interval '1 day' and p.region is null
   and not exists (select from attr_audit.app a
                    where a.conn_id = p.conn_id and a.last_polled_at > p.requested_at)
 order by p.conn_id, p.requested_at desc
"""

_CHANGE_COLUMNS = """
       c.change_id, c.region, c.sdk_app_id, a.app_group, c.seq, c.slot, c.kind, c.old_name,
       c.new_name, c.old_type, c.new_type, c.not_before, c.seen_at, c.recorded_at, c.dag_run_id,
       encode(c.row_hash, 'hex') as row_hash
"""

_CHANGES = f"""
select {_CHANGE_COLUMNS}
  from attr_audit.change c
  join attr_audit.app a using (region, sdk_app_id)
"""  # noqa: S608 - of our own texts

CHANGE = f"""
select {_CHANGE_COLUMNS}, c.poll_id, encode(c.prev_hash, 'hex') as prev_hash, c.answer,
       p.requested_at, p.reads, p.vendor_date, p.conn_id
  from attr_audit.change c
  join attr_audit.app a using (region, sdk_app_id)
  left join lateral (
       select * from attr_audit.poll p
        where p.region = c.region and p.sdk_app_id = c.sdk_app_id and p.poll_id = c.poll_id
          and p.outcome = 'ok'
          and p.requested_at between c.seen_at - interval '1 day' and c.recorded_at
        limit 1) p on true
 where c.region = :region and c.sdk_app_id = :sdk_app_id and c.seq = :seq
"""  # noqa: S608 - of our own texts

RUN_POLLS = """
select distinct on (conn_id) conn_id, region, sdk_app_id, outcome, error_code, error_info,
       requested_at, try_number
  from attr_audit.poll
 where dag_run_id = :dag_run_id
 order by conn_id, poll_id desc
"""

_SELECTED = "unnest(cast(:regions as text[]), cast(:ids as bigint[])) as u (region, sdk_app_id)"

# Every change closes the span of its old name: those that reach into the window, newest first.
LANE_CHANGES = f"""
select c.region, c.sdk_app_id, c.seq, c.slot, c.kind, c.old_name, c.new_name, c.old_type,
       c.not_before, c.seen_at, c.old_seen_at, coalesce(c.not_before, c.prior_ok_at) as certain_to
  from {_SELECTED}
  join attr_audit.change c on c.region = u.region and c.sdk_app_id = u.sdk_app_id
 where c.seen_at >= :window_from
   and coalesce(c.old_seen_at, c.not_before, c.seen_at) <= :window_to
   and (cast(:slot as smallint) is null or c.slot = :slot)
 order by c.seen_at desc, c.change_id desc
 limit {MAX_LANE_CHANGES + 1}
"""  # noqa: S608 - of our own texts

OPEN_SPANS = f"""
select s.region, s.sdk_app_id, s.slot, s.name, s.attr_type, s.seen_at as seen_from,
       a.last_ok_at as seen_to
  from {_SELECTED}
  join attr_audit.snapshot s on s.region = u.region and s.sdk_app_id = u.sdk_app_id
  join attr_audit.app a on a.region = u.region and a.sdk_app_id = u.sdk_app_id
 where s.seen_at <= :window_to and a.last_ok_at >= :window_from
   and (cast(:slot as smallint) is null or s.slot = :slot)
"""  # noqa: S608 - of our own texts

FAILED_POLLS = f"""
select p.region, p.sdk_app_id, p.requested_at as at, p.outcome, p.error_code, p.error_info
  from {_SELECTED}
  join attr_audit.poll p on p.region = u.region and p.sdk_app_id = u.sdk_app_id
 where p.requested_at between :window_from and :window_to and p.outcome not in ('ok', 'late')
 order by p.requested_at desc
 limit {MAX_FAILED_POLLS + 1}
"""  # noqa: S608 - of our own texts

# A stretch without a good poll that is longer than the limit, seen with the limit's margin on
# both sides of the window; as far back as polls are kept.
GAPS = f"""
with kept as (
    select greatest(min(requested_at), cast(:window_from as timestamptz) - :longer_than) as since
      from attr_audit.poll
), good as (
    select u.region, u.sdk_app_id, p.requested_at as asked_at,
           coalesce(p.last_requested_at, p.requested_at) as confirmed_at
      from {_SELECTED}
      join attr_audit.poll p on p.region = u.region and p.sdk_app_id = u.sdk_app_id
     where p.outcome = 'ok' and p.requested_at >= cast(:window_from as timestamptz) - :longer_than
       and p.requested_at <= cast(:window_to as timestamptz) + :longer_than
    union all
    select u.region, u.sdk_app_id, edge.at, edge.at
      from {_SELECTED}
      join attr_audit.app a on a.region = u.region and a.sdk_app_id = u.sdk_app_id,
           kept,
           lateral (values (greatest(kept.since, a.first_ok_at)),
                           (least(now(), cast(:window_to as timestamptz) + :longer_than))) edge (at)
     where a.first_ok_at is not null and edge.at >= a.first_ok_at
), pair as (
    select region, sdk_app_id, confirmed_at as gap_from,
           lead(asked_at) over (partition by region, sdk_app_id order by asked_at) as gap_to
      from good
)
select region, sdk_app_id, gap_from, gap_to
  from pair
 where gap_to - gap_from > :longer_than and gap_to > :window_from and gap_from < :window_to
 order by gap_from
"""  # noqa: S608 - of our own texts

NAMES_AS_OF = """
select region, sdk_app_id, slot, name, attr_type, certain from attr_audit.names_as_of(:at)
"""

HEALTH = """
select a.region, a.sdk_app_id, a.app_group, a.first_polled_at, a.first_ok_at, a.last_ok_at,
       a.last_outcome,
       now() - coalesce(a.last_ok_at, a.first_polled_at) > :stale_after as stale,
       false as retired, a.conn_id, a.api, a.last_polled_at,
       extract(epoch from now() - coalesce(a.last_ok_at, a.first_polled_at)) as age_seconds,
       a.consecutive_failures, p.error_code, p.error_info
  from attr_audit.app a
  left join lateral (
       select p.error_code, p.error_info
         from attr_audit.poll p
        where p.region = a.region and p.sdk_app_id = a.sdk_app_id
          and p.requested_at = a.last_polled_at and p.outcome not in ('ok', 'late')
          and a.last_outcome not in ('ok', 'late')
        order by p.poll_id desc limit 1) p on true
 where a.retired_at is null
"""

STRIPS = """
select region, sdk_app_id, array_agg(bucket) as buckets, array_agg(ok) as ok,
       array_agg(failed) as failed
  from (select p.region, p.sdk_app_id,
               floor(extract(epoch from p.requested_at - cast(:strip_from as timestamptz))
                     / :seconds)::int as bucket,
               count(*) filter (where p.outcome in ('ok', 'late')) as ok,
               count(*) filter (where p.outcome not in ('ok', 'late')) as failed
          from attr_audit.poll p
         where p.requested_at >= :strip_from and p.region is not null
         group by 1, 2, 3) b
 group by 1, 2
"""

VERIFY = """
select count(*) as chains, coalesce(sum(rows_checked), 0)::bigint as rows_checked,
       coalesce(bool_and(ok), true) as ok,
       jsonb_agg(jsonb_build_array(region, sdk_app_id, first_bad_seq) order by region, sdk_app_id)
           filter (where not ok) as broken
  from attr_audit.verify_chain()
"""

# An app, or a connection that does not tell its app, of which nothing good is known for too long.
STATE = """
select (select count(*) from attr_audit.app where retired_at is null) as apps,
       (select count(*) from attr_audit.freshness where age > :stale_after) as stale,
       (select count(*) from (
           select p.conn_id
             from attr_audit.poll p
            where p.requested_at > now() - interval '1 day' - :stale_after and p.region is null
            group by p.conn_id
           having max(p.requested_at) - min(p.requested_at) > :stale_after
              and max(p.requested_at) > now() - :stale_after
              and not exists (select from attr_audit.app a
                               where a.conn_id = p.conn_id
                                 and a.last_polled_at > max(p.requested_at))) c) as unreadable
"""


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which changes; None: any."""

    region: str | None = None
    app_group: str | None = None
    sdk_app_id: int | None = None
    slot: int | None = None
    kind: str | None = None
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    dag_run_id: str | None = None


def select_changes(
    filters: ChangeFilter, *, before: tuple[datetime, int] | None = None, limit: int | None = None
) -> tuple[str, dict[str, Any]]:
    """The statement and its parameters: newest first, from the key on."""
    conditions = {
        "c.region = :region": filters.region,
        "a.app_group = :app_group": filters.app_group,
        "c.sdk_app_id = :sdk_app_id": filters.sdk_app_id,
        "c.slot = :slot": filters.slot,
        "c.kind = :kind": filters.kind,
        "c.seen_at >= :since": filters.since,
        "c.seen_at <= :until": filters.until,
        "c.dag_run_id = :dag_run_id": filters.dag_run_id,
    }
    where = [condition for condition, value in conditions.items() if value is not None]
    parameters = {
        condition.rpartition(":")[2]: value
        for condition, value in conditions.items()
        if value is not None
    }
    if filters.name:
        where.append("(c.old_name ilike :name or c.new_name ilike :name)")
        escaped = filters.name.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        parameters["name"] = f"%{escaped}%"
    if before is not None:
        where.append("(c.seen_at, c.change_id) < (:before_at, :before_id)")
        parameters["before_at"], parameters["before_id"] = before
    statement = _CHANGES
    if where:
        statement += " where " + " and ".join(where)
    statement += " order by c.seen_at desc, c.change_id desc"
    if limit is not None:
        statement += " limit :limit"
        parameters["limit"] = limit
    return statement, parameters


def read(connection: Connection, statement: str, **parameters: Any) -> Rows:
    """All rows."""
    return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]


def read_plain(connection: Connection, statement: str, **parameters: Any) -> Sequence[Any]:
    """All rows as tuples: cheaper where there are thousands."""
    return connection.execute(text(statement), parameters).all()


def read_one(connection: Connection, statement: str, **parameters: Any) -> Row | None:
    """The row, or None."""
    row = connection.execute(text(statement), parameters).mappings().one_or_none()
    return None if row is None else dict(row)


def read_now(connection: Connection) -> datetime:
    """The database's clock."""
    at = connection.execute(text("select now()")).scalar_one()
    assert isinstance(at, datetime)  # noqa: S101 - for the type
    return at


def read_apps(connection: Connection, stale_after: timedelta, *, retired: bool) -> Rows:
    """All apps, without the retired ones unless asked for."""
    statement = APPS if retired else APPS + " where a.retired_at is null"
    return read(connection, statement, stale_after=stale_after)


def stream_changes(connection: Connection, filters: ChangeFilter) -> Iterator[Row]:
    """All changes that a filter lets through, newest first, without holding them all."""
    statement, parameters = select_changes(filters)
    result = connection.execution_options(stream_results=True, max_row_buffer=2000).execute(
        text(statement), parameters
    )
    yield from map(dict, result.mappings())


def arrays(apps: Collection[App]) -> Mapping[str, list[Any]]:
    """Apps as the two arrays that the statements take."""
    return {"regions": [region for region, _ in apps], "ids": [number for _, number in apps]}
