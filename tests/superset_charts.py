"""What the Superset dashboard shows: its datasets and charts, and each chart's question in SQL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """``time``: the column that filters by time go by; never null. None: the present, no time."""

    name: str
    time: str | None
    metrics: dict[str, str]
    sql: str | None = None
    #: What is sealed is the whole record: it has no app group.
    of_group: bool = True

    @property
    def source(self) -> str:
        """What plain SQL selects from."""
        return f"({self.sql}) as {self.name}" if self.sql else f"attr_audit.{self.name}"


@dataclass(frozen=True)
class Chart:
    """A table of rows, a table of groups (with metrics), or bars over time (with a grain)."""

    title: str
    dataset: str
    columns: tuple[str, ...]
    description: str
    metrics: tuple[str, ...] = ()
    grain: str | None = None
    #: Conditions that hold together: column, operator and, where it takes one, a text to compare.
    where: tuple[tuple[str, ...], ...] = ()
    order: str | None = None
    descending: bool = False
    #: A chart of the present ignores the dashboard's time range.
    of_now: bool = False
    viz: str = "table"
    #: Of the dashboard's 12 columns, and in units of 8 pixels.
    width: int = 6
    height: int = 34
    #: A share in percent has an axis that ends at 100.
    percent: bool = False


_OLDEST = """select region, sdk_app_id, app_group, now() - age as known_at,
       extract(epoch from age)::float8 as age_seconds, last_outcome, consecutive_failures
  from attr_audit.freshness"""
_CHAIN = """select a.app_group, region, sdk_app_id, v.rows_checked, v.ok, v.first_bad_seq,
       v.head_seq, encode(v.head_hash, 'hex') as head_hash
  from attr_audit.verify_chain() v
  join attr_audit.app a using (region, sdk_app_id)"""
# A leaf: type, number, when it was closed; how many polls, changes, targets, each with a root. The
# sealer's login can write any text: of a row that is not a seal's, these columns are null.
_SEALS = """select sealed_at, origin, n,
       timestamptz '1970-01-01Z' + part[3]::bigint * interval '1 microsecond' as closed_at,
       part[4]::bigint as polls, part[6]::bigint as changes, part[8]::bigint as targets,
       timestamp_token is not null as has_timestamp
  from (select sealed_at, origin, n, timestamp_token,
               case when leaf ~ '^[[]"run-v1"(,[0-9]{1,18}){3}(,"[0-9a-f]*",[0-9]{1,18}){2},"'
                    then string_to_array(leaf, ',') end as part
          from attr_audit.seal) s"""

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "changes",
            "seen_at",
            {"changes": "COUNT(*)", "longest_hours": "MAX(detect_seconds) / 3600"},
        ),
        Dataset("polls", "requested_at", {"polls": "COUNT(*)"}),
        Dataset("drift_episodes", "began_seen_at", {"episodes": "COUNT(*)"}),
        Dataset("coverage_by_month", "month", {"lowest": "MIN(covered_pct)"}),
        Dataset("oldest_knowledge", "known_at", {"oldest": "MAX(age_seconds)"}, _OLDEST),
        Dataset("chain", None, {"apps": "COUNT(*)"}, _CHAIN),
        Dataset("violations", "since", {"slots": "COUNT(*)"}),
        Dataset("seals", "sealed_at", {"seals": "COUNT(*)"}, _SEALS, of_group=False),
    )
}

_BARS, _LINES = "echarts_timeseries_bar", "echarts_timeseries_line"
CHARTS = (
    Chart(
        "Violations",
        "violations",
        (
            *("since", "app_group", "region", "sdk_app_id", "slot", "violation"),
            *("declared_name", "actual_name", "lookalike"),
        ),
        "Slots that are not as declared now. Unknown: the app has no good poll lately.",
        order="since",
        of_now=True,
        width=12,
        height=36,
    ),
    Chart(
        "Drift now",
        "drift_episodes",
        ("app_group", "slot", "began_seen_at", "first_region", "first_sdk_app_id", "first_name"),
        "Slots whose apps have different names now, since when, and whose change began it.",
        where=(("ended_seen_at", "IS NULL"),),
        order="began_seen_at",
        of_now=True,
    ),
    Chart(
        "Oldest knowledge",
        "oldest_knowledge",
        ("app_group", "region", "sdk_app_id", "known_at", "last_outcome", "consecutive_failures"),
        "When each app was last polled successfully; the stalest app first.",
        order="known_at",
        of_now=True,
    ),
    Chart(
        "Changes per week",
        "changes",
        ("kind",),
        "By seen_at. A change happened between not_before and seen_at.",
        metrics=("changes",),
        grain="P1W",
        viz=_BARS,
        width=4,
    ),
    Chart(
        "Longest time to detect",
        "changes",
        ("app_group",),
        "Per week, in hours: a change was there at most so long before it was seen.",
        metrics=("longest_hours",),
        grain="P1W",
        viz=_BARS,
        width=4,
    ),
    Chart(
        "Lowest coverage per month",
        "coverage_by_month",
        ("app_group",),
        "The share of the month that good polls cover, of each group's worst app, in percent.",
        metrics=("lowest",),
        grain="P1M",
        viz=_LINES,
        width=4,
        percent=True,
    ),
    Chart(
        "Failures by cause",
        "polls",
        ("outcome", "error_code", "meaning", "advice"),
        "Polls that did not see the names, and what helps.",
        metrics=("polls",),
        where=(("is_good", "IS FALSE"), ("outcome", "!=", "late")),
        order="polls",
        descending=True,
        width=12,
        height=26,
    ),
    Chart(
        "Look-alikes",
        "changes",
        ("seen_at", "app_group", "region", "slot", "old_name", "new_name", "lookalike"),
        "Renames that a reader may not notice: case, white space, normalization, confusables.",
        where=(("lookalike", "IS NOT NULL"),),
        order="seen_at",
        descending=True,
        height=46,
    ),
    Chart(
        "Chain",
        "chain",
        ("app_group", "region", "sdk_app_id", "rows_checked", "ok", "first_bad_seq", "head_seq"),
        "Whether each app's chain of hashes is intact. im-attr-audit verify checks more.",
        order="sdk_app_id",
        of_now=True,
        height=46,
    ),
    Chart(
        "Seals",
        "seals",
        ("sealed_at", "n", "closed_at", "polls", "changes", "targets", "has_timestamp", "origin"),
        "The newest first. verify --checkpoints checks them against the files at the witnesses.",
        order="sealed_at",
        descending=True,
        of_now=True,
        width=12,
        height=22,
    ),
)


def plain_sql(chart: Chart, also: str = "") -> str:
    """The chart's question without Superset, in a session of UTC; ``also``: a further condition."""
    dataset = DATASETS[chart.dataset]
    grain = {"P1W": "week", "P1M": "month", None: ""}[chart.grain]
    axis = [f"date_trunc('{grain}', {dataset.time}) as {dataset.time}"] if grain else []
    metrics = [f"{dataset.metrics[name]} as {name}" for name in chart.metrics]
    selected = [*axis, *chart.columns, *metrics]
    where = [
        f"{column} {how}" + "".join(f" '{v}'" for v in value) for column, how, *value in chart.where
    ]
    where += [also] if also else []
    grouped = ", ".join(str(number + 1) for number in range(len(axis) + len(chart.columns)))
    return (
        f"select {', '.join(selected)} from {dataset.source}"
        + (f" where {' and '.join(where)}" if where else "")
        + (f" group by {grouped}" if metrics else "")
    )
