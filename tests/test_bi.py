"""What BI tools and analysts read: the twenty questions, and every relation with every driver.

Answers come from the script of tests/quarter.py and from no SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import psycopg2.errors
import pytest
from sqlalchemy import create_engine

from launch.postgres import EmbeddedPostgres
from tests.conftest import READER
from tests.data_model import BI_PAGE, COMMAND, QUESTIONS, Page
from tests.quarter import changes, quarter
from tests.quarter_answers import ANSWERS
from tests.reading import comparable, rows

README = BI_PAGE.parents[1] / "README.md"
ZONES = ("UTC", "America/New_York", "Asia/Shanghai")


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, template: str) -> str:
    return quarter(postgres, template)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("file", QUESTIONS, ids=lambda file: file.stem)
def test_a_question_gives_the_right_answer_in_every_time_zone(
    postgres: EmbeddedPostgres, database: str, file: Path, zone: str
) -> None:
    right = ANSWERS[file.stem[3:]]()
    assert right, "a question that nothing answers shows nothing"
    given = rows(postgres, database, file.read_text(encoding="utf-8"), zone)
    assert given == [tuple(comparable(value) for value in row) for row in right]


@pytest.mark.parametrize("file", QUESTIONS, ids=lambda file: file.stem)
def test_a_question_is_one_query_of_at_most_ten_lines_without_window_functions(file: Path) -> None:
    question, *query = file.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"-- [A-Z].*\?", question)
    assert len(query) <= 10
    assert "\n".join(query).count(";") == 1
    assert not re.search(r"\bover\s*[(\w]", "\n".join(query))


def test_the_twenty_questions_are_numbered_and_each_has_its_answer() -> None:
    numbers = [file.stem.split("_")[0] for file in QUESTIONS]
    assert numbers == [f"{number:02}" for number in range(1, 21)]
    assert [file.stem[3:] for file in QUESTIONS] == list(ANSWERS)


def test_the_page_shows_every_question_with_its_present_output(
    postgres: EmbeddedPostgres, database: str
) -> None:
    page = BI_PAGE.read_text(encoding="utf-8")
    assert COMMAND in page
    assert Page(postgres, database).regenerate(page) == page, f"run `{COMMAND}`"
    for file in QUESTIONS:
        assert f"(../sql/questions/{file.name})" in page
    assert "<!-- generated: types -->" in page


def test_a_campaign_window_is_not_judged_by_its_ends() -> None:
    """Both ends of the window see the name, and yet it was gone for 28 hours at least."""
    [frankfurt] = [row for row in ANSWERS["campaign_window"]() if row[0] == "frankfurt"]
    assert frankfurt[-1] == "partly"
    [gone, _] = [row for row in ANSWERS["when_was_it_gone"]() if row[0] == "frankfurt"]
    assert isinstance(gone[2], datetime)
    assert gone[-2].total_seconds() > 27.9 * 3600


def test_a_name_is_gone_once_per_gap_and_neither_moved_nor_retyped() -> None:
    """The quarter has each of these, so that the question's test notices a query that is wrong."""
    gone = [(row[0], row[5] is None) for row in ANSWERS["when_was_it_gone"]()]
    assert gone == [
        ("frankfurt", False),
        ("frankfurt", False),
        ("silicon_valley", False),  # back in a baseline
        ("singapore", True),
    ]
    of_name = [change for change in changes() if change.new == "Membership level"]
    assert [(c.app.region, c.kind, c.slot) for c in of_name if c.app.region != "frankfurt"] == [
        ("seoul", "renamed", 1),  # from slot 2
        ("seoul", "renamed", 2),
        ("silicon_valley", "retyped", 2),
    ]


def test_the_query_of_the_readme_gives_the_right_answer(
    postgres: EmbeddedPostgres, database: str
) -> None:
    [query] = re.findall(r"```sql\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert rows(postgres, database, query, "UTC") == [("Membership level", True)]


def test_times_are_all_text_or_all_timestamps(postgres: EmbeddedPostgres, database: str) -> None:
    """As docs/bi.md says: a call with one of each finds no function."""
    begin, end = "'2026-04-01Z'", "'2026-07-01Z'"
    calls = {
        "gaps({}::timestamptz, {}::timestamptz, '1 hour'::{})": "interval",
        "gaps({}::timestamptz, {}::{})": "timestamptz",
        "attest({}::timestamptz, {}::{})": "timestamptz",
        "name_in_window('city', {}::timestamptz, {}::{})": "timestamptz",
    }
    for call, type_ in calls.items():
        right = f"select * from attr_audit.{call.format(begin, end, type_)}"
        assert rows(postgres, database, right, "UTC")
        for text in ("text", "varchar"):
            mixed = f"select * from attr_audit.{call.format(begin, end, text)}"
            with pytest.raises(psycopg2.errors.UndefinedFunction):
                rows(postgres, database, mixed, "UTC")


# Drivers ----------------------------------------------------------------------------------------

#: How each function is asked about the quarter.
CALLS = (
    "names_as_of('2026-05-12 08:30Z')",
    "coverage_gaps()",
    "verify_chain()",
    "gaps('2026-04-01Z', '2026-07-01Z')",
    "name_in_window('Membership level', '2026-05-04Z', '2026-05-18Z')",
    "attest('2026-04-01Z', '2026-07-01Z')",
)
#: What polars cannot read, and how it is read here instead; the only relations that have it.
CASTS = {"interval": "extract(epoch from {})::float8", "_timestamptz": "{}::text"}
WITH_CASTS = {"freshness", "clock_correction", "coverage"}
#: What nobody did in the quarter: correct a clock, plan in the database, fold, review.
MAY_BE_EMPTY = {"clock_correction", "planned", "coverage", "review"}
#: The only ones with seconds until now.
UNTIL_NOW = (
    *("freshness", "drift_episodes", "coverage_by_month"),
    *("unreviewed_changes", "violations"),
)

_RELATIONS = """
select relname from pg_class
 where relnamespace = 'attr_audit'::regnamespace and relkind in ('r', 'v', 'p')
   and has_table_privilege(oid, 'select')
 order by relname
"""
_FUNCTIONS = """
select distinct proname::text from pg_proc
 where pronamespace = 'attr_audit'::regnamespace and proretset
   and has_function_privilege(oid, 'execute')
"""


@pytest.fixture(scope="module")
def statements(postgres: EmbeddedPostgres, database: str) -> dict[str, str]:
    """Each relation and function with a statement that reads it, `CASTS` applied."""
    found = {}
    with postgres.connect(database, READER) as connection, connection.cursor() as cursor:
        cursor.execute("select oid, typname from pg_type where typname = any(%s)", (list(CASTS),))
        casts = {oid: CASTS[name] for oid, name in cursor.fetchall()}
        cursor.execute(_RELATIONS)
        for source in [*(name for (name,) in cursor.fetchall()), *CALLS]:
            cursor.execute(f"select * from attr_audit.{source} limit 0")
            assert cursor.description
            columns = [
                f"{casts[c.type_code].format(c.name)} as {c.name}"
                if c.type_code in casts
                else c.name
                for c in cursor.description
            ]
            order = ", ".join(str(number + 1) for number in range(len(columns)))
            found[source] = (
                f"select {', '.join(columns)} from attr_audit.{source} order by {order} limit 300"
            )
    return found


def test_every_function_of_the_reader_is_among_those_that_are_read(
    postgres: EmbeddedPostgres, database: str
) -> None:
    named = {(call.split("(")[0],) for call in CALLS}
    assert set(rows(postgres, database, _FUNCTIONS, "UTC")) == named


def test_no_relation_but_the_known_ones_needs_a_cast(statements: dict[str, str]) -> None:
    assert {name for name, statement in statements.items() if "::" in statement} <= WITH_CASTS


@pytest.fixture(scope="module")
def right(
    postgres: EmbeddedPostgres, database: str, statements: dict[str, str]
) -> dict[str, list[Any]]:
    """What psycopg2 reads, by statement."""
    found = {}
    with postgres.connect(database, READER) as connection, connection.cursor() as cursor:
        for statement in statements.values():
            cursor.execute(statement)
            found[statement] = cursor.fetchall()
    empty = {source for source, statement in statements.items() if not found[statement]}
    assert empty <= MAY_BE_EMPTY, "a relation without rows shows nothing"
    return found


def _psycopg(statement: str, url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return list(connection.execute(statement.encode()).fetchall())


# Imported where they are used: every process of a test run collects this file, one runs it.


def _pandas(statement: str, url: str) -> list[tuple[Any, ...]]:
    import pandas

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    try:
        frame = pandas.read_sql(statement, engine)
    finally:
        engine.dispose()
    frame = frame.astype(object).where(frame.notna(), None)
    return list(frame.itertuples(index=False, name=None))


def _connectorx(statement: str, url: str) -> list[tuple[Any, ...]]:
    import polars

    return polars.read_database_uri(statement, url, engine="connectorx").rows()


def _adbc(statement: str, url: str) -> list[tuple[Any, ...]]:
    import polars

    return polars.read_database_uri(statement, url, engine="adbc").rows()


def _scalars(row: tuple[Any, ...]) -> list[Any]:
    """What every driver gives in one form: not jsonb, arrays and bytea."""
    plain = (str, int, float, Decimal, date)
    return [
        comparable(value) if value is None or isinstance(value, plain) else type(None)
        for value in row
    ]


@pytest.mark.parametrize("read", [_psycopg, _pandas, _connectorx, _adbc], ids=lambda r: r.__name__)
def test_every_relation_reads_the_same_with_every_driver(
    postgres: EmbeddedPostgres,
    database: str,
    statements: dict[str, str],
    right: dict[str, list[Any]],
    read: Callable[[str, str], list[tuple[Any, ...]]],
) -> None:
    url = postgres.url(database, READER, driver="postgresql")
    for source, statement in statements.items():
        close = 60 if source in UNTIL_NOW else 0.001
        given = read(statement, url)
        assert len(given) == len(right[statement]), statement
        for one, other in zip(given, right[statement], strict=True):
            for mine, its in zip(_scalars(one), _scalars(other), strict=True):
                near = isinstance(its, float) and abs(its - mine) < close
                assert near or mine == its or type(None) in (mine, its), statement
