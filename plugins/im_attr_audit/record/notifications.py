"""Alerts, as the table ``notification`` keeps them until they have been sent.

A change's alert is written by the database in the change's own transaction. Whether an app is
stale, or no longer so, is decided here, by its last good poll in the view ``freshness``. Whether a
violation began or ended is decided by the database's function ``queue_violations``. The alerts of
one kind from one run are one message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from im_attr_audit.names import AttrName

#: Alerts that have waited longer are not sent. A weekend is shorter.
EXPIRE_AFTER = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Alert:
    """One row of ``notification`` with what a message says of it.

    ``change`` to ``not_before``: of a change (``seen_at`` and ``not_before`` are its bounds), else
    None, and ``seq`` is its number. ``slot``: of a change or a violation. ``gap_from`` and
    ``gap_to``: of ``stale`` and ``back``, and when a violation began and ended. ``violation`` to
    ``actual_name``: of a violation (the columns of ``notification`` say what they mean).
    ``outcome`` and ``error_code``: of a stale app's newest failed poll, where there is one.
    ``ever_seen``: whether the app has ever had a good poll.
    """

    notification_id: int
    kind: str
    region: str
    sdk_app_id: int
    app_group: str
    dag_run_id: str | None
    conn_id: str
    gap_from: datetime | None = None
    gap_to: datetime | None = None
    ever_seen: bool = True
    slot: int | None = None
    change: str | None = None
    old: AttrName | None = None
    new: AttrName | None = None
    not_before: datetime | None = None
    seen_at: datetime | None = None
    seq: int | None = None
    outcome: str | None = None
    error_code: int | None = None
    violation: str | None = None
    declared_name: str | None = None
    actual_name: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One message that waits: which alerts it is made of, and who has it already."""

    kind: str
    dag_run_id: str | None
    sent_to: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of sending a message: who has it now, and whether that is everybody."""

    sent_to: frozenset[str]
    complete: bool


# By the last good poll as the view shows it: folded polls count, those of a wrong clock never do.
# Once per app, for where a time is in the future it is looked up.
_SEEN = """
with seen as materialized (
    select f.region, f.sdk_app_id, f.last_ok_at as good_at,
           coalesce(f.last_ok_at, least(a.first_polled_at, now())) as gap_from
      from attr_audit.freshness f
      join attr_audit.app a using (region, sdk_app_id)
)
"""

_STALE = f"""
insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, dag_run_id)
{_SEEN}
select 'stale', a.region, a.sdk_app_id, a.gap_from, :dag_run_id
  from seen a
 where now() - a.gap_from > :stale_after
   and not exists (select from attr_audit.notification n
                    where n.kind = 'stale' and n.region = a.region and n.sdk_app_id = a.sdk_app_id
                      and n.gap_from = a.gap_from)
 order by a.region, a.sdk_app_id
    on conflict on constraint one_row_per_fact do nothing
"""  # noqa: S608 - both halves are written above

# Of an app's gaps only the newest: one that ended and opened again unnoticed is one to its reader.
_BACK = f"""
insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, gap_to, dag_run_id)
{_SEEN}
select 'back', a.region, a.sdk_app_id, s.gap_from, a.good_at, :dag_run_id
  from seen a
  join (select g.region, g.sdk_app_id, g.gap_from
          from (select n.region, n.sdk_app_id,
                       max(n.gap_from) filter (where n.kind = 'stale') as gap_from,
                       max(n.gap_from) filter (where n.kind = 'back') as ended
                  from attr_audit.notification n
                 where n.kind in ('stale', 'back')
                 group by n.region, n.sdk_app_id) g
         where g.ended is distinct from g.gap_from) s using (region, sdk_app_id)
 where a.good_at > s.gap_from and now() - a.good_at <= :stale_after
 order by a.region, a.sdk_app_id
    on conflict on constraint one_row_per_fact do nothing
"""  # noqa: S608 - both halves are written above

#: The alerts n, of apps a, that are still to be sent. A retired app is not expected to be polled.
IS_CURRENT = """
n.sent_at is null and n.created_at > now() - :expire_after
   and (n.kind in ('change', 'unreviewed') or a.retired_at is null)
"""

# The oldest of each destination, and the oldest of those that every destination has.
_WAITING = f"""
select p.kind, p.dag_run_id, p.sent_to
  from (select w.*, row_number() over (partition by d.key order by w.first) as place
          from (select n.kind, n.dag_run_id, n.sent_to, min(n.notification_id) as first
                  from attr_audit.notification n
                  join attr_audit.app a using (region, sdk_app_id)
                 where {IS_CURRENT}
                 group by n.kind, n.dag_run_id, n.sent_to) w
          left join unnest(cast(:destinations as text[])) as d (key) on d.key <> all(w.sent_to)) p
 where p.place <= :most
 group by p.kind, p.dag_run_id, p.sent_to, p.first
 order by p.first
"""  # noqa: S608 - both halves are written above

_CLAIM = f"""
select n.notification_id, n.kind, n.region, n.sdk_app_id, a.app_group, n.dag_run_id, a.conn_id,
       n.gap_from, n.gap_to, a.first_ok_at <= n.gap_from as ever_seen,
       coalesce(n.slot, c.slot) as slot, n.violation, n.declared_name, n.actual_name,
       c.kind as change, c.old_name, c.new_name, c.old_type, c.new_type, c.not_before,
       c.seen_at, c.seq, failed.outcome, failed.error_code
  from attr_audit.notification n
  join attr_audit.app a using (region, sdk_app_id)
  left join attr_audit.change c using (change_id)
  left join lateral (select p.outcome, p.error_code
                       from attr_audit.poll p
                      where n.kind = 'stale'
                        and p.region = n.region and p.sdk_app_id = n.sdk_app_id
                        and p.outcome not in ('ok', 'late')
                        and p.requested_at between n.gap_from and now()
                      order by p.requested_at desc
                      limit 1) failed on true
 where n.kind = :kind and n.dag_run_id is not distinct from :dag_run_id and n.sent_to = :sent_to
   and {IS_CURRENT}
 order by n.notification_id
   for update of n skip locked
"""  # noqa: S608 - both halves are written above

_MARK = """
update attr_audit.notification
   set sent_to = :sent_to, sent_at = case when :complete then clock_timestamp() end
 where notification_id = any(:ids)
"""


def record_gaps(engine: Engine, *, dag_run_id: str, stale_after: timedelta) -> None:
    """Record which apps have no good poll for longer than the limit, and which have one again.

    Each once per gap, however often this is called. An app without any good poll counts from its
    first poll; retired apps are left out.
    """
    values = {"dag_run_id": dag_run_id, "stale_after": stale_after}
    with engine.begin() as connection:
        connection.execute(text(_STALE), values)
        connection.execute(text(_BACK), values)


def record_violations(engine: Engine, *, dag_run_id: str) -> int:
    """Record which violations began and which ended; how many. Each once, as with the gaps.

    An app that is stale or retired neither begins nor ends one. What began and ended between two
    calls is not recorded here; the changes are.
    """
    with engine.begin() as connection:
        queued: int = connection.execute(
            text("select attr_audit_internal.queue_violations(:dag_run_id)"),
            {"dag_run_id": dag_run_id},
        ).scalar_one()
    return queued


def read_waiting(engine: Engine, *, most: int, destinations: Collection[str] = ()) -> list[Batch]:
    """The messages that wait to be sent, oldest first.

    At most so many that each of the destinations has not got, whatever waits for the others, and
    as many that all of them have. Without destinations: at most so many.
    """
    values = {
        "expire_after": EXPIRE_AFTER,
        "most": most,
        "destinations": sorted(destinations),
    }
    with engine.connect() as connection:
        rows = connection.execute(text(_WAITING), values)
        return [Batch(row.kind, row.dag_run_id, frozenset(row.sent_to)) for row in rows]


def _alert_of(row: Any) -> Alert:
    return Alert(
        notification_id=row.notification_id,
        kind=row.kind,
        region=row.region,
        sdk_app_id=row.sdk_app_id,
        app_group=row.app_group,
        dag_run_id=row.dag_run_id,
        conn_id=row.conn_id,
        gap_from=row.gap_from,
        gap_to=row.gap_to,
        ever_seen=bool(row.ever_seen),
        slot=row.slot,
        change=row.change,
        old=None if row.old_name is None else AttrName(row.old_name, row.old_type),
        new=None if row.new_name is None else AttrName(row.new_name, row.new_type),
        not_before=row.not_before,
        seen_at=row.seen_at,
        seq=row.seq,
        outcome=row.outcome,
        error_code=row.error_code,
        violation=row.violation,
        declared_name=row.declared_name,
        actual_name=row.actual_name,
    )


def deliver(
    engine: Engine, message: Batch, send: Callable[[list[Alert], frozenset[str]], Delivery]
) -> bool:
    """Send one message and mark its alerts at once; whether it is through.

    ``send`` is given the alerts, and who has them already. The alerts are locked until it returns,
    so that of two reports at the same time one sends. If the process dies before they are marked,
    they are sent again.
    """
    with engine.begin() as connection:
        # Sending takes as long as it takes, and a server's limit on idle transactions would undo
        # the mark of what was sent.
        connection.execute(text("set local idle_in_transaction_session_timeout = 0"))
        rows = connection.execute(
            text(_CLAIM),
            {
                "kind": message.kind,
                "dag_run_id": message.dag_run_id,
                "sent_to": sorted(message.sent_to),
                "expire_after": EXPIRE_AFTER,
            },
        ).all()
        if not rows:
            return True
        alerts = [_alert_of(row) for row in rows]
        delivery = send(alerts, message.sent_to)
        if delivery.sent_to != message.sent_to or delivery.complete:
            connection.execute(
                text(_MARK),
                {
                    "sent_to": sorted(delivery.sent_to),
                    "complete": delivery.complete,
                    "ids": [alert.notification_id for alert in alerts],
                },
            )
        return delivery.complete
