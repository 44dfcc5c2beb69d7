"""What a monitor wants to know of the record, as numbers by region and app group, never by app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.notifications import EXPIRE_AFTER, IS_CURRENT

#: Prometheus' naming: the prefix, base units, `_total` for what only grows.
PREFIX = "im_attr_audit_"


class RecordUnreadable(AttrAuditError):
    """The record could not be read just now; the text says why, without a secret."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric. ``samples``: the labels' values, in the order of ``labels``, and a number.

    ``overall``: what makes one true number of all samples.
    ``misleads_when_old``: it must be read at the moment that somebody looks at it.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]
    only_grows: bool = False
    overall: Callable[[Iterable[float]], float] = sum
    misleads_when_old: bool = False


class _Metric(NamedTuple):
    """Its name without the prefix, and of ``Gauge`` the same fields."""

    name: str
    help: str
    overall: Callable[[Iterable[float]], float] = sum
    misleads_when_old: bool = False


@dataclass(frozen=True, slots=True)
class _Query:
    """Columns of the result: the labels first, then one number per metric, null where unknown."""

    labels: tuple[str, ...]
    metrics: tuple[_Metric, ...]
    sql: str
    only_grows: bool = False


_QUERIES = (
    _Query(
        ("region", "app_group"),
        (
            _Metric("apps", "Apps that are polled; retired ones are left out."),
            _Metric("stale_apps", "Apps without a good poll for IM_ATTR_AUDIT_STALE_AFTER."),
            _Metric("unseen_apps", "Apps that have never had a good poll."),
            _Metric(
                "oldest_knowledge_seconds",
                "Seconds since the last good poll of the app for which that is longest.",
                overall=max,
            ),
        ),
        """
        select region, app_group, count(*),
               count(*) filter (where age > :stale_after),
               count(*) filter (where last_ok_at is null),
               extract(epoch from max(age))
          from attr_audit.freshness group by region, app_group
        """,
    ),
    _Query(
        ("region", "outcome"),
        (
            _Metric(
                "apps_by_last_outcome",
                "Apps by the outcome of their newest poll.",
                misleads_when_old=True,
            ),
        ),
        """
        select region, last_outcome, count(*)
          from attr_audit.freshness where last_outcome is not null group by region, last_outcome
        """,
    ),
    _Query(
        ("region", "outcome"),
        (
            _Metric(
                "polls_last_hour", "Polls requested within the last hour.", misleads_when_old=True
            ),
            _Metric(
                "poll_seconds_last_hour",
                "Total seconds of the polls requested within the last hour.",
                misleads_when_old=True,
            ),
        ),
        """
        select coalesce(region, 'unknown'), outcome, count(*),
               extract(epoch from sum(responded_at - requested_at))
          from attr_audit.poll
         where requested_at > now() - interval '1 hour'
           and requested_at <= now() + interval '1 minute'
         group by 1, 2
        """,
    ),
    _Query(
        ("region",),
        (_Metric("changes_total", "Changes on record, baselines left out."),),
        """
        select a.region, count(c.change_id)
          from (select distinct region from attr_audit.app) a
          left join attr_audit.change c on c.region = a.region and not c.is_baseline
         group by a.region
        """,
        only_grows=True,
    ),
    _Query(
        ("app_group",),
        (_Metric("drift_slots", "Slots in which apps of a group have different names."),),
        """
        select g.app_group, count(d.slot)
          from (select distinct app_group from attr_audit.app where retired_at is null) g
          left join attr_audit.drift d using (app_group)
         group by g.app_group
        """,
    ),
    _Query(
        ("app_group", "violation"),
        (_Metric("violations", "Slots that are not as declared."),),
        """
        select g.app_group, k.violation, count(v.slot)
          from (select distinct app_group from attr_audit.app where retired_at is null) g
         cross join unnest(array['different', 'missing', 'undeclared', 'unknown']) k (violation)
          left join attr_audit.violations v using (app_group, violation)
         group by g.app_group, k.violation
        """,
    ),
    # The changes of the time are found first, by their index, and judged one by one ("offset 0").
    # The view by itself would judge those of all time: ten times as slow on a large record.
    _Query(
        ("region", "app_group"),
        (
            _Metric(
                "unreviewed_changes",
                "Changes of the last 30 days that are not as declared and have no review.",
            ),
        ),
        """
        with waiting as materialized (
            select c.region, c.sdk_app_id, count(*) as changes
              from (select region, sdk_app_id, seq from attr_audit.change c
                     where c.seen_at > now() - interval '30 days' and not c.is_baseline
                       and not exists (
                           select from attr_audit.review r
                            where r.region = c.region and r.sdk_app_id = c.sdk_app_id
                              and r.seq = c.seq)
                    offset 0) c
             cross join lateral (
                   select from attr_audit.unreviewed_changes v
                    where v.region = c.region and v.sdk_app_id = c.sdk_app_id and v.seq = c.seq
                      and v.seen_at > now() - interval '30 days'
                   offset 0) v
             group by c.region, c.sdk_app_id
        )
        select a.region, a.app_group, coalesce(sum(w.changes), 0)
          from attr_audit.app a
          left join waiting w using (region, sdk_app_id)
         where a.retired_at is null
         group by a.region, a.app_group
        """,
    ),
    _Query(
        (),
        (
            _Metric(
                "unsent_alerts",
                "Alerts that wait to be sent; those too old to be sent are left out.",
            ),
            _Metric(
                "oldest_unsent_alert_seconds",
                "Age in seconds of the oldest alert that waits to be sent; 0 if there is none.",
            ),
        ),
        f"""
        select count(*), coalesce(extract(epoch from now() - min(n.created_at)), 0)
          from attr_audit.notification n
          join attr_audit.app a using (region, sdk_app_id)
         where {IS_CURRENT}
        """,  # noqa: S608 - no value in it
    ),
    _Query(
        (),
        (
            # As a run ends it is always short: kept by a monitor, it would hide that none runs.
            _Metric(
                "last_poll_seconds",
                "Seconds since the newest poll of any app was recorded.",
                misleads_when_old=True,
            ),
        ),
        """
        select extract(epoch from now() - max(last_polled_at))
          from attr_audit.app where last_polled_at <= now() + interval '1 minute'
        """,
    ),
    _Query(
        (),
        (
            _Metric(
                "last_seal_seconds",
                "Seconds since the newest seal; missing where nothing is sealed.",
            ),
        ),
        """
        select extract(epoch from now() - max(sealed_at))
          from attr_audit.seal where leaf like '["run-v1",%'
        """,
    ),
)


def read_gauges(
    engine: Engine, stale_after: timedelta, *, seconds: int | None = None
) -> list[Gauge]:
    """Every metric, all of one moment. Raises RecordUnreadable where one cannot be read.

    ``seconds``: how long one query may take, where that is less than the engine allows.
    """
    gauges: list[Gauge] = []
    try:
        with engine.connect() as connection:
            connection.execute(text("set transaction isolation level repeatable read read only"))
            if seconds is not None:
                connection.execute(text(f"set local statement_timeout = '{int(seconds)}s'"))
            for query in _QUERIES:
                rows = connection.execute(text(query.sql), _bound(query, stale_after)).all()
                gauges += _read(query, rows)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None)
        raise RecordUnreadable(
            f"The record cannot be read ({type(cause or error).__name__}). Check that Postgres is "
            "up, and that the schema is migrated."
        ) from None
    return gauges


def _bound(query: _Query, stale_after: timedelta) -> dict[str, Any]:
    given = {"stale_after": stale_after, "expire_after": EXPIRE_AFTER}
    return {name: value for name, value in given.items() if f":{name}" in query.sql}


def _read(query: _Query, rows: Any) -> Iterator[Gauge]:
    first = len(query.labels)
    for number, metric in enumerate(query.metrics):
        yield Gauge(
            PREFIX + metric.name,
            metric.help,
            query.labels,
            tuple(
                (tuple(row[:first]), float(row[first + number]))
                for row in rows
                if row[first + number] is not None
            ),
            query.only_grows,
            metric.overall,
            metric.misleads_when_old,
        )


def verify_gauges(holds: bool, at: datetime) -> list[Gauge]:
    """What `verify` found, and when."""
    found = (
        ("verify_ok", "Whether the last verify found nothing.", float(holds)),
        (
            "verify_last_run_timestamp_seconds",
            "When verify last checked the record, in seconds since 1970.",
            at.timestamp(),
        ),
    )
    return [Gauge(PREFIX + name, help_, (), (((), value),)) for name, help_, value in found]
