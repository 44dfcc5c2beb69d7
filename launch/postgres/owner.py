"""The user that the server runs as: ourselves, or under root another one."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.postgres.errors import PostgresError


@dataclass(frozen=True, slots=True)
class User:
    """Another user than ourselves."""

    name: str
    uid: int
    gid: int

    def switch(self) -> dict[str, Any]:
        """For `subprocess`: run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def owner_of(data: Path) -> User | None:
    """Who runs the server on that data; None where we do. Users are chosen, never made."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError, KeyError):
        uid = data.stat().st_uid
        if uid != 0:
            return _user(pwd.getpwuid(uid))  # initdb and the rest need the user to have a name
    for name in ("postgres", "nobody", "daemon"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return _user(entry)
    raise PostgresError(
        "PostgreSQL refuses to run as root, and there is no other user to run it as "
        "(neither postgres nor nobody). Run this as an ordinary user."
    )


def hand_over(path: Path, user: User) -> None:
    """Give a folder and everything in it to the user."""
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


def _user(entry: pwd.struct_passwd) -> User:
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)
