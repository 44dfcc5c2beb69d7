"""Looking at other processes, and never trusting a number alone.

A process id written to a file outlives its process, and the system gives the number to a later
process. Code that reads an id from a file asks here what that process is before it trusts or
signals it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# `make clean` works where nothing is installed: psutil is imported where it is needed.
if TYPE_CHECKING:
    import psutil

# A moment since boot is computed from two clocks that the system rounds differently.
_SECONDS_APART = 2.0


def exists(pid: int) -> bool:
    """Whether a process of that number runs. A zombie does not."""
    return _running(pid) is not None


def _running(pid: int) -> psutil.Process | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else process
    except psutil.AccessDenied:
        return process
    except (psutil.NoSuchProcess, ValueError):  # ValueError: a negative number
        return None


def command_line(pid: int) -> str:
    """The words a process was started with, joined by spaces; empty where it cannot be seen."""
    try:
        import psutil
    except ImportError:
        return _command_line_without_psutil(pid)
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except (psutil.Error, ValueError):
        return ""


def _command_line_without_psutil(pid: int) -> str:
    """For `make clean` without .venv, which must not delete data under a running server."""
    if pid <= 0:
        return ""
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()
    with contextlib.suppress(OSError):
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        shown = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        return shown.stdout.strip()
    return ""


def identity(pid: int) -> dict[str, Any] | None:
    """What distinguishes this process from every other that has, had or will have its number.

    ``started`` is in seconds since boot: setting the clock does not change it. ``boot`` names the
    boot where the system does (Linux), so the same number after a reboot is another process.
    """
    import psutil

    process = _running(pid)
    if process is None:
        return None
    try:
        started = process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"pid": pid, "started": started, "boot": boot}


def is_same(known: Mapping[str, Any] | None) -> bool:
    """Whether the process of that identity still runs."""
    if known is None or not isinstance(known.get("started"), float):
        return False  # nothing known, or written by an earlier version
    found = identity(int(known["pid"]))
    return (
        found is not None
        and found["boot"] == known.get("boot")
        and abs(found["started"] - known["started"]) < _SECONDS_APART
    )


def children(
    parent: int | None = None, *, recursive: bool = False, zombies: bool = False
) -> list[int]:
    """The children of a process (of this one where none is named), or all its descendants."""
    import psutil

    try:
        found = psutil.Process(parent).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []
    return [child.pid for child in found if zombies or exists(child.pid)]


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Wait for a condition; False where it did not come in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


class BusyError(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the kernel releases however this process ends."""
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
