"""A server's data directory: made by initdb, and the settings beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from launch.postgres.binaries import run_program
from launch.postgres.errors import PostgresError
from launch.postgres.owner import User, hand_over


def check_data(data: Path, major: int, user: User | None) -> bool:
    """Whether there is data of that version; PostgresError where it is of another one."""
    if not (data / "PG_VERSION").is_file():
        return False
    found = (data / "PG_VERSION").read_text().strip()
    if found != str(major):
        raise PostgresError(
            f"The data in {data} are of PostgreSQL {found}, this is {major}. "
            "Dump them with the older version, or move them away."
        )
    if user is not None and data.stat().st_uid != user.uid:
        hand_over(data, user)
    return True


def make_data(
    data: Path,
    *,
    initdb: Path,
    major: int,
    user: User | None,
    superuser: tuple[str, str],
    sync: bool,
) -> None:
    """Made aside and then moved: a half-made one is never seen. ``superuser``: name, password."""
    home = data.parent
    for old in home.glob("data-making-*"):
        shutil.rmtree(old)
    making = Path(tempfile.mkdtemp(prefix="data-making-", dir=home))
    name, password = superuser
    password_file = making / "password"
    handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(password + "\n")
    if user is not None:
        hand_over(making, user)
    options = [
        *("-D", str(making / "data"), "-U", name),
        *("--pwfile", str(password_file), "--auth=scram-sha-256", "--encoding=UTF8"),
        "--locale=C",  # the same order of texts on every machine, whatever its locales are
    ]
    if major >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not sync:
        options.append("--no-sync")
    done = run_program(initdb, *options, user=user)
    if done.returncode != 0:
        raise PostgresError(f"initdb failed:\n{done.stdout.strip()}")
    password_file.unlink()
    (making / "data" / "pg_hba.conf").write_text(
        "# Passwords only, and only from this machine.\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    with (making / "data" / "postgresql.conf").open("a") as file:
        file.write("\ninclude_if_exists = '../launch.conf'\n")
    (making / "data").rename(data)
    shutil.rmtree(making)


def write_settings(home: Path, settings: Mapping[str, str]) -> None:
    """Beside the data, not in them: root writes no file where another user may put a link."""
    ours = {**settings, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    path = home / "launch.conf"
    path.write_text("".join(f"{name} = '{value}'\n" for name, value in ours.items()))
    path.chmod(0o644)
