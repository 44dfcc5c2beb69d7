"""What the database itself keeps: append-only, the chain, the order, who may do what."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from im_attr_audit.record.store import record_polls
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from launch.postgres import EmbeddedPostgres
from tests.conftest import AuditDb
from tests.history import NamesLike, polled

SEX_CITY: NamesLike = {0: "sex", 1: "city"}
GENDER_CITY: NamesLike = {0: "gender", 1: "city"}


def run(engine: Engine, sql: str, **values: Any) -> list[Any]:
    """The rows of one statement in its own transaction."""
    with engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return list(result) if result.returns_rows else []


def record(db: AuditDb, *polls: Any, run_id: str = "run") -> None:
    """Record polls one after the other, as the writer."""
    for poll in polls:
        record_polls(db.writer, [poll], dag_run_id=run_id, try_number=1)


@pytest.fixture
def seeded(audit_db: AuditDb) -> AuditDb:
    """Two apps, one of them renamed once."""
    months_before(audit_db)
    record(
        audit_db,
        polled(SEX_CITY, SEX_CITY, at=0),
        polled(SEX_CITY, SEX_CITY, at=0, region="seoul", sdk_app_id=2),
        polled(GENDER_CITY, GENDER_CITY, at=900),
    )
    return audit_db


def months_before(db: AuditDb) -> None:
    """Partitions for the time that hand-made histories lie in."""
    run(
        db.owner,
        "select attr_audit_internal.create_poll_partition(m::date) "
        "from generate_series(timestamp '2026-09-01', now()::timestamp, '1 month') m",
    )


def refused(engine: Engine, sql: str, **values: Any) -> str:
    """The database's refusal, as text; fails if it does not refuse."""
    with pytest.raises(DBAPIError) as error:
        run(engine, sql, **values)
    return str(error.value.orig)


@pytest.mark.parametrize("role", ["owner", "writer"])
@pytest.mark.parametrize("table", ["change", "poll", "partition"])
@pytest.mark.parametrize("how", ["update", "delete", "truncate"])
def test_the_record_cannot_be_rewritten(seeded: AuditDb, role: str, table: str, how: str) -> None:
    name = {
        "change": "attr_audit.change",
        "poll": "attr_audit.poll",
        "partition": "attr_audit_internal.poll_2026_11",
    }[table]
    before = run(seeded.owner, f"select * from {name} order by 1, 2")
    statement = {
        "update": f"update {name} set dag_run_id = 'other'",
        "delete": f"delete from {name}",
        "truncate": f"truncate {name}",
    }[how]
    message = refused(getattr(seeded, role), statement)
    assert "append-only" in message if role == "owner" else "permission denied" in message
    assert run(seeded.owner, f"select * from {name} order by 1, 2") == before


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("change", "change_id"),
        ("change", "seq"),
        ("change", "recorded_at"),
        ("change", "prev_hash"),
        ("change", "row_hash"),
        ("change", "prior_ok_at"),
        ("poll", "poll_id"),
        ("poll", "recorded_at"),
    ],
)
def test_the_writer_cannot_say_what_the_database_says(
    seeded: AuditDb, table: str, column: str
) -> None:
    message = refused(
        seeded.writer,
        f"insert into attr_audit.{table} ({column}) overriding system value values (null)",
    )
    assert "permission denied" in message


def test_the_writer_has_no_way_around_the_record(seeded: AuditDb) -> None:
    for statement in (
        "insert into attr_audit.snapshot values ('seoul', 2, 7, 'x', null, null, now())",
        "update attr_audit.snapshot set name = 'x'",
        "delete from attr_audit.snapshot",
        "delete from attr_audit.app",
        "insert into attr_audit_internal.poll_2026_11 (conn_id, requested_at, outcome) "
        "values ('c', now(), 'ok')",
        "select attr_audit_internal.create_poll_partition(date '2030-01-01')",
    ):
        assert "permission denied" in refused(seeded.writer, statement)
    for statement in (
        "alter table attr_audit.change disable trigger all",
        "drop table attr_audit.change",
        "alter table attr_audit.poll detach partition attr_audit_internal.poll_2026_11",
    ):
        assert "must be owner" in refused(seeded.writer, statement)


CHANGE = """
with good as (
    insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, responded_at, outcome)
    values ('c', 'frankfurt', 1400000001, timestamptz '2026-11-01T00:30:00Z' - interval '1 second',
            '2026-11-01T00:30:00Z', 'ok')
    returning poll_id
)
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
                               is_baseline, not_before, seen_at, poll_id)
select 'frankfurt', 1400000001, :slot, :old, :new, null, :type, :baseline,
       case when :baseline then null
            else cast(:before as timestamptz) end, cast(:seen as timestamptz), poll_id
  from good
"""


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"old": "sex"}, "does not start from the name last known"),
        ({"slot": 5, "old": "x"}, "does not start from the name last known"),
        ({"new": "gender", "baseline": True}, "something_changed"),
        ({"seen": "2026-11-01T00:10:00Z"}, "dated before the last good poll"),
        ({"before": "2026-11-01T00:10:00Z"}, "dated before the last good poll"),
        ({"seen": "2100-01-01T00:00:00Z"}, "seen_at_is_not_in_the_future"),
        ({"before": "2026-11-02T00:00:00Z"}, "bounds_do_not_cross"),
        ({"slot": 1000, "old": None}, "slot_is_in_range"),
        ({"new": "x" * 1025}, "names_are_at_most_1024_bytes"),
        ({"new": None, "type": 1}, "a_type_needs_a_name"),
        ({"new": "gender", "type": 1}, "a_type_first_learned_is_a_baseline"),
    ],
)
def test_a_change_that_does_not_continue_the_record_is_refused(
    seeded: AuditDb, change: dict[str, Any], rule: str
) -> None:
    values = {
        "slot": 0,
        "old": "gender",
        "new": "sex",
        "type": None,
        "baseline": False,
        "before": "2026-11-01T00:15:02Z",
        "seen": "2026-11-01T00:30:00Z",
    }
    assert rule in refused(seeded.writer, CHANGE, **(values | change))
    run(seeded.writer, CHANGE, **values)  # and the one that does continue it is taken


def test_the_same_change_is_not_recorded_twice(seeded: AuditDb) -> None:
    again = {
        "slot": 0,
        "old": "sex",
        "new": "gender",
        "type": None,
        "baseline": False,
        "before": "2026-11-01T00:15:02Z",
        "seen": "2026-11-01T00:30:00Z",
    }
    assert "does not start from" in refused(seeded.writer, CHANGE, **again)


def test_a_poll_from_the_future_is_refused(seeded: AuditDb) -> None:
    poll = (
        "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, responded_at, "
        "outcome) values ('c', 'seoul', 2, now() + :asked, now() + :answered, 'ok')"
    )
    hour = timedelta(hours=1)
    assert "requested_at_is_not_in" in refused(seeded.writer, poll, asked=hour, answered=hour)
    assert "responded_at_is_not_in" in refused(
        seeded.writer, poll, asked=timedelta(0), answered=hour
    )
    for answered in ("null", "now()"):
        again = (
            "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, responded_at, "
            f"last_requested_at, outcome) values ('c', 'seoul', 2, now(), {answered}, "
            "now() + interval '1 hour', 'ok')"
        )
        assert "reads_are_in_order" in refused(seeded.writer, again)


def test_the_writer_cannot_say_that_an_apps_row_is_another_apps(seeded: AuditDb) -> None:
    for renamed in ("region = 'elsewhere'", "sdk_app_id = -1"):
        assert "permission denied" in refused(seeded.writer, f"update attr_audit.app set {renamed}")


def test_set_based_inserts_chain_and_replaying_gives_the_snapshot(seeded: AuditDb) -> None:
    rows = run(
        seeded.reader,
        "select region, sdk_app_id, seq, slot, kind, prev_hash, row_hash from attr_audit.change "
        "order by region, sdk_app_id, seq",
    )
    assert [(r.region, r.seq, r.slot, r.kind) for r in rows] == [
        ("frankfurt", 1, 0, "baseline"),
        ("frankfurt", 2, 1, "baseline"),
        ("frankfurt", 3, 0, "renamed"),
        ("seoul", 1, 0, "baseline"),
        ("seoul", 2, 1, "baseline"),
    ]
    for before, after in itertools.pairwise(rows):
        expected = before.row_hash if before.region == after.region else None
        assert after.prev_hash == expected
    assert run(
        seeded.reader, "select region, slot, name from attr_audit.snapshot order by 1, 2"
    ) == [
        ("frankfurt", 0, "gender"),
        ("frankfurt", 1, "city"),
        ("seoul", 0, "sex"),
        ("seoul", 1, "city"),
    ]


VERIFY = "select * from attr_audit.verify_chain() order by region, sdk_app_id"


def test_the_chain_verifies_the_same_under_any_session(seeded: AuditDb) -> None:
    plain = run(seeded.reader, VERIFY)
    assert [(r.ok, r.rows_checked, r.head_seq) for r in plain] == [(True, 3, 3), (True, 2, 2)]
    with seeded.reader.begin() as connection:
        for setting in (
            "set local timezone = 'America/St_Johns'",
            "set local datestyle = 'German'",
            "set local search_path = pg_temp",
            "set local bytea_output = 'escape'",
            "set local intervalstyle = 'sql_standard'",
        ):
            connection.execute(text(setting))
        assert list(connection.execute(text(VERIFY))) == plain


def as_a_forger(db: AuditDb, *statements: str) -> None:
    """Statements as the owner without triggers and foreign key: what only the hashes betray."""
    with db.owner.begin() as connection:
        connection.execute(text("alter table attr_audit.change disable trigger user"))
        connection.execute(
            text("alter table attr_audit.change drop constraint if exists change_of_an_app")
        )
        for statement in statements:
            connection.execute(text(statement))
        connection.execute(text("alter table attr_audit.change enable trigger user"))


EDITABLE = {
    "change_id": "change_id + 100",
    "region": "'seoul2'",
    "sdk_app_id": "3",
    "slot": "slot + 1",
    "old_name": "'forged'",
    "new_name": "'forged'",
    "old_type": "1, new_type = 1",
    "new_type": "1",
    "is_baseline": "true, not_before = null",
    "not_before": "not_before - interval '1 second'",
    "seen_at": "seen_at + interval '1 microsecond'",
    "answer": "'forged'",
    "poll_id": "poll_id + 1",
    "dag_run_id": "'forged'",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "prior_ok_at": "prior_ok_at + interval '1 microsecond'",
    "old_not_before": "seen_at",
    "old_seen_at": "seen_at",
    "prev_hash": "'\\x00'",
    "row_hash": "'\\x00'",
}


@pytest.mark.parametrize("column", EDITABLE)
def test_an_edit_of_any_column_is_found(seeded: AuditDb, column: str) -> None:
    overriding = "alter table attr_audit.change alter change_id set generated by default"
    as_a_forger(
        seeded,
        overriding,
        f"update attr_audit.change set {column} = {EDITABLE[column]} "
        "where region = 'frankfurt' and seq = 3",
    )
    bad = [r for r in run(seeded.reader, VERIFY) if not r.ok]
    if column in ("region", "sdk_app_id"):
        # The row has left its chain's end unnoticed (a cut tail), but cannot begin another one.
        assert [r.first_bad_seq for r in bad] == [3]
    else:
        assert [(r.region, r.first_bad_seq) for r in bad] == [("frankfurt", 3)]


def test_every_column_but_the_derived_one_is_hashed(seeded: AuditDb) -> None:
    columns = {
        r.column_name
        for r in run(
            seeded.owner,
            "select column_name from information_schema.columns "
            "where table_schema = 'attr_audit' and table_name = 'change'",
        )
    }
    # seq has the reordering test; the others are derived.
    assert columns - set(EDITABLE) == {"seq", "kind", "span_from", "span_class"}


def test_a_missing_middle_row_and_a_reordering_are_found(seeded: AuditDb) -> None:
    record(seeded, polled(SEX_CITY, SEX_CITY, at=1800))
    as_a_forger(seeded, "delete from attr_audit.change where region = 'frankfurt' and seq = 2")
    [bad] = [r for r in run(seeded.reader, VERIFY) if not r.ok]
    assert (bad.region, bad.first_bad_seq) == ("frankfurt", 3)
    as_a_forger(
        seeded,
        "update attr_audit.change set seq = -seq where region = 'seoul'",
        "update attr_audit.change set seq = 3 + seq where region = 'seoul'",
    )
    assert {(r.region, r.first_bad_seq) for r in run(seeded.reader, VERIFY) if not r.ok} == {
        ("frankfurt", 3),
        ("seoul", 1),
    }


def test_the_reader_reads_and_does_nothing_else(seeded: AuditDb) -> None:
    for relation in (
        "app",
        "poll",
        "snapshot",
        "change",
        "current_names",
        "name_history",
        "drift",
        "freshness",
        "daily_changes",
        "names_as_of(now())",
        "coverage_gaps()",
        "verify_chain()",
    ):
        run(seeded.reader, f"select * from attr_audit.{relation}")
    for statement in (
        "insert into attr_audit.poll (conn_id, requested_at, outcome) values ('c', now(), 'ok')",
        "update attr_audit.app set retired_at = now()",
        "select attr_audit_internal.ensure_poll_partitions()",
        "select * from attr_audit_internal.alembic_version",
        "create table attr_audit.mine (x int)",
    ):
        assert "permission denied" in refused(seeded.reader, statement)


def test_everything_an_analyst_meets_is_commented(audit_db: AuditDb) -> None:
    without = run(
        audit_db.owner,
        """
        select c.relname || coalesce('.' || a.attname, '')
          from pg_class c
          join pg_namespace n on n.oid = c.relnamespace
          left join pg_attribute a on a.attrelid = c.oid and a.attnum >= 0 and not a.attisdropped
         where n.nspname like 'attr_audit%' and c.relkind in ('r', 'v', 'p')
           and c.relname not in ('alembic_version') and not c.relispartition
           and col_description(c.oid, a.attnum) is null and a.attnum is not null
        union all
        select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname like 'attr_audit%' and c.relkind in ('r', 'v', 'p')
           and c.relname not in ('alembic_version') and obj_description(c.oid, 'pg_class') is null
        union all
        select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname like 'attr_audit%' and obj_description(p.oid, 'pg_proc') is null
        """,
    )
    assert without == []


def test_poll_has_its_partitions_three_months_ahead_each_guarded(audit_db: AuditDb) -> None:
    partitions = run(
        audit_db.owner,
        "select c.relname, (select count(*) from pg_trigger t where t.tgrelid = c.oid "
        " and t.tgname = 'append_only') as guards "
        "from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = 'attr_audit.poll'::regclass",
    )
    expected = run(
        audit_db.owner,
        "select to_char(m, '\"poll_\"YYYY_MM') from generate_series("
        "date_trunc('month', now() at time zone 'UTC'), "
        "date_trunc('month', now() at time zone 'UTC') + interval '3 months', '1 month') m",
    )
    assert {r.relname for r in partitions} >= {name for (name,) in expected}
    assert {r.guards for r in partitions} == {1}
    assert run(audit_db.writer, "select attr_audit_internal.ensure_poll_partitions()") == [(0,)]


def test_a_month_can_begin_while_a_reader_holds_a_snapshot(seeded: AuditDb) -> None:
    with seeded.reader.connect() as busy:
        busy.execute(text("set transaction isolation level repeatable read"))
        busy.execute(text("select count(*) from attr_audit.poll"))
        run(
            seeded.owner,
            "set lock_timeout = '5s'; "
            "select attr_audit_internal.create_poll_partition(date '2031-01-01')",
        )


def test_every_step_of_the_migrations_keeps_what_was_recorded(postgres: EmbeddedPostgres) -> None:
    name = "step_by_step"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    url = postgres.url(name)
    for revision in revisions():
        assert migrate(url, revision) == revision
        with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
            cursor = connection.cursor()
            if revision == "0001":
                cursor.execute(
                    "insert into attr_audit.app (region, sdk_app_id, api, first_polled_at, "
                    "last_polled_at, last_outcome, conn_id) "
                    "values ('seoul', 2, 'timpush', now(), now(), 'ok', 'c'); "
                    "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, "
                    "outcome) values ('c', 'seoul', 2, now(), 'ok'); "
                    "insert into attr_audit.change (region, sdk_app_id, slot, new_name, "
                    "is_baseline, seen_at, poll_id) values ('seoul', 2, 0, 'sex', true, now(), 1)"
                )
            cursor.execute(
                "select (select count(*) from attr_audit.poll), "
                "(select array_agg(name) from attr_audit.snapshot), "
                "(select encode(row_hash, 'hex') from attr_audit.change)"
            )
            row = cursor.fetchone()
        if revision == "0001":
            seen = row
        assert row == seen
    schema = (
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where nspname like 'attr_audit%'"
    )
    with postgres.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute(schema)
        before = cursor.fetchone()
        migrate(url)
        cursor.execute(schema)
        assert cursor.fetchone() == before
