"""Child processes that end with us, their own children included.

Each is started as the leader of its own process group. On Linux this process also adopts whatever
they leave behind (a killed scheduler leaves its workers), and they receive SIGTERM if this
process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import processes
from launch.state import ROOT, LaunchError

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def adopt_orphans() -> None:
    """From now on the orphans among our descendants become our children."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_with_parent() -> None:
    """Be sent SIGTERM when our parent is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Component:
    """One of Airflow's processes."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        if log.is_file():
            log.replace(log.with_suffix(".log.1"))
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,  # a Ctrl-C reaches only us, and we end them in order
                preexec_fn=stop_with_parent,  # safe: this process has one thread
            )
        finally:
            os.close(handle)
        self.pid = self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.poll()

    def last_words(self, count: int = 20) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return "\n".join(f"    {line}" for line in lines[-count:])
        return ""


class Family:
    """All components, and whatever they leave. What was there before is not touched."""

    def __init__(self) -> None:
        self.components: list[Component] = []
        self._others = set(processes.children())

    def identities(self) -> list[dict[str, Any]]:
        found = (processes.identity(component.pid) for component in self.components)
        return [identity for identity in found if identity is not None]

    def reap(self) -> None:
        """Read the exit status of adopted processes that ended; no one else does."""
        ours = self._others | {component.pid for component in self.components}
        for pid in processes.children(zombies=True):
            if pid not in ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def stop(self, *, patience: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM; after a while SIGKILL; then nothing of them is left, grandchildren included."""
        for component in self.components:
            if component.ended is None:
                _signal_group(component.pid, signal.SIGTERM)

        def all_ended() -> bool:
            return hurry() or all(component.ended is not None for component in self.components)

        processes.wait_until(all_ended, seconds=patience)
        if not processes.wait_until(self._killed, seconds=20):
            left = ", ".join(map(str, self._alive()))
            raise LaunchError(f"These processes do not end: {left}")

    def _killed(self) -> bool:
        """Once more, until none is left: who is killed may leave children, which become ours."""
        for component in self.components:
            _signal_group(component.pid, signal.SIGKILL)
        for pid in self._alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.reap()
        return not self._alive() and all(each.ended is not None for each in self.components)

    def _alive(self) -> list[int]:
        return [
            pid
            for child in processes.children()
            if child not in self._others
            for pid in (child, *processes.children(child, recursive=True))
        ]


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def stop_left_over(known: Sequence[Mapping[str, Any]], *, patience: float = 10) -> int:
    """End what a launcher that was killed has left; how many there were.

    Only processes that are provably the ones it started, and what is below them.
    """
    left = [each for each in known if processes.is_same(each)]
    below = [
        processes.identity(pid)
        for each in left
        for pid in processes.children(int(each["pid"]), recursive=True)
    ]
    everything = [*left, *(each for each in below if each is not None)]

    def gone() -> bool:
        return not any(processes.is_same(each) for each in everything)

    for each in left:
        _signal_group(int(each["pid"]), signal.SIGTERM)
    if not processes.wait_until(gone, seconds=patience):
        for each in everything:
            if processes.is_same(each):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(each["pid"]), signal.SIGKILL)
        processes.wait_until(gone, seconds=10)
    return len(left)
