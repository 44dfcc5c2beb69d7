"""Fold old months of poll: each app's good polls become one row of coverage, and lose their own.

A month is folded in one transaction, so a fold that is killed leaves nothing behind. It works
beside a running sync: the month takes no new polls any more, and the other months are locked for
the moment only in which the small partition takes the place of the large one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Engine, text

from im_attr_audit.errors import LockTimeout
from im_attr_audit.record.upkeep.owner import owner_engine, retry_while_locked
from im_attr_audit.record.upkeep.retention import LOCK, RetentionRefused
from im_attr_audit.record.upkeep.roles import OWNER

#: How long the whole table is waited for, and then others may wait, in milliseconds.
_SWAP_MS = 500

_MONTHS = r"""
select c.relname as part, b.begins_at, b.begins_at + interval '1 month' as ends_at
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
 cross join lateral (select substring(pg_get_expr(c.relpartbound, c.oid) from $$FROM \('(.+?)'\)$$)
                            ::timestamptz as begins_at) b
 where i.inhparent = 'attr_audit.poll'::regclass and not i.inhdetachpending
   and b.begins_at + interval '1 month' <= now() - interval '7 days'
 order by b.begins_at
"""

_GOOD_TABLE = "attr_audit_internal.folding"
# The good polls of a month which are not folded yet. All those of an app stay where one of them was
# recorded under a wrong clock: only its row shows which.
_GOOD = """
select p.region, p.sdk_app_id, p.poll_id, p.api, p.requested_at as asked_at,
       coalesce(p.last_requested_at, p.requested_at) as confirmed_at
  from attr_audit_internal.{part} p
 where p.outcome = 'ok' and p.is_folded is not true and p.api is not null
   and not exists (select from attr_audit.clock_correction k
                    where k.region = p.region and k.sdk_app_id = p.sdk_app_id
                      and k.found_at < :ends_at
                      and k.last_poll_id >= (select min(q.poll_id)
                                               from attr_audit_internal.{part} q
                                              where q.region = p.region
                                                and q.sdk_app_id = p.sdk_app_id
                                                and q.outcome = 'ok'))
"""
_COVER = """
insert into attr_audit.coverage (region, sdk_app_id, from_at, to_at, polls, polls_failed,
                                 longest_gap, api, first_poll_id, asked_us, confirmed_us)
select s.region, s.sdk_app_id, s.from_at, s.to_at, s.polls,
       (select count(*) from attr_audit_internal.{part} f
         where f.region = s.region and f.sdk_app_id = s.sdk_app_id
           and f.requested_at > s.from_at and f.requested_at < s.to_at
           and f.outcome not in ('ok', 'late')),
       s.longest_gap, s.api, s.first_poll_id, s.asked_us, s.confirmed_us
  from (select o.region, o.sdk_app_id, o.api, min(o.asked_at) as from_at, max(o.asked_at) as to_at,
               count(*) as polls, max(o.gap) as longest_gap, min(o.poll_id) as first_poll_id,
               array_agg({asked} order by o.asked_at) as asked_us,
               case when bool_or(o.confirmed_at <> o.asked_at)
                    then array_agg({confirmed} order by o.asked_at) end as confirmed_us
          from (select n.*, first_value(n.asked_at) over span as from_at,
                       case when n.number > 1
                            then n.asked_at - lag(n.confirmed_at) over span end as gap
                  from (select t.*, row_number() over (
                                   partition by t.region, t.sdk_app_id, t.turns
                                   order by t.asked_at, t.poll_id) as number
                          from (select d.*, count(*) filter (where d.is_turn) over (
                                           partition by d.region, d.sdk_app_id
                                           order by d.asked_at, d.poll_id) as turns
                                  from (select g.*, g.api <> lag(g.api) over (
                                                   partition by g.region, g.sdk_app_id
                                                   order by g.asked_at, g.poll_id) as is_turn
                                          from attr_audit_internal.folding g) d) t) n
                window span as (partition by n.region, n.sdk_app_id, n.turns
                                order by n.asked_at, n.poll_id)) o
         group by o.region, o.sdk_app_id, o.turns, o.api) s
"""
_MICROSECONDS = "(extract(epoch from o.{} - o.from_at) * 1000000)::bigint"
# Every other row stays, and every good poll that a change cites.
_KEEP = """
insert into {folding} ({columns})
select {values}
  from attr_audit_internal.{part} p
  left join attr_audit_internal.folding g on g.poll_id = p.poll_id
 where g.poll_id is null
    or exists (select from attr_audit.change c
                where c.region = p.region and c.sdk_app_id = p.sdk_app_id
                  and c.poll_id = p.poll_id)
"""
_COLUMNS = """
select attname from pg_attribute
 where attrelid = 'attr_audit.poll'::regclass and attnum > 0 and not attisdropped order by attnum
"""
_RENAME_INDEXES = """
do $$
declare
    index name;
begin
    for index in select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
                  where i.indrelid = 'attr_audit_internal.{part}'::regclass loop
        execute format('alter index attr_audit_internal.%I rename to %I', index,
                       regexp_replace(index, '^folding_', ''));
    end loop;
end $$
"""
_LAST_POLL = "select max(poll_id) from attr_audit_internal.{part}"
_LAST_SEALED = "select max(last_poll_id) from attr_audit.seal"


@dataclass(frozen=True, slots=True)
class Folded:
    """What was folded of one month: ``polls`` into ``spans``; ``kept`` rows remain."""

    part: str
    polls: int
    spans: int
    kept: int


def fold_old_polls(
    url: str,
    *,
    unsealed: bool = False,
    patience: float = 60,
    report: Callable[[str], None] = lambda _: None,
    at_site: Callable[[str], None] = lambda _: None,
) -> list[Folded]:
    """Fold every month that ended more than a week ago and has polls to fold.

    ``unsealed``: fold also what no seal covers. ``at_site``: is called where tests kill. Raises
    RetentionRefused where a month is not sealed, or where queries hold poll for ``patience``
    seconds; months that are folded by then stay folded.
    """
    engine = owner_engine(url, "im-attr-audit retention --fold")
    retry = partial(retry_while_locked, engine, lock=LOCK, patience=patience, report=report)
    with engine.begin() as connection:
        _begin(connection)
        months = connection.execute(text(_MONTHS)).all()
    folded = []
    for part, _, ends_at in months:
        fold = partial(_fold, engine, part, ends_at, unsealed, retry, at_site)
        try:
            found = retry(fold)
        except LockTimeout as error:
            raise RetentionRefused(
                f"attr_audit_internal.{part} is in use. {error} It is unchanged: run this again "
                "later."
            ) from None
        if found is not None:
            folded.append(found)
    return folded


def _begin(connection: Connection) -> None:
    for statement in (
        f"set local role {OWNER}",
        "set local timezone = 'UTC'",
        "set local statement_timeout = 0",
        "set local search_path = pg_catalog, pg_temp",
    ):
        connection.execute(text(statement))


def _fold(
    engine: Engine,
    part: str,
    ends_at: datetime,
    unsealed: bool,
    retry: Callable[[Callable[[], object]], object],
    at_site: Callable[[str], None],
) -> Folded | None:
    with engine.begin() as connection:
        _begin(connection)
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK})
        # No poll is added to it, and it can still be read.
        connection.execute(text(f"lock table attr_audit_internal.{part} in share mode"))
        good, given = _GOOD.format(part=part), {"ends_at": ends_at}
        if not connection.execute(text(f"select exists ({good})"), given).scalar_one():
            return None
        if not unsealed:
            _require_seal(connection, part, ends_at)
        connection.execute(text("set local work_mem = '256MB'"))
        polls = connection.execute(
            text(f"create unlogged table {_GOOD_TABLE} as {good}"), given
        ).rowcount
        connection.execute(text(f"analyze {_GOOD_TABLE}"))
        spans = connection.execute(
            text(
                _COVER.format(
                    part=part,
                    asked=_MICROSECONDS.format("asked_at"),
                    confirmed=_MICROSECONDS.format("confirmed_at"),
                )
            )
        ).rowcount
        at_site("covered")
        kept = _rewrite(connection, part)
        at_site("rewritten")
        retry(partial(_swap, connection, part, ends_at))
        at_site("swapped")
    at_site("committed")
    return Folded(part, polls, spans, kept)


def _require_seal(connection: Connection, part: str, ends_at: datetime) -> None:
    last = connection.execute(text(_LAST_POLL.format(part=part))).scalar_one()
    sealed = connection.execute(text(_LAST_SEALED)).scalar_one()
    if sealed is None:
        raise RetentionRefused(
            "Nothing was folded: no poll is sealed. A folded poll can no longer be sealed or "
            "proven. Run im-attr-audit checkpoint first, or fold with --unsealed."
        )
    if last > sealed:
        raise RetentionRefused(
            f"Polls of the month before {ends_at.astimezone(UTC):%Y-%m-%d} are not sealed and were "
            "not folded. Run im-attr-audit checkpoint first, or fold with --unsealed."
        )


def _rewrite(connection: Connection, part: str) -> int:
    """The month's partition as it is to be, beside it; gives how many rows it has."""
    folding = f"attr_audit_internal.folding_{part}"
    columns: Sequence[str] = connection.execute(text(_COLUMNS)).scalars().all()
    values = [
        "g.poll_id is not null or p.is_folded" if each == "is_folded" else f"p.{each}"
        for each in columns
    ]
    connection.execute(
        text(f"create table {folding} (like attr_audit.poll including all excluding identity)")
    )
    kept = connection.execute(
        text(
            _KEEP.format(
                folding=folding, part=part, columns=", ".join(columns), values=", ".join(values)
            )
        )
    ).rowcount
    connection.execute(text(f"drop table {_GOOD_TABLE}"))
    connection.execute(
        text(
            f"create trigger append_only before update or delete or truncate on {folding} "
            "for each statement execute function attr_audit_internal.refuse_rewriting()"
        )
    )
    connection.execute(text(f"analyze {folding}"))
    return kept


def _swap(connection: Connection, part: str, ends_at: datetime) -> None:
    """Put the new partition in the old one's place. Raises LockTimeout, and nothing is done."""
    ends = ends_at.astimezone(UTC)
    begins = (ends - timedelta(days=1)).replace(day=1)
    old, new = f"attr_audit_internal.{part}", f"attr_audit_internal.folding_{part}"
    with connection.begin_nested():
        for statement in (
            f"set local lock_timeout = '{_SWAP_MS}ms'",
            "lock table attr_audit.poll in access exclusive mode",
            f"comment on table {new} is 'Partition of attr_audit.poll: what folding left of the "
            f"requests sent in {begins:%Y-%m} (UTC).'",
            f"alter table attr_audit.poll detach partition {old}",
            f"drop table {old}",
            f"alter table {new} rename to {part}",
            _RENAME_INDEXES.format(part=part),
            f"alter table attr_audit.poll attach partition {old} "
            f"for values from ('{begins:%Y-%m-%d} 00:00:00+00') to ('{ends:%Y-%m-%d} 00:00:00+00')",
        ):
            connection.execute(text(statement))
