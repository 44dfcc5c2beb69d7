"""What somebody is to be told, as the table ``notification`` keeps it until it has been sent.

A change's fact is written by the database in the change's own transaction. That an app is not seen
any more, or is seen again, is decided here from the apps' rows. The facts of one kind from one run
are one message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text

from im_attr_audit.names import AttrName

#: What has waited longer is not sent any more: it is no news. A weekend is shorter.
NEWS_FOR = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of ``notification`` with what a message says of it.

    ``slot`` to ``not_before``: of a change (``seen_at`` and ``not_before`` are its bounds), else
    None. ``gap_from`` and ``gap_to``: of ``stale`` and ``back``. ``ever_seen``: whether the app has
    ever had a good poll.
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message that waits: which facts it is made of, and who has it already."""

    kind: str
    dag_run_id: str | None
    sent_to: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of sending a message: who has it now, and whether that is everybody."""

    sent_to: frozenset[str]
    complete: bool


_STALE = """
insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, dag_run_id)
select 'stale', a.region, a.sdk_app_id, coalesce(a.last_ok_at, a.first_polled_at), :dag_run_id
  from attr_audit.app a
 where a.retired_at is null
   and now() - coalesce(a.last_ok_at, a.first_polled_at) > :stale_after
   and not exists (select from attr_audit.notification n
                    where n.kind = 'stale' and n.region = a.region and n.sdk_app_id = a.sdk_app_id
                      and n.gap_from = coalesce(a.last_ok_at, a.first_polled_at))
 order by a.region, a.sdk_app_id
    on conflict on constraint one_row_per_fact do nothing
"""

# Of an app's gaps only the newest: one that ended and opened again unnoticed is one to its reader.
_BACK = """
insert into attr_audit.notification (kind, region, sdk_app_id, gap_from, gap_to, dag_run_id)
select 'back', a.region, a.sdk_app_id, s.gap_from, a.last_ok_at, :dag_run_id
  from attr_audit.app a
  join (select n.region, n.sdk_app_id, max(n.gap_from) as gap_from
          from attr_audit.notification n
         where n.kind = 'stale'
         group by n.region, n.sdk_app_id) s using (region, sdk_app_id)
 where a.retired_at is null and a.last_ok_at > s.gap_from
   and now() - a.last_ok_at <= :stale_after
   and not exists (select from attr_audit.notification n
                    where n.kind = 'back' and n.region = a.region and n.sdk_app_id = a.sdk_app_id
                      and n.gap_from = s.gap_from)
 order by a.region, a.sdk_app_id
    on conflict on constraint one_row_per_fact do nothing
"""

# That a retired app is not seen is no news to anybody.
_IS_NEWS = """
n.sent_at is null and n.created_at > now() - :news_for
   and (n.kind = 'change' or a.retired_at is null)
"""

_WAITING = f"""
select n.kind, n.dag_run_id, n.sent_to, min(n.notification_id) as first
  from attr_audit.notification n
  join attr_audit.app a using (region, sdk_app_id)
 where {_IS_NEWS}
 group by n.kind, n.dag_run_id, n.sent_to
 order by first
 limit :most
"""  # noqa: S608 - both halves are written above

_CLAIM = f"""
select n.notification_id, n.kind, n.region, n.sdk_app_id, a.app_group, n.dag_run_id, a.conn_id,
       n.gap_from, n.gap_to, a.first_ok_at <= n.gap_from as ever_seen,
       c.slot, c.kind as change, c.old_name, c.new_name, c.old_type, c.new_type, c.not_before,
       c.seen_at
  from attr_audit.notification n
  join attr_audit.app a using (region, sdk_app_id)
  left join attr_audit.change c using (change_id)
 where n.kind = :kind and n.dag_run_id is not distinct from :dag_run_id and n.sent_to = :sent_to
   and {_IS_NEWS}
 order by n.notification_id
   for update of n skip locked
"""  # noqa: S608 - both halves are written above

_MARK = """
update attr_audit.notification
   set sent_to = :sent_to, sent_at = case when :complete then clock_timestamp() end
 where notification_id = any(:ids)
"""


def note_gaps(engine: Engine, *, dag_run_id: str, stale_after: timedelta) -> None:
    """Note which apps have not been seen for longer than the limit, and which are seen again.

    Each once per gap, however often this is called. An app never seen counts from the first time
    it was asked; retired apps are left out.
    """
    values = {"dag_run_id": dag_run_id, "stale_after": stale_after}
    with engine.begin() as connection:
        connection.execute(text(_STALE), values)
        connection.execute(text(_BACK), values)


def read_waiting(engine: Engine, *, most: int) -> list[Waiting]:
    """The messages that wait to be sent, oldest first, at most so many."""
    with engine.connect() as connection:
        rows = connection.execute(text(_WAITING), {"news_for": NEWS_FOR, "most": most})
        return [Waiting(row.kind, row.dag_run_id, frozenset(row.sent_to)) for row in rows]


def deliver(
    engine: Engine, message: Waiting, send: Callable[[list[Fact], frozenset[str]], Delivery]
) -> bool:
    """Send one message and mark its facts at once; whether it is through.

    ``send`` is given the facts, and who has them already. The facts are locked meanwhile, so that
    of two reports at the same time one sends; should the process die before they are marked, they
    wait again.
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
                "news_for": NEWS_FOR,
            },
        ).all()
        if not rows:
            return True
        facts = [
            Fact(
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
            )
            for row in rows
        ]
        delivery = send(facts, message.sent_to)
        if delivery.sent_to != message.sent_to or delivery.complete:
            connection.execute(
                text(_MARK),
                {
                    "sent_to": sorted(delivery.sent_to),
                    "complete": delivery.complete,
                    "ids": [fact.notification_id for fact in facts],
                },
            )
        return delivery.complete
