"""What the volume bench asks: views, functions, and the variables of sql/queries."""

from __future__ import annotations

from benchmarks.volume_fill import QUARTER

MIDDLE = "2026-10-21 12:34:56Z"
ONE_APP = "region = 'seoul' and sdk_app_id = 1400000002"
# Within the hours that were filled in, and the quarter of one group at the schedule of `make run`.
WEEK = ("2026-10-12 00:00Z", "2026-10-19 00:00Z")
MONTH = "between '2026-10-01 00:00Z' and '2026-10-31 23:59:59.999999Z'"
GROUPS = {
    "a group": "group 400",  # hourly
    "the group of the quarter": "quarter",
}


def _questions() -> dict[str, tuple[int | None, str]]:
    """What analysts ask of a window or a group: the goal in ms (None: by an index), the query."""
    week = f"'{WEEK[0]}', '{WEEK[1]}'"
    quarter = f"'{QUARTER[0]} 00:00Z', '{QUARTER[1]} 00:00Z'"
    asked: dict[str, tuple[int | None, str]] = {
        "`gaps`: a week": (50, f"select * from attr_audit.gaps({week})"),
        "`daily_changes`: a week": (
            None,
            "select * from attr_audit.daily_changes "
            "where day >= '2026-10-12' and day < '2026-10-19'",
        ),
    }
    for name, group in GROUPS.items():
        of_group = f"app_group = '{group}'"
        asked |= {
            f"`{view}`: {name}, a month": (
                100,
                f"select * from attr_audit.{view} where {of_group} and {column} {span}",
            )
            for view, column, span in (
                ("changes", "seen_at", MONTH),
                ("unreviewed_changes", "seen_at", MONTH),
                ("polls", "requested_at", MONTH),
                ("drift_episodes", "began_seen_at", MONTH),
                ("coverage_by_month", "month", "= '2026-10-01'"),
            )
        }
        asked |= {
            f"`gaps`: {name}, a month": (
                100,
                "select * from attr_audit.gaps('2026-10-01 00:00Z', '2026-11-01 00:00Z') "
                f"where {of_group}",
            ),
            f"`name_in_window`: {name}, a quarter": (
                300,
                f"select * from attr_audit.name_in_window('attribute 3', {quarter}, '{group}')",
            ),
            f"`attest`: {name}, a quarter": (
                300,
                f"select * from attr_audit.attest({quarter}, '{group}')",
            ),
        }
    return asked


STATEMENTS: dict[str, str] = {
    "`names_as_of`: the whole map, two days after the begin": (
        "select * from attr_audit.names_as_of('2026-10-03 12:34:56Z')"
    ),
    "`names_as_of`: the whole map, in the middle": (
        f"select * from attr_audit.names_as_of('{MIDDLE}')"
    ),
    "`names_as_of`: the whole map, two days before the end": (
        "select * from attr_audit.names_as_of('2026-11-09 12:34:56Z')"
    ),
    "`names_as_of`: one app": f"select * from attr_audit.names_as_of('{MIDDLE}') where {ONE_APP}",
    "the changes of one run": (
        "select * from attr_audit.change where dag_run_id = 'scheduled__500' "
        "order by region, sdk_app_id, seq"
    ),
    "`current_names`: everything": "select * from attr_audit.current_names",
    "`current_names`: one app": f"select * from attr_audit.current_names where {ONE_APP}",
    "`name_history`: everything": "select * from attr_audit.name_history",
    "`name_history`: one app": f"select * from attr_audit.name_history where {ONE_APP}",
    "`drift`": "select * from attr_audit.drift",
    "`freshness`": "select * from attr_audit.freshness",
    "`coverage_gaps()`: everything": "select * from attr_audit.coverage_gaps()",
    "`coverage_gaps()`: one app": f"select * from attr_audit.coverage_gaps() where {ONE_APP}",
    "`daily_changes`": "select * from attr_audit.daily_changes",
    "`verify_chain()`": "select * from attr_audit.verify_chain()",
    "`verify_chain()`: a region": "select * from attr_audit.verify_chain() where region = 'seoul'",
    **{question: statement for question, (_, statement) in _questions().items()},
}
GOALS = {question: goal for question, (goal, _) in _questions().items()}
#: What a query is asked with, where its default would look at another time than was filled in.
VARIABLES: dict[str, dict[str, str]] = {
    "slot_on_a_date": {"at": MIDDLE},
    "changes_last_week": {"until": "2026-11-11 12:00Z"},
    "failed_polls_per_day": {"until": "2026-11-11 12:00Z"},
    "stale_apps": {"at": "2026-11-11 17:30Z"},
    "gaps_in_knowledge": {"at": "2026-11-11 15:30Z"},
    "names_no_longer_there": {"names": '["attribute 3 version 500", "attribute 4"]'},
}
