"""What the database gives a seal: final ids, the head at each poll, planned targets, a role."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.runs import record_planned
from im_attr_audit.record.upkeep.migrate import migrate
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from launch.processes import wait_until
from tests.conftest import SEALER, AuditDb
from tests.history import polled
from tests.test_schema import GENDER_CITY, SEX_CITY, months_before, record, refused, run

CLOSE = "select * from attr_audit_internal.close_seal()"
POLL = (
    "insert into attr_audit.poll (conn_id, region, sdk_app_id, requested_at, outcome) "
    "values ('c', 'seoul', 2, now(), 'rejected')"
)
UP_TO = "select poll_id from attr_audit.poll where poll_id <= :last"


@pytest.fixture
def sealer(audit_db: AuditDb) -> Iterator[Engine]:
    engine = create_audit_engine(make_url(audit_db.url(SEALER)))
    yield engine
    engine.dispose()


def sealed(sealer: Engine, bound: str) -> tuple[int, set[int]]:
    """The last poll that `bound` lets into a seal, and the polls that it finds up to there."""
    last = run(sealer, bound)[0].last_poll_id or 0
    return last, polls_up_to(sealer, last)


def polls_up_to(sealer: Engine, last: int) -> set[int]:
    return {row.poll_id for row in run(sealer, UP_TO, last=last)}


def test_no_row_of_a_closed_seal_appears_later(audit_db: AuditDb, sealer: Engine) -> None:
    """Eight writers commit in any order, or not at all, until enough is sealed among them."""
    stop = threading.Event()
    url = audit_db.url("attr_audit_writer").replace("+psycopg2", "")

    def write(seed: int) -> None:
        choice = random.Random(seed)
        with psycopg2.connect(url) as connection:
            while not stop.is_set():
                with connection.cursor() as cursor:
                    for _ in range(choice.randrange(1, 4)):
                        cursor.execute(POLL)
                        cursor.execute("select pg_sleep(%s)", (choice.random() / 100,))
                choice.choice([connection.commit, connection.commit, connection.rollback])()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    for writer in writers:
        writer.start()
    closed: list[tuple[int, set[int]]] = []
    try:
        while len(closed) < 15 or len(closed[-1][1]) <= 20:
            assert all(writer.is_alive() for writer in writers)
            closed.append(sealed(sealer, CLOSE))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert [polls_up_to(sealer, last) - polls for last, polls in closed] == [set()] * len(closed)


def test_the_newest_poll_would_close_a_seal_too_early(audit_db: AuditDb, sealer: Engine) -> None:
    """Of two polls under way at once the later may commit first; a seal waits for the earlier."""
    newest = "select max(poll_id) as last_poll_id from attr_audit.poll"
    url = audit_db.url("attr_audit_writer").replace("+psycopg2", "")
    with (
        ThreadPoolExecutor(1) as thread,
        closing(psycopg2.connect(url)) as earlier,
        closing(psycopg2.connect(url)) as later,
    ):
        earlier.cursor().execute(POLL)
        later.cursor().execute(POLL)
        later.commit()
        assert sealed(sealer, newest) == (2, {2})
        seal = thread.submit(sealed, sealer, CLOSE)
        assert wait_until(lambda: audit_db.waiting_for_locks() == 1, seconds=60)
        earlier.commit()
        assert seal.result() == (2, {1, 2})


def test_a_poll_knows_the_newest_change_of_its_app(audit_db: AuditDb) -> None:
    months_before(audit_db)
    for at, names in enumerate((SEX_CITY, SEX_CITY, GENDER_CITY, GENDER_CITY)):
        record(audit_db, polled(names, names, at=900 * at))
    record(audit_db, polled(SEX_CITY, SEX_CITY, at=0, region="seoul", sdk_app_id=2))
    heads = run(audit_db.reader, "select head_seq from attr_audit.poll order by poll_id")
    assert [head for (head,) in heads] == [None, 2, 2, 3, None]

    def insert(head: str) -> str:
        return (
            "insert into attr_audit.poll (conn_id, region, sdk_app_id, api, requested_at, outcome, "
            "error_info, head_seq) values ('c', 'seoul', 2, 'timpush', now(), 'rejected', "
            f"'no', {head})"
        )

    for wrong in ("1", "3", "0"):
        assert "that is not the newest change of its app" in refused(audit_db.writer, insert(wrong))
    run(audit_db.writer, insert("2"))
    run(audit_db.writer, insert("null"))
    [*_, said, left_out] = run(
        audit_db.reader, "select head_seq from attr_audit.poll order by poll_id"
    )
    assert (said.head_seq, left_out.head_seq) == (2, 2)


def test_what_a_run_planned_is_recorded_and_cannot_be_rewritten(audit_db: AuditDb) -> None:
    record_planned(audit_db.writer, "r", [("a", "seoul", 2), ('b"\\', None, None)])
    [row] = run(audit_db.reader, "select * from attr_audit.planned")
    assert (row.dag_run_id, row.conn_ids, row.regions, row.sdk_app_ids) == (
        "r",
        ["a", 'b"\\'],
        ["seoul", None],
        [2, None],
    )
    for table in ("planned", "seal"):
        for statement in (f"delete from attr_audit.{table}", f"truncate attr_audit.{table}"):
            assert "append-only" in refused(audit_db.owner, statement)
            assert "permission denied" in refused(audit_db.writer, statement)


def test_the_sealer_reads_and_seals_and_does_nothing_else(
    audit_db: AuditDb, sealer: Engine
) -> None:
    for table in ("app", "poll", "change", "snapshot", "planned", "seal"):
        run(sealer, f"select * from attr_audit.{table}")
    insert = (
        "insert into attr_audit.seal (origin, n, leaf, note, last_poll_id, last_change_id, "
        "last_planned_id, marks) values ('a', 0, '', '', 0, 0, 0, '')"
    )
    run(sealer, insert)
    for engine in (audit_db.writer, audit_db.reader):
        assert "permission denied" in refused(engine, insert)
        assert "permission denied" in refused(engine, CLOSE)
    for statement in (
        POLL,
        "update attr_audit.seal set n = 1",
        "insert into attr_audit.planned (dag_run_id, conn_ids, regions, sdk_app_ids) "
        "values ('r', '{}', '{}', '{}')",
        "select attr_audit_internal.ensure_poll_partitions()",
    ):
        assert "permission denied" in refused(sealer, statement)


def test_partitions_with_polls_have_the_index_by_id_after_the_upgrade(
    postgres: EmbeddedPostgres,
) -> None:
    name = "before_seals"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    url = postgres.url(name)
    migrate(url, "0007")
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        connection.cursor().execute(POLL)
    migrate(url)
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(
            """
            select (select count(*) from pg_inherits
                     where inhparent = 'attr_audit.poll'::regclass)
                 - (select count(*) from pg_inherits
                     where inhparent = 'attr_audit.poll_by_id'::regclass),
                   (select indisvalid from pg_index
                     where indexrelid = 'attr_audit.poll_by_id'::regclass),
                   (select head_seq from attr_audit.poll)
            """
        )
        assert cursor.fetchall() == [(0, True, None)]
