"""What each role sees of the schema, groups of the past, reference data, names that look alike."""

from __future__ import annotations

import queue
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.migrate import migrate, print_roles, revisions
from im_attr_audit.record.upkeep.reference import confusables
from im_attr_audit.tencent.codes import CODES, FAMILIES, lookup
from sqlalchemy import text

from launch.postgres import EmbeddedPostgres
from launch.processes import wait_until
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import START, polled
from tests.test_schema import GENDER_CITY, SEX_CITY, months_before, refused, run

#: Every relation of the contract that this revision has. A new one is added here.
RELATIONS = {
    *("app", "poll", "snapshot", "change", "membership", "notification", "clock_correction"),
    "coverage",
    *("current_names", "name_history", "drift", "freshness", "daily_changes"),
    *("changes", "polls", "drift_episodes", "coverage_by_month"),
    *("declaration", "declared_names", "violations"),
    *("planned", "seal", "witnessed"),
    *("review", "unreviewed_changes"),
}
FUNCTIONS = {
    "names_as_of(timestamp with time zone)",
    "names_as_of(text)",
    "coverage_gaps(interval)",
    "coverage_gaps(text)",
    "gaps(timestamp with time zone,timestamp with time zone,interval)",
    "gaps(text,text,text)",
    "name_in_window(text,timestamp with time zone,timestamp with time zone,text)",
    "name_in_window(text,text,text,text)",
    "attest(timestamp with time zone,timestamp with time zone,text)",
    "attest(text,text,text)",
    "verify_chain()",
}


@pytest.fixture(scope="module")
def week(postgres: EmbeddedPostgres, template: str) -> Any:
    """One database for the tests that change nothing: an app, renamed once."""
    with fresh_audit_db(postgres, template) as db:
        months_before(db)
        for at, names in ((0, SEX_CITY), (900, GENDER_CITY)):
            record_polls(db.writer, [polled(names, names, at=at)], dag_run_id="r", try_number=1)
        yield db


# What the reader sees ---------------------------------------------------------------------------


def test_the_reader_sees_exactly_the_public_relations_and_can_read_each(week: AuditDb) -> None:
    """As BI tools list them: from pg_class (Superset) and from information_schema."""
    listed = run(
        week.reader,
        "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = 'attr_audit' and c.relkind in ('r', 'v', 'm', 'f', 'p')",
    )
    standard = run(
        week.reader,
        "select table_name from information_schema.tables where table_schema like 'attr_audit%'",
    )
    assert {name for (name,) in listed} == RELATIONS
    assert {name for (name,) in standard} == RELATIONS
    for relation in RELATIONS:
        run(week.reader, f"select * from {relation}")  # by search_path


def test_the_reader_sees_exactly_the_public_functions_and_can_call_each(week: AuditDb) -> None:
    listed = run(
        week.reader,
        "select oid::regprocedure::text from pg_proc "
        "where pronamespace = 'attr_audit'::regnamespace",
    )
    assert {name.removeprefix("attr_audit.") for (name,) in listed} == FUNCTIONS
    for call in ("names_as_of(now())", "names_as_of('2026-11-01')", "coverage_gaps('2 hours')"):
        run(week.reader, f"select * from {call}")
    [row] = run(week.reader, "select * from verify_chain()")
    assert (row.ok, row.rows_checked) == (True, 3)


def test_the_reader_has_no_way_into_the_internal_schema(week: AuditDb) -> None:
    internal = run(
        week.owner,
        "select 'select * from attr_audit_internal.' || relname from pg_class "
        "where relnamespace = 'attr_audit_internal'::regnamespace and relkind in ('r', 'v', 'p') "
        "union all select 'select attr_audit_internal.ensure_poll_partitions()'",
    )
    assert len(internal) > 6
    for (statement,) in internal:
        assert "permission denied for schema" in refused(week.reader, statement)
    [(usable,)] = run(
        week.owner,
        "select count(*) from pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a "
        "where pronamespace in ('attr_audit'::regnamespace, 'attr_audit_internal'::regnamespace) "
        "and a.grantee = 0",
    )
    assert usable == 0  # nothing is executable by everyone


def test_the_roles_find_attr_audit_without_a_qualifier(week: AuditDb) -> None:
    for role in ("attr_audit_reader", "attr_audit_writer", "attr_audit_sealer"):
        with psycopg2.connect(week.url(role).replace("+psycopg2", "")) as connection:
            cursor = connection.cursor()
            cursor.execute("show search_path")
            assert cursor.fetchone() == ("attr_audit",)
        assert f"alter role {role} set search_path = attr_audit;" in print_roles("d")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/St_Johns"])
def test_a_time_as_text_is_the_literal_in_the_session_zone(week: AuditDb, zone: str) -> None:
    with week.reader.begin() as connection:
        connection.execute(text(f"set local timezone = '{zone}'"))
        at = "2026-11-01 12:00:00"
        answers = [
            connection.execute(text(f"select * from names_as_of({argument})")).all()
            for argument in (
                f"'{at}'",
                f"'{at}'::varchar",  # what JDBC's setString binds
                f"'{at}'::text",
                f"timestamptz '{at}'",
                f"timestamp '{at}'",
            )
        ]
        assert answers[0]
        assert all(answer == answers[0] for answer in answers)
        for argument in ("'1 hour'::varchar", "'1 hour'", "interval '1 hour'", ""):
            gaps = connection.execute(text(f"select * from coverage_gaps({argument})")).all()
            assert len(gaps) == 1


def test_a_time_that_is_bound_finds_its_function(week: AuditDb) -> None:
    at = START + timedelta(hours=1)
    with psycopg2.connect(week.url("attr_audit_reader").replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        for prepared in ("", "text", "varchar", "timestamptz"):
            cursor.execute(
                f"prepare p{prepared} {f'({prepared})' if prepared else ''} as "
                "select name from names_as_of($1)"
            )
            cursor.execute(f"execute p{prepared} (%s)", (at.isoformat(),))
            assert sorted(cursor.fetchall()) == [("city",), ("gender",)]
        cursor.execute("select name from names_as_of(%s)", (at,))
        assert sorted(cursor.fetchall()) == [("city",), ("gender",)]


# Upgrading --------------------------------------------------------------------------------------


def schemas(url: str) -> dict[str, str]:
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "select relname, relnamespace::regnamespace::text from pg_class "
            r"where relname ~ '^(alembic_version|poll|poll_\d+_\d+)$'"
        )
        return dict(cursor.fetchall())


def execute(url: str, statement: str) -> Any:
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture
def before(postgres: EmbeddedPostgres) -> Any:
    """A database as the release before left it: at 0005, everything in attr_audit."""
    name = "before_catalogue"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    url = postgres.url(name)
    migrate(url, "0005")
    execute(
        url,
        "alter table attr_audit_internal.alembic_version set schema attr_audit; "
        "drop schema attr_audit_internal; "
        "insert into attr_audit.app (region, sdk_app_id, api, first_polled_at, last_polled_at, "
        "last_outcome, conn_id) values ('seoul', 2, 'timpush', '2026-01-01Z', now(), 'ok', 'c'), "
        "('ahead', 3, 'timpush', now() + interval '2 days', now(), 'ok', 'c'); "
        "alter table attr_audit.poll detach partition attr_audit.poll_"
        + execute(url, "select to_char(now() at time zone 'UTC' + '3 months', 'YYYY_MM')")[0][0],
    )
    yield url
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database {name} with (force)")


def test_an_upgrade_moves_the_version_table_and_every_partition(before: str) -> None:
    assert set(schemas(before).values()) == {"attr_audit"}
    assert migrate(before) == revisions()[-1]
    moved = schemas(before)
    assert moved.pop("poll") == "attr_audit"
    assert set(moved.values()) == {"attr_audit_internal"}
    assert len(moved) == 5  # with the month that a retention had detached
    assert migrate(before) == revisions()[-1]


def test_the_previous_package_continues_until_the_second_migrate(before: str) -> None:
    """What it calls, as the role that calls it: tasks, `verify`, the auditor's export."""
    calls = {
        "select attr_audit.ensure_poll_partitions()": ["attr_audit_writer"],
        "select * from attr_audit.correct_future_times(array['seoul'], array[2], now())": [
            "attr_audit_writer"
        ],
        "select attr_audit.snapshot_digest_of('seoul', 2)": [
            "attr_audit_writer",
            "attr_audit_reader",
        ],
        "select attr_audit.epoch_us(now())": ["attr_audit_writer", "attr_audit_reader"],
    }
    as_roles = [f"set role {role}; {call}" for call, roles in calls.items() for role in roles]
    answers = {
        statement: execute(before, statement) for statement in as_roles if "now()" not in statement
    }
    migrate(before)
    for statement in as_roles:
        answer = execute(before, statement)
        assert answer == answers.get(statement, answer)
    migrate(before)
    for statement in as_roles:
        with pytest.raises(psycopg2.errors.UndefinedFunction):
            execute(before, statement)


@pytest.mark.parametrize(
    "left",
    [
        "create schema attr_audit_internal authorization attr_audit_owner; "
        "create table attr_audit_internal.alembic_version (version_num varchar(32) primary key)",
        "create schema attr_audit_internal authorization attr_audit_owner; "
        "alter table attr_audit.alembic_version set schema attr_audit_internal",
        "create schema attr_audit_internal authorization attr_audit_owner; "
        "alter table attr_audit.alembic_version set schema attr_audit_internal; "
        "create table attr_audit.alembic_version (version_num varchar(32) primary key)",
    ],
    ids=["an empty new table", "moved already", "an empty old table"],
)
def test_a_half_done_move_of_the_version_table_is_finished(before: str, left: str) -> None:
    execute(before, f"set role attr_audit_owner; {left}")
    assert migrate(before) == revisions()[-1]
    assert schemas(before)["alembic_version"] == "attr_audit_internal"


def test_an_upgrade_and_a_poll_that_is_recorded_do_not_wait_for_each_other(
    postgres: EmbeddedPostgres,
) -> None:
    """Recording locks the app first and change later; the steps change these in another order."""
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database beside_a_poll")
    url = postgres.url("beside_a_poll")
    migrate(url, "0001")
    said = queue.SimpleQueue[str]()
    with (
        postgres.connect("beside_a_poll") as connection,
        connection.cursor() as cursor,
        ThreadPoolExecutor() as pool,
    ):
        cursor.execute("begin")
        cursor.execute("select from attr_audit.app for update")
        upgrade = pool.submit(migrate, url, report=said.put)
        assert "Waiting for a lock" in said.get(timeout=60)
        waits = "select count(*) from pg_locks where not granted and relation is not null"
        assert wait_until(lambda: execute(url, waits) == [(1,)], seconds=60)
        # As an insert does, but for the wait.
        cursor.execute("lock table attr_audit.change in row exclusive mode nowait")
        cursor.execute("commit")
        assert upgrade.result(timeout=60) == revisions()[-1]
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("drop database beside_a_poll with (force)")


def test_old_rows_without_an_app_do_not_stop_the_upgrade(before: str) -> None:
    execute(
        before,
        "set session_replication_role = replica; "
        "insert into attr_audit.snapshot values ('gone', 9, 0, 'x', null, null, now())",
    )
    said: list[str] = []
    assert migrate(before, report=said.append) == revisions()[-1]
    assert said == [
        "attr_audit.snapshot has rows whose app is not in attr_audit.app; "
        "run `im-attr-audit verify`."
    ]
    assert execute(
        before, "select conname from pg_constraint where contype = 'f' and not convalidated"
    ) == [("snapshot_of_an_app",)]


def test_indexes_of_change_are_built_after_the_upgrade_where_it_has_rows(before: str) -> None:
    execute(
        before,
        "set session_replication_role = replica; "
        "insert into attr_audit.change (region, sdk_app_id, seq, slot, new_name, is_baseline, "
        "seen_at, poll_id, recorded_at, row_hash) "
        "values ('seoul', 2, 1, 0, 'x', true, now(), 1, now(), '')",
    )
    indexes = (
        "select relname from pg_index join pg_class c on c.oid = indexrelid "
        "where indrelid = 'attr_audit.change'::regclass and indisvalid "
        "and relname in ('change_by_day', 'change_by_old_name') order by relname"
    )
    migrate(before)
    assert execute(before, indexes) == [("change_by_day",), ("change_by_old_name",)]
    # As an interrupted `migrate` leaves it.
    execute(before, "drop index attr_audit.change_by_old_name")
    migrate(before)
    assert execute(before, indexes) == [("change_by_day",), ("change_by_old_name",)]


# The group of then ------------------------------------------------------------------------------

GROUPS = "select app_group, from_at from attr_audit.membership order by from_at"


def test_an_upgrade_dates_the_present_groups_from_the_first_poll(before: str) -> None:
    migrate(before)
    rows = execute(before, "select region, from_at <= now() from attr_audit.membership")
    assert sorted(rows) == [("ahead", True), ("seoul", True)]
    assert execute(
        before, "select count(*) from attr_audit.membership where from_at = '2026-01-01Z'"
    ) == [(1,)]


def test_membership_has_a_row_whenever_the_group_changes(audit_db: AuditDb) -> None:
    months_before(audit_db)
    for at, group in ((0, "shop"), (900, "shop"), (1800, "other"), (2700, "shop")):
        poll = polled(SEX_CITY, SEX_CITY, at=at, app_group=group)
        record_polls(audit_db.writer, [poll], dag_run_id=str(at), try_number=1)
    first, *later = run(audit_db.reader, GROUPS)
    assert first == ("shop", START)
    # Dated by the request of the poll's last read.
    assert [(r.app_group, (r.from_at - START).total_seconds() // 60) for r in later] == [
        ("other", 30),
        ("shop", 45),
    ]
    # Without a poll it is dated by the database's clock, and never twice at the same time.
    run(audit_db.writer, "update attr_audit.app set app_group = 'third'")
    [(is_now,)] = run(
        audit_db.reader,
        "select now() - max(from_at) < '1 minute' from attr_audit.membership",
    )
    assert is_now
    run(audit_db.writer, "update attr_audit.app set app_group = 'third'")
    assert len(run(audit_db.reader, GROUPS)) == 4


def test_membership_cannot_be_rewritten(audit_db: AuditDb) -> None:
    for statement in (
        "update attr_audit.membership set app_group = 'x'",
        "delete from attr_audit.membership",
        "truncate attr_audit.membership",
    ):
        assert "append-only" in refused(audit_db.owner, statement)
        assert "permission denied" in refused(audit_db.writer, statement)
    assert "permission denied" in refused(
        audit_db.writer, "insert into attr_audit.membership values ('seoul', 2, 'x', now())"
    )


# Reference data ---------------------------------------------------------------------------------


def test_migrate_keeps_the_reference_data_equal_to_the_package(audit_db: AuditDb) -> None:
    everything = [
        "select outcome, meaning, coalesce(advice, '') from attr_audit_internal.outcome",
        "select code, meaning || ' ' || advice from attr_audit_internal.error_code",
        "select source, target from attr_audit_internal.confusable",
    ]
    expected = [
        {(o.name, o.meaning, o.advice) for o in OUTCOMES.values()},
        {(row.code, row.sentence) for row in CODES.values()},
        set(confusables().items()),
    ]
    assert [set(map(tuple, run(audit_db.owner, s))) for s in everything] == expected
    run(
        audit_db.owner,
        "update attr_audit_internal.outcome set meaning = 'old' where outcome = 'ok'; "
        "delete from attr_audit_internal.error_code where code = 60006; "
        "insert into attr_audit_internal.error_code values (1, 'gone', 'from the package')",
    )
    place = "select array_agg(ctid order by ctid) from attr_audit_internal.confusable"
    before = run(audit_db.owner, place)
    migrate(audit_db.server.url(audit_db.name))
    assert [set(map(tuple, run(audit_db.owner, s))) for s in everything] == expected
    assert run(audit_db.owner, place) == before  # what is right is not written again


def test_every_code_that_no_page_names_is_in_one_family(audit_db: AuditDb) -> None:
    ends = sorted({end for f in FAMILIES for end in (f.first, f.last)})
    for code in (*ends, -1, 0, 5, 70049, 89999, 90989, 90990, 90999):
        found = run(
            audit_db.owner,
            "select meaning || ' ' || advice from attr_audit_internal.error_code_family "
            "where :code between first_code and last_code",
            code=code,
        )
        assert found == [(lookup(code).sentence,)]


# Names that look alike --------------------------------------------------------------------------

#: U+0430, U+0435 are Cyrillic; the examples of UTS 39 and of everyday mistakes.
LOOKALIKES: list[tuple[str | None, str | None, str | None]] = [
    ("sex", "sex", None),
    (None, "sex", None),
    ("sex", None, None),
    ("sex", "gender", None),
    ("城市", "年龄", None),
    ("", "x", None),
    ("Sex", "sex", "case"),
    ("ÉTÉ", "été", "case"),
    ("ΣΑΣ", "σας", "case"),
    ("Ж", "ж", "case"),
    ("Membership level ", "Membership level", "whitespace"),
    ("Membership  level", "Membership level", "whitespace"),
    ("Membership\u00a0level", "Membership level", "whitespace"),
    ("Membership\u3000level", "Membership level", "whitespace"),
    ("city\u200b", "city", "whitespace"),
    ("\ufeffcity", "city", "whitespace"),
    ("ci\u00adty", "city", "whitespace"),
    ("city\t", "city\n", "whitespace"),
    ("", " ", "whitespace"),
    ("Sex ", "sex", "whitespace"),
    ("caf\u00e9", "cafe\u0301", "normalization"),
    ("\uff33ex", "Sex", "normalization"),
    ("\ufb01le", "file", "normalization"),
    ("CAF\u00c9", "cafe\u0301", "normalization"),
    ("会员⼀", "会员一", "normalization"),
    ("paypal", "p\u0430yp\u0430l", "confusable"),
    ("scope", "\u0455\u0441\u043e\u0440\u0435", "confusable"),
    ("rn", "m", "confusable"),
    ("O", "0", "confusable"),
    ("Il", "l1", "confusable"),
    ("Paypal", "p\u0430yp\u0430l ", "confusable"),
    ("\U0001d4c8\U0001d4c2\U0001d4c2", "srnrn", "confusable"),
    ("caf\u00e9", "cafe", None),
]


def test_names_that_look_alike_are_told_apart_by_the_first_difference(audit_db: AuditDb) -> None:
    for function in ("attr_audit_internal.lookalike",):
        for a, b, expected in LOOKALIKES:
            for one, other in ((a, b), (b, a)):
                [(found,)] = run(
                    audit_db.owner,
                    f"select {function}(cast(:a as text), cast(:b as text))",
                    a=one,
                    b=other,
                )
                assert found == expected, (one, other)


def test_a_view_of_the_owner_can_use_lookalike_for_the_reader(audit_db: AuditDb) -> None:
    run(
        audit_db.owner,
        "create view attr_audit.probe as select attr_audit_internal.lookalike('Sex', 'sex') as l; "
        "grant select on attr_audit.probe to attr_audit_reader",
    )
    assert run(audit_db.reader, "select l from attr_audit.probe") == [("case",)]


def test_the_skeleton_is_that_of_the_standard(audit_db: AuditDb) -> None:
    """Computed again in Python for names that mix every source with others."""
    table = confusables()
    names = ["".join(part) for part in zip(table, list(table)[7:], list(table)[99:], strict=False)]
    names = names[::10]

    def skeleton(name: str) -> str:
        mapped = "".join(table.get(c, c) for c in unicodedata.normalize("NFD", name))
        return unicodedata.normalize("NFD", mapped)

    found = run(
        audit_db.owner,
        "select n, attr_audit_internal.skeleton(n) from unnest(cast(:names as text[])) n",
        names=names,
    )
    assert len(found) > 600
    # Only what this Python's Unicode knows too.
    known = [r for r in found if all(unicodedata.category(c) != "Cn" for c in r[0] + r[1])]
    assert len(known) > 500
    assert [(n, s) for n, s in known if s != skeleton(n)] == []


def test_only_these_characters_of_ascii_look_like_others() -> None:
    """lookalike() asks the table only where one of these is in a name of ASCII."""
    assert sorted(c for c in confusables() if c.isascii()) == sorted('"%01I`m|')


def test_every_invisible_character_counts_as_white_space(audit_db: AuditDb) -> None:
    blank = "".join(
        c
        for c in map(chr, range(1, 0x110000))
        if c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp")
    )
    [(left,)] = run(
        audit_db.owner, "select attr_audit_internal.without_blanks(:blank || 'x')", blank=blank
    )
    assert left == "x"
