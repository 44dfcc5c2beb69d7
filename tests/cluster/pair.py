"""Two Postgres servers, the second one a streaming replica of the first, and what happens to them.

A clock starts when a server is killed or stopped: `Pair.since_loss` is the time to recovery.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im_attr_audit.record.engine import create_audit_engine, engine_of_connection
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch import processes
from launch.postgres import SUPERUSER, EmbeddedPostgres, place
from launch.postgres.binaries import run_program
from launch.postgres.owner import hand_over, owner_of
from tests.conftest import READER, WRITER, AuditDb, make_template

# A replica needs the write-ahead log of its primary, not that a machine's power may fail.
SETTINGS = {"fsync": "off", "max_connections": "200", "wal_keep_size": "512MB"}


def plain_server(directory: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(directory, settings=SETTINGS)


def replicate(
    primary: EmbeddedPostgres,
    directory: Path,
    port: int | None = None,
    make: Callable[[Path], EmbeddedPostgres] = plain_server,
) -> EmbeddedPostgres:
    """A running replica of the primary, by pg_basebackup; on that port if one is given."""
    replica = make(directory)
    directory.mkdir(mode=0o700)
    if port is not None:
        (directory / "port").write_text(f"{port}\n")
    shutil.copytree(primary.directory / "passwords", directory / "passwords")
    if os.geteuid() == 0:
        place.make_home(replica.directory)
    user = owner_of(replica.data)
    making = Path(tempfile.mkdtemp(prefix="data-making-", dir=replica.home))
    if user is not None:
        hand_over(making, user)
    done = run_program(
        replica._binaries() / "pg_basebackup",
        *("--pgdata", str(making / "data"), "--write-recovery-conf", "--checkpoint=fast"),
        *("--wal-method=stream", "--dbname", primary.url("postgres", driver="postgresql")),
        user=user,
    )
    assert done.returncode == 0, done.stdout
    (making / "data").rename(replica.data)
    making.rmdir()
    replica.start()
    return replica


class Pair:
    """A primary and its replica. Each change of roles exchanges `primary` and `replica`."""

    def __init__(
        self,
        folder: Path,
        make: Callable[[Path], EmbeddedPostgres] = plain_server,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        """Two new servers, or those that were stopped ``before``."""
        self._folder = folder
        self._make = make
        self._made = 0
        self._lost_at = 0.0
        if before is not None:
            self._resume(before)
            return
        self.primary = make(self._next())
        self.primary.start()
        self.database = make_template(self.primary)
        with (self.primary.data / "pg_hba.conf").open("a") as file:
            file.write("host replication all 127.0.0.1/32 scram-sha-256\n")
        self._ask(self.primary, "select pg_reload_conf()")
        self.replica = replicate(self.primary, self._next(), make=make)
        self.hosts = [f"127.0.0.1:{s.port}" for s in (self.primary, self.replica)]
        self.wait_for_each_other()

    def _next(self) -> Path:
        self._made += 1
        return self._folder / f"server-{self._made}"

    # Stopped for a while, and continued -----------------------------------------------------------

    def stop(self) -> None:
        """Both, for now."""
        for server in (self.primary, self.replica):
            server.stop()

    def state(self) -> dict[str, Any]:
        """What `__init__` takes to continue with these servers."""
        servers = (self.primary, self.replica)
        return {
            "made": self._made,
            "database": self.database,
            "hosts": self.hosts,
            "servers": [server.directory.name for server in servers],
            "running": [server.running for server in servers],
        }

    def _resume(self, before: Mapping[str, Any]) -> None:
        self._made, self.database, self.hosts = (before[k] for k in ("made", "database", "hosts"))
        servers = [self._make(self._folder / name) for name in before["servers"]]
        self.primary, self.replica = servers
        for server, running in zip(servers, before["running"], strict=True):
            if running:
                server.start()
                assert f"127.0.0.1:{server.port}" in self.hosts, "another program took its port"

    # Asking ---------------------------------------------------------------------------------------

    @staticmethod
    def _ask(server: EmbeddedPostgres, *statements: str) -> Any:
        with server.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None

    def _wait(self, what: str, server: EmbeddedPostgres, question: str) -> None:
        assert processes.wait_until(lambda: self._ask(server, question)[0], seconds=60), what

    def wait_for_each_other(self) -> None:
        """From now on a commit is answered only once the replica has it."""
        self._ask(
            self.primary,
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        )
        attached = "select exists (select from pg_stat_replication where sync_state = 'sync')"
        self._wait("the replica to be synchronous", self.primary, attached)

    def let_replica_fall_behind(self) -> None:
        """From now on commits are answered at once, and the replica gets nothing."""
        self._ask(
            self.primary,
            "alter system reset synchronous_standby_names",
            "select pg_reload_conf()",
        )
        self._ask(self.replica, "alter system set primary_conninfo = ''", "select pg_reload_conf()")
        gone = "select not exists (select from pg_stat_replication)"
        self._wait("the replica to be cut off", self.primary, gone)

    # What happens to them -------------------------------------------------------------------------

    def lose_primary(self) -> None:
        """As if its machine were gone: every process of it, by SIGKILL."""
        pid = self.primary.pid
        assert pid is not None
        for process in (pid, *processes.children(pid, recursive=True)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._lost_at = time.monotonic()
        assert processes.wait_until(lambda: not self.primary.running, seconds=30)

    def stop_primary(self) -> None:
        """A planned stop: what it has committed reaches the replica first."""
        self._lost_at = time.monotonic()
        self.primary.stop()

    def promote(self) -> None:
        """The replica becomes the primary; there is no replica then."""
        self._ask(self.replica, "select pg_promote()")
        self.primary, self.replica = self.replica, self.primary
        self._ask(self.primary, "create temporary table is_writable ()")

    def follow(self) -> None:
        """The old primary, cleanly stopped, becomes the replica of the new one."""
        old, url = self.replica, self.primary.url("postgres", driver="postgresql")
        old.data.joinpath("standby.signal").touch()
        with old.data.joinpath("postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = '{url}'\nsynchronous_standby_names = ''\n")
        old.start()
        self.wait_for_each_other()

    def rebuild_replica(self) -> None:
        """A new replica in the place of a server that was lost: connections need not change."""
        [place] = [h for h in self.hosts if h != f"127.0.0.1:{self.primary.port}"]
        self.replica.destroy()
        port = int(place.rpartition(":")[2])
        self.replica = replicate(self.primary, self._next(), port, self._make)
        assert self.replica.port == port
        self.wait_for_each_other()

    def since_loss(self) -> float:
        """Seconds since the primary was lost."""
        return time.monotonic() - self._lost_at

    def destroy(self) -> None:
        for server in (self.primary, self.replica):
            server.destroy()

    # Connections over both ------------------------------------------------------------------------

    def connection(self, role: str, attributes: str) -> dict[str, Any]:
        """An Airflow connection of both servers. ``attributes``: libpq's target_session_attrs.

        In production the port is the same on both, and the host is simply "one,two".
        """
        return {
            "conn_type": "postgres",
            "login": role,
            "password": self.primary.password(role),
            "schema": self.database,
            "extra": {
                "target_session_attrs": attributes,
                "sqlalchemy_query": {"host": self.hosts},
            },
        }

    def owner_url(self) -> str:
        """The URL of a superuser on whichever server can be written to, for migrate and others."""
        hosts = "&".join(f"host={host}" for host in self.hosts)
        login = f"{SUPERUSER}:{self.primary.password(SUPERUSER)}"
        return f"postgresql://{login}@/{self.database}?{hosts}&target_session_attrs=read-write"

    def engine(self, role: str, attributes: str) -> Engine:
        return engine_of_connection(AirflowConnection(self.connection(role, attributes)))


class AirflowConnection:
    """As much of an Airflow Connection as is read, from its JSON form."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.host: str | None = given.get("host")
        self.port: int | None = given.get("port")
        self.login: str | None = given["login"]
        self.password: str | None = given["password"]
        self.schema: str | None = given["schema"]
        self.extra_dejson: dict[str, object] = given["extra"]


@dataclass(frozen=True)
class PairDb(AuditDb):
    """The audit database of a pair; its engines go where they are meant to at each moment."""

    pair: Pair

    @property
    def writer_connection(self) -> str:
        return json.dumps(self.pair.connection(WRITER, "read-write"))


def audit_db_of(pair: Pair) -> PairDb:
    return PairDb(
        pair.primary,
        pair.database,
        create_audit_engine(make_url(pair.owner_url())),
        pair.engine(WRITER, "read-write"),
        pair.engine(READER, "prefer-standby"),
        pair,
    )
