"""Check the record in several processes at once, all in one snapshot of the database.

Each process has a connection of its own and takes one range of apps after another. This process
takes ranges too: helpers that cannot start or connect cost time and nothing else. A helper that
ends while it has a range is an error, since nothing is known of those apps.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any

from sqlalchemy import Connection, Engine, text

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.checks.app_rows import Part, check_apps
from im_attr_audit.record.checks.heads import Watched
from im_attr_audit.record.checks.tables import Range, prepare
from im_attr_audit.record.engine import Connector, connector_of, engine_of_connector

#: A record with fewer changes is checked before another process would be ready.
_SMALL = 200_000
_MOST_PROCESSES = 4
_RANGES_EACH = 2

_ESTIMATE = """
select c.reltuples
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'attr_audit' and c.relname = 'change'
"""


class PartFailed(AttrAuditError):
    """Part of the record was not checked; the text says why."""


def reading(engine: Engine) -> Connection:
    """A connection whose transaction reads the record as it is at one moment."""
    return engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ).connect()


def processes_for(connection: Connection) -> int:
    """How many processes to use: one for each processor, but one for a small record."""
    if connection.execute(text(_ESTIMATE)).scalar_one() < _SMALL:
        return 1
    return min(processors(), _MOST_PROCESSES)


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def split(connection: Connection, parts: int) -> list[Range]:
    """Ranges that hold about as many apps each. Together they hold every number there can be."""
    numbers = connection.execute(
        text("select sdk_app_id from only attr_audit.app order by sdk_app_id")
    ).scalars()
    found = list(numbers)
    bounds = sorted(
        {found[len(found) * part // parts] for part in range(1, parts)} if found else ()
    )
    return [Range(*ends) for ends in zip([None, *bounds], [*bounds, None], strict=True)]


class Work:
    """The ranges that nobody has taken yet, and what was found in the others."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.ranges = ranges
        self._lock = threading.Lock()
        self._next = 0
        self._done: dict[int, Part] = {}

    def take(self) -> int | None:
        """The number of a range that is to be checked now."""
        with self._lock:
            if self._next == len(self.ranges):
                return None
            self._next += 1
            return self._next - 1

    def finish(self, number: int, part: Part) -> None:
        self._done[number] = part

    def parts(self) -> list[Part]:
        """What was found, in order. PartFailed where a range was not checked."""
        if len(self._done) < len(self.ranges):
            raise PartFailed(
                "A process that checked part of the record ended before it was done, so nothing is "
                "known of that part. Run verify again."
            )
        return [self._done[number] for number in range(len(self.ranges))]


class Helper:
    """Another process that takes ranges, and the thread here that gives them to it."""

    def __init__(
        self, work: Work, engine: Engine, snapshot: str, watched: Mapping[AppKey, Watched]
    ) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._has_a_range = False
        # Not a fork, which would share the database's connection and other threads' locks.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # The password goes through a pipe: it is neither in the environment nor an argument.
        arguments = (theirs, connector_of(engine), snapshot, dict(watched))
        self.process = context.Process(target=_help, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # it has ended
            while True:
                came = self._pipe.recv()
                if isinstance(came, BaseException):
                    self.error = came
                    return
                if came is not None:
                    self._work.finish(*came)
                self._has_a_range = True  # first: one that finds no range left waits for this one
                number = self._work.take()
                if number is None:
                    self._has_a_range = False
                    return
                self._pipe.send((number, self._work.ranges[number]))

    def finish(self) -> None:
        """Wait until it has checked what it has taken. Raises what went wrong with that."""
        if self._has_a_range:
            self._thread.join()
        if self._has_a_range and self.error is not None:
            raise self.error

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self._thread.join()
        self._pipe.close()


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Nothing here refers to itself; looking for such things takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@without_garbage_collection()
def check_in_parts(
    engine: Engine, connection: Connection, watched: Mapping[AppKey, Watched], processes: int
) -> list[Part]:
    """Check every app, with so many processes, this one included. Raises PartFailed."""
    if processes == 1:
        return [check_apps(connection, Range(), watched)]
    work = Work(split(connection, processes * _RANGES_EACH))
    snapshot = connection.execute(text("select pg_catalog.pg_export_snapshot()")).scalar_one()
    helpers: list[Helper] = []
    try:
        for _ in range(processes - 1):
            helpers.append(Helper(work, engine, snapshot, watched))
        while (number := work.take()) is not None:
            work.finish(number, check_apps(connection, work.ranges[number], watched))
        for helper in helpers:
            helper.finish()
        return work.parts()
    finally:
        for helper in helpers:
            helper.end()


@without_garbage_collection()
def _help(
    pipe: Pipe[Any, Any],
    connector: Connector,
    snapshot: str,
    watched: Mapping[AppKey, Watched],
) -> None:
    """The other process: check ranges until there are none."""
    end_with_parent()
    try:
        engine = engine_of_connector(connector)
        with reading(engine) as connection:
            # Before anything is read: both transactions see the same rows.
            connection.exec_driver_sql(f"set transaction snapshot '{snapshot}'")
            prepare(connection)
            pipe.send(None)
            while (task := pipe.recv()) is not None:
                number, apps = task
                pipe.send((number, check_apps(connection, apps, watched)))
    except EOFError:
        pass
    except AttrAuditError as error:
        pipe.send(error)
    except Exception as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        pipe.send(PartFailed(f"Part of the record could not be checked: {reason}"))


def end_with_parent() -> None:
    """From now on this process ends with the one that started it, and by nothing else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
