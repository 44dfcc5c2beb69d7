"""Where a server's files are: in its own directory, or under root in a place outside any home.

The directory then keeps a pointer (the file `place`) to its home, and the home a pointer back (the
file `origin`), so that a copied checkout gets data of its own and a moved one keeps them.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from launch.postgres.errors import PostgresError

ROOTS_PLACE = Path("/var/lib/im-attr-audit")


def home_of(directory: Path) -> Path:
    """The folder with the data (and under root the binaries) of the server in ``directory``."""
    if os.geteuid() != 0:
        return directory
    return pointed_home(directory) or directory


def pointed_home(directory: Path) -> Path | None:
    """Where the pointer leads; None if this is a copy, and the home belongs to the original."""
    home = _points_to(directory)
    if home is None:
        return None
    origin = _origin(home)
    if origin not in (None, directory) and _points_to(origin) == home:
        return None
    return home


def make_home(directory: Path) -> None:
    """Under root: the place outside any home, with both pointers."""
    home = pointed_home(directory)
    if home is not None:
        # Also where the checkout was moved: its data come along.
        (home / "origin").write_text(f"{directory}\n")
        return
    base = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(directory.parts[-3:])).strip("-")
    try:
        ROOTS_PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=f"{base[-40:]}-", dir=ROOTS_PLACE))
    except OSError as error:
        raise PostgresError(
            f"PostgreSQL refuses to run as root, and its data cannot be kept in {ROOTS_PLACE} "
            f"({error.strerror}). Make that folder writable, or run this as an ordinary user."
        ) from None
    home.chmod(0o755)
    (home / "origin").write_text(f"{directory}\n")
    temporary = directory / f".place.{os.getpid()}"
    temporary.write_text(f"{home}\n")
    temporary.rename(directory / "place")


def refuse_another_users_data(directory: Path) -> None:
    """Data made as root must not be hidden by new data made as a user, nor the reverse."""
    where = None
    as_root = os.geteuid() == 0
    if as_root and (directory / "data").is_dir():
        where, who = directory / "data", "an ordinary user"
    elif not as_root and (directory / "place").exists():
        where, who = directory, "root"
    if where is not None:
        raise PostgresError(
            f"The data in {where} were recorded as {who}. Continue as that user, or move them away."
        )


def left_over(directory: Path) -> list[Path]:
    """Root's places of earlier states of this directory, to which nothing points any more."""
    if os.geteuid() != 0:
        return []
    found = (origin.parent for origin in ROOTS_PLACE.glob("*/origin"))
    ours = [home for home in found if _origin(home) == directory]
    return [home for home in ours if home != pointed_home(directory)]


def _origin(home: Path) -> Path | None:
    try:
        return Path((home / "origin").read_text().rstrip("\n"))
    except OSError:
        return None


def _points_to(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    try:
        home = Path((directory / "place").read_text().rstrip("\n"))
    except OSError:
        return None
    # Root deletes and hands over what this names: nothing outside the one place counts.
    return home if home.parent == ROOTS_PLACE and home.is_dir() else None
