"""Wall clocks that a program moves, for itself, for what it starts, and for a database server.

`clock.c` beside this file, preloaded, adds to the machine's clock what a file holds. Monotonic
clocks and waiting are left alone. Needs a C compiler (`apt-get install gcc libc6-dev`).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from launch.postgres import EmbeddedPostgres
from launch.postgres.binaries import run_program
from launch.postgres.owner import owner_of

_FOLDER = "IM_ATTR_AUDIT_TEST_CLOCKS"
_SOURCE = Path(__file__).with_name("clock.c")


def _compile(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("There is no C compiler here: apt-get install gcc libc6-dev")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)


class MovedClock:
    """One clock, as a file that holds how far it is ahead of the machine's, in nanoseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            self.set_ahead(0)

    def variables(self) -> Mapping[str, str]:
        """What makes a process go by it."""
        library = self.path.with_name("clock.so")
        return {"LD_PRELOAD": str(library), "IM_ATTR_AUDIT_TEST_CLOCK": str(self.path)}

    def set_ahead(self, seconds: float) -> None:
        """From now on."""
        # In place, for processes that have mapped the file; eight bytes are written at once.
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.write(struct.pack("q", round(seconds * 1e9)))


class Clocks:
    """The world's clock and the database's."""

    def __init__(self, folder: Path) -> None:
        self.world = MovedClock(folder / "world")
        self.database = MovedClock(folder / "database")
        self._real = float((folder / "real").read_text())

    def set(self, at: datetime, database_ahead: float = 0.0) -> None:
        """It is this time now, in the whole world, and so much later in the database."""
        # What the machine's clock says can only be known from the clock that nobody moves.
        off = at.timestamp() - (self._real + time.monotonic())
        self.world.set_ahead(off)
        self.database.set_ahead(off + database_ahead)


def under_moved_clocks(folder: Path, module: str, begin: datetime) -> Clocks:
    """This program's clocks. It is started again under them, unless it has been already."""
    if os.environ.get(_FOLDER) == str(folder):
        return Clocks(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the server runs as another user where we are root
    folder.parent.chmod(0o711)
    _compile(folder / "clock.so")
    (folder / "real").write_text(repr(time.time() - time.monotonic()))
    clocks = Clocks(folder)
    clocks.set(begin)
    environment = {**os.environ, **clocks.world.variables(), _FOLDER: str(folder)}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
    raise AssertionError("the program was replaced")


class MovedPostgres(EmbeddedPostgres):
    """A server that goes by a clock of its own."""

    clock: MovedClock

    def _pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in self.clock.variables().items()]
        program = str(self._binaries() / "pg_ctl")
        return run_program(
            Path("/usr/bin/env"),
            *(*variables, program, *arguments, "-D", str(self.data)),
            user=owner_of(self.data),
        )

    def time(self) -> datetime:
        """What its clock says."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select clock_timestamp()")
            row = cursor.fetchone()
            assert row is not None
            at: datetime = row[0]
            return at.astimezone(UTC)
