"""Looking at other processes, and never trusting a number alone.

A process id written to a file outlives its process, and the system hands the number to the next
one that comes. So whoever reads an id from a file asks here what that process was started as
before trusting or signalling it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def exists(pid: int) -> bool:
    """Is there a process of that number (not yet buried ones count as gone)?"""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in {"Z", "X"}


def command_line(pid: int) -> str:
    """The words a process was started with, joined by blanks; empty where it cannot be seen."""
    if pid <= 0:
        return ""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if sys.platform.startswith("linux"):
            return ""
    else:
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()
    shown = subprocess.run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return shown.stdout.strip()


def identity(pid: int) -> dict[str, Any] | None:
    """What tells this process from every other that has, had or will have its number."""
    if not exists(pid):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = f"{boot} {fields[19]}"
    except OSError:
        shown = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        started = shown.stdout.strip()
    return {"pid": pid, "started": started} if started else None


def is_same(known: Mapping[str, Any] | None) -> bool:
    """Does the process of that identity still run?"""
    return known is not None and identity(int(known["pid"])) == known


def children(parent: int | None = None, *, zombies: bool = False) -> list[int]:
    """The direct children of a process (of this one where none is named)."""
    parent = os.getpid() if parent is None else parent
    if not sys.platform.startswith("linux"):
        shown = subprocess.run(
            ["/usr/bin/pgrep", "-P", str(parent)], capture_output=True, text=True, check=False
        )
        return [int(line) for line in shown.stdout.split()]
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and (zombies or fields[0] not in "ZX"):
            found.append(int(entry.parent.name))
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Wait for a condition; False where it did not come in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


class BusyError(Exception):
    """Somebody else holds the lock."""


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the kernel takes back whatever becomes of this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Close-on-exec (Python's default) matters: a child that inherited the lock would keep it.
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(str(path)) from None
        yield
    finally:
        os.close(handle)
