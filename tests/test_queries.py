"""Every query of sql/queries on the scripted week, whose right answers are written down here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.postgres import EmbeddedPostgres
from tests import story
from tests.psql import QUERIES, psql, rows

DOCS = Path(__file__).resolve().parents[1] / "docs" / "data-model.md"
FILES = sorted(QUERIES.glob("*.sql"))

FIRST = "2026-10-28 00:00:00.1+00"
NOW = "2026-11-03 23:00:00+00"
NONE = "(none)"

#: (file, variables, columns, the right rows). At least one for every file.
ANSWERS: list[tuple[str, dict[str, str], str, list[str]]] = [
    (
        "slot_everywhere_now",
        {},
        "app_group region name confirmed_at",
        [
            f"coupons|mumbai|{NONE}|{NONE}",
            f"loyalty|china|{NONE}|{NOW}",
            f"loyalty|frankfurt|{NONE}|{NOW}",
            f"shop|frankfurt|Tier|{NOW}",
            "shop|seoul|Membership level|2026-11-03 17:00:00+00",
            f"shop|singapore|Tier|{NOW}",
        ],
    ),
    (
        "slot_everywhere_now",
        {"slot": "0"},
        "region name",
        [
            f"mumbai|{NONE}",
            "china|tier",
            "frankfurt|tier",
            "frankfurt|sex",
            "seoul|gender",
            "singapore|sex",
        ],
    ),
    (
        "slot_on_a_date",
        {"at": "2026-10-29 09:00Z"},
        "name certain first_seen_at last_seen_at replaced_by",
        [f"Membership level|t|{FIRST}|2026-10-29 09:00:00+00|2026-10-29 10:00:00.1+00"],
    ),
    (
        "slot_on_a_date",
        {"at": "2026-10-29 09:30Z"},
        "name certain first_seen_at last_seen_at replaced_by",
        [f"Membership level|f|{FIRST}|2026-10-29 09:00:00+00|2026-10-29 10:00:00.1+00"],
    ),
    (
        "slot_on_a_date",
        {},  # now: the last poll is long ago
        "name certain first_seen_at last_seen_at replaced_by",
        [f"Tier|f|2026-10-29 10:00:00.1+00|{NOW}|{NONE}"],
    ),
    (
        "slot_on_a_date",
        {"slot": "1", "region": "singapore", "at": "2026-10-30 05:00Z"},
        "name certain last_seen_at replaced_by",
        ["city|f|2026-10-30 01:00:00+00|2026-10-30 09:00:00.1+00"],
    ),
    (
        "slot_on_a_date",
        {"slot": "3", "at": "2026-11-01 04:30Z"},  # within the bounds of its addition
        "name certain first_seen_at last_seen_at replaced_by",
        [f"{NONE}|f|{NONE}|{NONE}|{NONE}"],
    ),
    ("slot_on_a_date", {"slot": "3", "at": "2026-11-01 04:00Z"}, "name", []),
    ("slot_on_a_date", {"region": "seoul", "at": "2026-10-30 12:00Z"}, "name", []),
    (
        "changes_last_week",
        {"until": "2026-11-04 00:00Z"},
        "region sdk_app_id slot kind old_name new_name not_before seen_at",
        [
            "china|1400000012|1|renamed|points|credits|2026-10-29 11:00:00+00"
            "|2026-10-31 12:00:00.1+00",
            "frankfurt|1400000001|2|renamed|Membership level|Tier|2026-10-29 09:00:00+00"
            "|2026-10-29 10:00:00.1+00",
            f"frankfurt|1400000001|3|added|{NONE}|birthday|2026-11-01 04:00:00+00"
            "|2026-11-01 05:00:00.1+00",
            f"frankfurt|1400000001|3|removed|birthday|{NONE}|2026-11-02 19:00:00+00"
            "|2026-11-02 20:00:00.1+00",
            "seoul|1400000003|0|renamed|sex||2026-11-01 06:00:00+00|2026-11-01 07:00:00.1+00",
            "seoul|1400000003|0|renamed||gender|2026-11-01 07:00:02+00|2026-11-01 08:00:00.1+00",
            "singapore|1400000002|2|renamed|Membership level|Tier|2026-10-29 13:00:00+00"
            "|2026-10-29 14:00:00.1+00",
            "singapore|1400000002|1|renamed|city|region|2026-10-30 01:00:00+00"
            "|2026-10-30 09:00:00.1+00",
        ],
    ),
    (
        "changes_last_week",
        {"since": "2026-11-01 00:00Z", "until": "2026-11-01 06:00Z"},
        "region new_name",
        ["frankfurt|birthday"],
    ),
    ("changes_last_week", {}, "region", []),  # the last week from today on
    (
        "who_saw_it_first",
        {},
        "app_group name region kind dag_run_id try_number conn_id",
        [
            "shop|Membership level|frankfurt|baseline|scheduled__2026-10-28T00:00:00+00:00|1"
            "|im_frankfurt_1400000001",
            "shop|Tier|frankfurt|renamed|scheduled__2026-10-29T10:00:00+00:00|1"
            "|im_frankfurt_1400000001",
        ],
    ),
    (
        "who_saw_it_first",
        {"slot": "1"},
        "app_group name region sdk_app_id not_before dag_run_id",
        [
            f"loyalty|points|china|1400000012|{NONE}|scheduled__2026-10-28T00:00:00+00:00",
            f"loyalty|points balance|frankfurt|1400000011|{NONE}"
            "|scheduled__2026-10-30T00:00:00+00:00",
            "loyalty|credits|china|1400000012|2026-10-29 11:00:00+00"
            "|scheduled__2026-10-31T12:00:00+00:00",
            f"shop|city|frankfurt|1400000001|{NONE}|scheduled__2026-10-28T00:00:00+00:00",
            "shop|region|singapore|1400000002|2026-10-30 01:00:00+00"
            "|scheduled__2026-10-30T09:00:00+00:00",
        ],
    ),
    (
        "regions_with_drift",
        {},
        "app_group slot distinct_names app name",
        [
            "loyalty|1|2|china/1400000012|credits",
            "loyalty|1|2|frankfurt/1400000011|points balance",
            "shop|0|2|frankfurt/1400000001|sex",
            "shop|0|2|seoul/1400000003|gender",
            "shop|0|2|singapore/1400000002|sex",
            "shop|1|2|frankfurt/1400000001|city",
            "shop|1|2|seoul/1400000003|city",
            "shop|1|2|singapore/1400000002|region",
            "shop|2|2|frankfurt/1400000001|Tier",
            "shop|2|2|seoul/1400000003|Membership level",
            "shop|2|2|singapore/1400000002|Tier",
        ],
    ),
    (
        "names_ever_used",
        {},
        "app_group name apps first_seen_at last_seen_at still_used",
        [
            f"coupons|coupon|1|{FIRST}|2026-11-02 11:00:00+00|t",
            f"loyalty|tier|2|{FIRST}|{NOW}|t",
            f"shop|sex|3|{FIRST}|{NOW}|t",
            "shop||1|2026-11-01 07:00:00.1+00|2026-11-01 07:00:02+00|f",
            "shop|gender|1|2026-11-01 08:00:00.1+00|2026-11-03 17:00:00+00|t",
        ],
    ),
    ("names_ever_used", {"slot": "3"}, "name apps still_used", ["birthday|1|f"]),
    (
        "how_long_names_lived",
        {"region": "frankfurt"},
        "sdk_app_id slot name at_least at_most still_so",
        [
            f"1400000001|0|sex|6 days 22:59:59.9|{NONE}|t",
            f"1400000001|1|city|6 days 22:59:59.9|{NONE}|t",
            f"1400000001|2|Membership level|1 day 08:59:59.9|{NONE}|f",
            f"1400000001|2|Tier|5 days 12:59:59.9|{NONE}|t",
            "1400000001|3|birthday|1 day 13:59:59.9|1 day 16:00:00.1|f",
            f"1400000011|0|tier|6 days 22:59:59.9|{NONE}|t",  # its type became known in between
            f"1400000011|1|points|1 day 22:59:59.9|{NONE}|f",
            f"1400000011|1|points balance|4 days 22:59:59.9|{NONE}|t",
        ],
    ),
    (
        "how_long_names_lived",
        {"region": "seoul", "slot": "0"},
        "name at_least at_most",
        [
            f"sex|1 day 05:59:59.9|{NONE}",
            "|00:00:01.9|02:00:00.1",
            f"gender|2 days 08:59:59.9|{NONE}",
        ],
    ),
    (
        "stale_apps",
        {"at": "2026-11-04 00:00Z"},
        "region last_ok_at stale_since stale_for last_outcome consecutive_failures",
        [
            f"mumbai|{NONE}|2026-11-02 00:00:00+00|2 days|rejected|48",
            "seoul|2026-11-03 17:00:00+00|2026-11-03 17:00:00+00|07:00:00|unavailable|6",
        ],
    ),
    (
        "stale_apps",
        {"at": "2026-11-04 00:00Z", "longer_than": "1 day"},
        "region",
        ["mumbai"],
    ),
    (
        "failed_polls_per_day",
        {"until": "2026-11-04 00:00Z"},
        "day outcome error_code http_status polls apps",
        [
            f"2026-10-30|unavailable|{NONE}|502|7|1",
            "2026-11-02|rejected|90009|200|24|1",
            f"2026-11-03|misconfigured|{NONE}|{NONE}|3|1",
            "2026-11-03|rejected|90009|200|24|1",
            f"2026-11-03|unavailable|{NONE}|{NONE}|6|1",
            f"2026-11-03|unstable|{NONE}|200|1|1",
        ],
    ),
    (
        "gaps_in_knowledge",
        {"at": "2026-11-04 00:00Z"},
        "region sdk_app_id gap_from gap_to lasted polls_failed",
        [
            "china|1400000012|2026-10-29 11:00:00+00|2026-10-31 12:00:00+00|2 days 01:00:00|0",
            "singapore|1400000002|2026-10-30 01:00:00+00|2026-10-30 09:00:00+00|08:00:00|7",
            "jakarta|1400000013|2026-11-02 11:00:00+00|(open)|1 day 13:00:00|0",
            "frankfurt|1400000011|2026-11-03 09:00:00+00|2026-11-03 11:00:00+00|02:00:00|1",
            "seoul|1400000003|2026-11-03 17:00:00+00|(open)|07:00:00|6",
        ],
    ),
    (
        "gaps_in_knowledge",
        {"at": "2026-11-04 00:00Z", "longer_than": "1 day"},
        "region",
        ["china", "jakarta"],
    ),
    (
        "names_no_longer_there",
        {"names": '["Membership level", "city", "coupon", "points", "tier", "", "no, \\"such\\""]'},
        "name region last_slot what last_seen_at gone_by",
        [
            "|seoul|0|gone|2026-11-01 07:00:02+00|2026-11-01 08:00:00.1+00",
            "Membership level|frankfurt|2|gone|2026-10-29 09:00:00+00|2026-10-29 10:00:00.1+00",
            "Membership level|singapore|2|gone|2026-10-29 13:00:00+00|2026-10-29 14:00:00.1+00",
            "city|singapore|1|gone|2026-10-30 01:00:00+00|2026-10-30 09:00:00.1+00",
            f"coupon|jakarta|0|app is no longer listed|2026-11-02 11:00:00+00|{NONE}",
            f'no, "such"|{NONE}|{NONE}|never seen|{NONE}|{NONE}',
            "points|china|1|gone|2026-10-29 11:00:00+00|2026-10-31 12:00:00.1+00",
            "points|frankfurt|1|gone|2026-10-29 23:00:00+00|2026-10-30 00:00:00.1+00",
        ],
    ),
    (
        "names_no_longer_there",
        {},  # every name ever seen
        "name region what",
        [
            "|seoul|gone",
            "Membership level|frankfurt|gone",
            "Membership level|singapore|gone",
            "birthday|frankfurt|gone",
            "city|singapore|gone",
            "coupon|jakarta|app is no longer listed",
            "points|china|gone",
            "points|frankfurt|gone",
            "sex|seoul|gone",
        ],
    ),
    (
        "export_for_auditor",
        {},
        "region seq slot kind old_known old_name new_known new_name is_baseline",
        [
            "china|1|0|baseline|f||t|tier|t",
            "china|2|1|baseline|f||t|points|t",
            "china|3|1|renamed|t|points|t|credits|f",
            "frankfurt|1|0|baseline|f||t|sex|t",
            "frankfurt|2|1|baseline|f||t|city|t",
            "frankfurt|3|2|baseline|f||t|Membership level|t",
            "frankfurt|4|2|renamed|t|Membership level|t|Tier|f",
            "frankfurt|5|3|added|f||t|birthday|f",
            "frankfurt|6|3|removed|t|birthday|f||f",
            "frankfurt|1|0|baseline|f||t|tier|t",
            "frankfurt|2|1|baseline|f||t|points|t",
            "frankfurt|3|0|baseline|t|tier|t|tier|t",
            "frankfurt|4|1|baseline|t|points|t|points balance|t",
            "jakarta|1|0|baseline|f||t|coupon|t",
            "seoul|1|0|baseline|f||t|sex|t",
            "seoul|2|1|baseline|f||t|city|t",
            "seoul|3|2|baseline|f||t|Membership level|t",
            "seoul|4|0|renamed|t|sex|t||f",
            "seoul|5|0|renamed|t||t|gender|f",
            "singapore|1|0|baseline|f||t|sex|t",
            "singapore|2|1|baseline|f||t|city|t",
            "singapore|3|2|baseline|f||t|Membership level|t",
            "singapore|4|2|renamed|t|Membership level|t|Tier|f",
            "singapore|5|1|renamed|t|city|t|region|f",
        ],
    ),
]


@pytest.fixture(scope="module")
def week(postgres: EmbeddedPostgres, template: str) -> str:
    """The database of the scripted week."""
    return story.week(postgres, template)


@pytest.mark.parametrize(
    ("file", "variables", "columns", "right"),
    ANSWERS,
    ids=[f"{file}-{' '.join(variables.values()) or 'plain'}" for file, variables, *_ in ANSWERS],
)
def test_a_query_gives_the_right_answer(
    postgres: EmbeddedPostgres,
    week: str,
    file: str,
    variables: dict[str, str],
    columns: str,
    right: list[str],
) -> None:
    given = rows(postgres, week, QUERIES / f"{file}.sql", **variables)
    assert ["|".join(row[column] for column in columns.split()) for row in given] == right


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_runs_as_it_is(postgres: EmbeddedPostgres, week: str, file: Path) -> None:
    assert psql(postgres, week, file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_opens_with_its_question(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"-- [A-Z].*\?", first)


def test_every_query_has_its_right_answer_here() -> None:
    assert {file.stem for file in FILES} == {file for file, *_ in ANSWERS}
    assert len(FILES) == 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_is_linked_from_the_docs(file: Path) -> None:
    assert f"(../sql/queries/{file.name})" in DOCS.read_text(encoding="utf-8")


def test_a_variable_is_a_value_and_never_sql(postgres: EmbeddedPostgres, week: str) -> None:
    hostile = "x' or '1' = '1"
    assert rows(postgres, week, QUERIES / "slot_on_a_date.sql", region=hostile) == []
    assert rows(postgres, week, QUERIES / "how_long_names_lived.sql", region=hostile) == []
