"""One server with its own data, in one directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from launch import processes
from launch.network import free_port, port_is_free
from launch.postgres import place
from launch.postgres.access import SUPERUSER, Access
from launch.postgres.binaries import MAJOR, bundled_binaries, readable_copy, run_program
from launch.postgres.data import check_data, make_data, write_settings
from launch.postgres.errors import PostgresError
from launch.postgres.owner import User, owner_of

# Small on purpose: one scheduler, a handful of tasks and a page talk to it.
SETTINGS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "lc_messages": "C",
}
# For data that a test throws away. Never for the real thing: a power cut would cost the record.
THROWAWAY: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}

_START_SECONDS = 60
# What a server says when the one before it was killed and its backends are still going.
_STILL_GOING = ("pre-existing shared memory block", 'lock file "postmaster.pid"', "is still in use")
_PORT_TAKEN = ("could not bind", "could not create any TCP/IP sockets")


@dataclass(frozen=True, slots=True)
class _Postmaster:
    pid: int
    port: int
    ready: bool


class EmbeddedPostgres(Access):
    """One server with its own data, in one directory. Any number may run side by side."""

    def __init__(
        self,
        directory: Path | str,
        *,
        settings: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _: None,
        major: int = MAJOR,
    ) -> None:
        self.directory = Path(directory).resolve()
        self._settings = {**SETTINGS, **(settings or {})}
        self._report = report
        self._major = major
        self._as_root = os.geteuid() == 0

    # -- what others use ---------------------------------------------------------------------

    def start(self) -> bool:
        """Make sure that the server answers. True where this call started it."""
        self._make_directory()
        with processes.file_lock(self.directory / "lock"):
            if self._adopt():
                return False
            self._build()
            self._start()
            return True

    def stop(self) -> None:
        """Stop the server, even if another process started it; nothing where it does not run."""
        if not self.directory.is_dir():
            return
        with processes.file_lock(self.directory / "lock"):
            self._stop()

    def destroy(self) -> None:
        """Stop the server and delete all its data, also those that lie elsewhere."""
        self.stop()
        if self._as_root and (home := place.pointed_home(self.directory)) is not None:
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[EmbeddedPostgres]:
        """Have the server up for a while; the last of several users stops it."""
        self._make_directory()
        handle = os.open(self.directory / "users", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # waits while the one before us is stopping it
            self.start()
            yield self
        finally:
            # A user that was killed counts no longer: the kernel took its lock back.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.stop()
            os.close(handle)

    @contextlib.contextmanager
    def not_in_use(self) -> Iterator[None]:
        """Keep others from using the server; raises BusyError where somebody uses it."""
        with processes.file_lock(self.directory / "users", wait=False):
            yield

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The server's process id, only if that process is this server."""
        state = self._postmaster()
        return None if state is None else state.pid

    @property
    def port(self) -> int:
        state = self._postmaster()
        if state is None:
            raise PostgresError(f"The embedded Postgres in {self.directory} does not run.")
        return state.port

    @property
    def home(self) -> Path:
        """Where the data (and under root the binaries) lie."""
        return place.home_of(self.directory)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    def left_over(self) -> list[Path]:
        """Root's places of earlier states of this directory, to which nothing points any more."""
        return place.left_over(self.directory)

    # -- is it up, and is it ours? -----------------------------------------------------------

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            state = _Postmaster(
                pid=int(lines[0]),
                port=int(lines[3]),
                ready=len(lines) > 7 and lines[7].strip() == "ready",
            )
        except (OSError, IndexError, ValueError):
            return None
        return state if self._is_ours(state.pid) else None

    def _is_ours(self, pid: int) -> bool:
        line = processes.command_line(pid)
        return "postgres" in line and f"-D {self.data} " in f"{line} "

    def _adopt(self) -> bool:
        """A server left running (by a launcher that was killed, or by another command)."""
        answered = False

        def answers_or_is_gone() -> bool:
            nonlocal answered
            state = self._postmaster()
            # Being there is not enough: one that was just killed is there for a moment, too.
            answered = state is not None and state.ready and self._answers()
            return answered or state is None

        if not processes.wait_until(answers_or_is_gone, seconds=_START_SECONDS):
            raise PostgresError(
                f"The embedded Postgres (process {self.pid}) does not answer; see {self.log}"
            )
        return answered

    def _answers(self) -> bool:
        import psycopg2

        try:
            with self.connect():
                return True
        except (psycopg2.OperationalError, PostgresError):
            return False

    # -- building ----------------------------------------------------------------------------

    def _make_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _build(self) -> None:
        """Binaries and data, as far as they are missing."""
        place.refuse_another_users_data(self.directory)
        if self._as_root:
            place.make_home(self.directory)
        user = owner_of(self.data)
        binaries = self._binaries()
        if not check_data(self.data, self._major, user):
            self._report(f"Making a database (PostgreSQL {self._major}).")
            make_data(
                self.data,
                initdb=binaries / "initdb",
                major=self._major,
                user=user,
                superuser=(SUPERUSER, self.password(SUPERUSER)),
                sync=self._settings.get("fsync") != "off",
            )
        write_settings(self.home, self._settings)

    def _binaries(self) -> Path:
        """The folder with initdb, pg_ctl and postgres; under root a copy others can read."""
        if self._as_root:
            return readable_copy(self._major, self.home)
        return bundled_binaries(self._major)

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = self._binaries() / "pg_ctl"
        return run_program(program, *arguments, "-D", str(self.data), user=owner_of(self.data))

    # -- starting and stopping ---------------------------------------------------------------

    def _start(self) -> None:
        self._prepare_log(owner_of(self.data))
        self._remove_foreign_pid_file()
        said = ""

        def started() -> bool:
            nonlocal said
            port = self._choose_port()
            written = self.log.stat().st_size
            done = self._pg_ctl(
                *("start", "-w", "-t", str(_START_SECONDS)),
                *("-l", str(self.log), "-o", f"-c port={port}"),
            )
            if done.returncode == 0:
                return True
            with self.log.open("rb") as log:
                log.seek(written)
                said = log.read().decode(errors="replace").strip() or done.stdout.strip()
            if any(phrase in said for phrase in (*_STILL_GOING, *_PORT_TAKEN)):
                return False
            raise PostgresError(f"The embedded Postgres does not start:\n{said}")

        if not processes.wait_until(started, seconds=_START_SECONDS, interval=0.2):
            raise PostgresError(f"The embedded Postgres does not start:\n{said}")

    def _prepare_log(self, user: User | None) -> None:
        if self.log.is_file() and self.log.stat().st_size > 10_000_000:
            self.log.replace(self.log.with_suffix(".log.1"))
        os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        if user is not None:
            os.chown(self.log, user.uid, user.gid)

    def _remove_foreign_pid_file(self) -> None:
        """A pid file of a dead server whose number another process has now.

        Postgres itself would refuse to start then. Two servers on the same data are still not
        possible: the shared memory block is looked at as well.
        """
        path = self.data / "postmaster.pid"
        try:
            pid = int(path.read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            return
        if processes.command_line(pid) and not self._is_ours(pid):
            path.unlink(missing_ok=True)

    def _choose_port(self) -> int:
        """The port of last time, unless another program has taken it."""
        path = self.directory / "port"
        with contextlib.suppress(OSError, ValueError):
            kept = int(path.read_text())
            if port_is_free(kept):
                return kept
        port = free_port()
        path.write_text(f"{port}\n")
        return port

    def _stop(self) -> None:
        pid = self.pid
        if pid is None:
            return
        # pg_ctl signals whatever number the file holds: it is asked only after ours was found.
        with contextlib.suppress(PostgresError):  # the wheel may be gone, the server is not
            if self._pg_ctl("stop", "-w", "-t", "30", "-m", "fast").returncode == 0:
                return
        for number in (signal.SIGINT, signal.SIGQUIT):  # fast, then immediate
            with contextlib.suppress(ProcessLookupError):
                if self._is_ours(pid):
                    os.kill(pid, number)
            if processes.wait_until(lambda: not self._is_ours(pid), seconds=10):
                return
        raise PostgresError(f"The embedded Postgres (process {pid}) does not stop.")
