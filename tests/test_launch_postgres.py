"""The embedded Postgres: real servers, killed, crowded out, copied, started by several at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from launch import processes
from launch.network import free_port
from launch.postgres import (
    ROOTS_PLACE,
    THROWAWAY,
    EmbeddedPostgres,
    PostgresError,
    bundled_binaries,
)

ROOT = Path(__file__).resolve().parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root alone")


def made_in(directory: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(directory, settings=THROWAWAY)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    embedded = made_in(tmp_path / "postgres")
    embedded.start()
    yield embedded
    embedded.destroy()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us."""
    process = subprocess.Popen(["/bin/sleep", "600"])
    yield process
    process.kill()
    process.wait()


def ask(server: EmbeddedPostgres, question: str) -> list[tuple[Any, ...]]:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def test_nobody_gets_in_without_the_password(postgres: EmbeddedPostgres) -> None:
    for password in ("", "postgres", "wrong"):
        with pytest.raises(psycopg2.OperationalError, match=r"password"):
            psycopg2.connect(
                host="127.0.0.1",
                port=postgres.port,
                user="postgres",
                dbname="postgres",
                password=password,
                passfile="/dev/null",
            )


def test_it_lets_in_by_scram_on_loopback_only(postgres: EmbeddedPostgres) -> None:
    rules = ask(postgres, "select type, address, auth_method from pg_hba_file_rules")
    assert rules == [("host", "127.0.0.1", "scram-sha-256")]
    assert ask(postgres, "show listen_addresses") == [("127.0.0.1",)]
    assert ask(postgres, "show unix_socket_directories") == [("",)]
    stored = ask(postgres, "select rolpassword from pg_authid where rolcanlogin")
    assert all(verifier.startswith("SCRAM-SHA-256$") for (verifier,) in stored)


def test_it_is_postgresql_18_and_so_are_its_programs(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres, "show server_version_num")[0][0].startswith("18")
    assert bundled_binaries().parent.name == "pginstall18"


def test_passwords_lie_in_private_files_and_on_no_command_line(postgres: EmbeddedPostgres) -> None:
    password = postgres.password("postgres")
    kept = postgres.directory / "passwords" / "postgres"
    assert kept.stat().st_mode & 0o077 == 0
    assert postgres.directory.stat().st_mode & 0o077 == 0
    assert postgres.pid is not None
    assert password not in processes.command_line(postgres.pid)
    assert password not in postgres.log.read_text()


def test_data_and_port_outlast_a_restart(server: EmbeddedPostgres) -> None:
    server.ensure_database("kept")
    port = server.port
    server.stop()
    assert not server.running
    assert server.start() is True
    assert server.port == port
    assert ask(server, "select datname from pg_database where datname = 'kept'") == [("kept",)]


def test_a_server_that_runs_is_used_and_not_started_again(server: EmbeddedPostgres) -> None:
    again = made_in(server.directory)
    assert again.start() is False
    assert again.pid == server.pid


def test_another_port_is_taken_when_somebody_sits_on_ours(server: EmbeddedPostgres) -> None:
    port = server.port
    server.stop()
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("127.0.0.1", port))
        somebody.listen()
        server.start()
        assert server.port != port
    taken = server.port
    server.stop()
    server.start()
    assert server.port == taken


def test_after_a_kill_it_starts_at_once_with_the_data(server: EmbeddedPostgres) -> None:
    server.ensure_database("kept")
    with server.connect():  # a backend that outlives its server for a moment
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server.start() is True
    assert ask(server, "select datname from pg_database where datname = 'kept'") == [("kept",)]


def test_a_recycled_process_id_is_neither_trusted_nor_signalled(
    server: EmbeddedPostgres, bystander: subprocess.Popen[bytes]
) -> None:
    pid = server.pid
    assert pid is not None
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.exists(pid), seconds=10)
    pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")

    assert not server.running
    server.stop()
    assert bystander.poll() is None
    assert server.start() is True
    assert server.pid not in (None, bystander.pid)
    server.stop()
    assert bystander.poll() is None


def test_another_checkouts_server_under_the_same_number_is_not_ours(
    server: EmbeddedPostgres, postgres: EmbeddedPostgres
) -> None:
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop()
    pid_file.write_text("\n".join([str(postgres.pid), *lines[1:]]) + "\n")
    assert not server.running
    server.stop()
    assert postgres.running
    assert server.start() is True


def test_several_starters_at_once_make_one_server(tmp_path: Path) -> None:
    directory = tmp_path / "postgres"
    code = (
        "import sys; from launch.postgres import EmbeddedPostgres, THROWAWAY;"
        "server = EmbeddedPostgres(sys.argv[1], settings=THROWAWAY);"
        "print(server.start(), server.pid)"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [starter.communicate(timeout=60)[0].split() for starter in starters]
    try:
        assert sorted(started for started, _ in said) == ["False", "False", "True"]
        assert len({pid for _, pid in said}) == 1
    finally:
        made_in(directory).destroy()


def test_the_last_user_stops_it_and_no_other(tmp_path: Path) -> None:
    first, second = made_in(tmp_path / "postgres"), made_in(tmp_path / "postgres")
    try:
        with first.in_use():
            with second.in_use():
                assert second.pid == first.pid
            assert first.running
            with pytest.raises(processes.BusyError), second.not_in_use():
                pass
        assert not first.running
        with second.not_in_use():
            pass
    finally:
        first.destroy()


def test_an_initdb_that_was_torn_is_done_again(tmp_path: Path) -> None:
    server = made_in(tmp_path / "postgres")
    server.start()
    server.stop()
    try:
        server.data.rename(server.home / "data-making-torn")
        server.start()
        assert ask(server, "select 1") == [(1,)]
        assert not list(server.home.glob("data-making-*"))
    finally:
        server.destroy()


def test_data_of_another_major_version_are_refused_and_left_alone(
    server: EmbeddedPostgres,
) -> None:
    server.stop()
    version = server.data / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(PostgresError, match="PostgreSQL 17"):
        server.start()
    version.write_text("18\n")
    assert server.start() is True


def test_two_checkouts_run_side_by_side(
    server: EmbeddedPostgres, postgres: EmbeddedPostgres
) -> None:
    assert server.port != postgres.port
    assert server.data != postgres.data
    assert server.password("postgres") != postgres.password("postgres")


def test_what_was_destroyed_leaves_nothing(tmp_path: Path) -> None:
    server = made_in(tmp_path / "postgres")
    server.start()
    pid, home = server.pid, server.home
    server.destroy()
    assert pid is not None
    assert not processes.exists(pid)
    assert not home.exists()
    assert not server.directory.exists()


def test_a_free_port_is_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


@needs_root
def test_under_root_it_runs_as_another_user_outside_the_checkout(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = made_in(closed / "postgres")
    server.start()
    try:
        assert server.home.parent == ROOTS_PLACE
        assert server.data.stat().st_uid != 0
        assert Path(f"/proc/{server.pid}").stat().st_uid == server.data.stat().st_uid
        # What root runs or reads there, the other user cannot change.
        assert server.home.stat().st_uid == 0
        assert all(
            path.stat().st_uid == 0 and path.stat().st_mode & 0o022 == 0
            for path in server.home.glob("server-*/**/bin/*")
        )
    finally:
        server.destroy()


@needs_root
def test_a_copied_checkout_gets_data_of_its_own_and_a_moved_one_keeps_them(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    server.ensure_database("kept")
    copy = made_in(tmp_path / "copy")
    shutil.copytree(server.directory, copy.directory)
    copy.start()
    try:
        assert copy.home != server.home
        assert copy.pid != server.pid
    finally:
        copy.destroy()
    assert server.running

    server.stop()
    moved = made_in(server.directory.rename(tmp_path / "moved"))
    moved.start()
    try:
        found = ask(moved, "select datname from pg_database where datname = 'kept'")
        assert found == [("kept",)]
    finally:
        moved.destroy()


@needs_root
def test_data_recorded_as_an_ordinary_user_are_not_shadowed(tmp_path: Path) -> None:
    server = made_in(tmp_path / "postgres")
    (server.directory / "data").mkdir(parents=True)
    with pytest.raises(PostgresError, match="an ordinary user"):
        server.start()
