"""The state folder's files: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any


def write_private(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` in one step; a reader sees the old content or the new, never half."""
    data = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None where there is no such file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    return content


class StateLock:
    """Held by the running simulator: its holder owns the state folder.

    The kernel frees it when the process dies, however it dies, so there is no stale pid to judge.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._handle: int | None = None

    def acquire(self, *, patience: float = 0.0) -> bool:
        """Take the lock; False if it stays taken for ``patience`` seconds: a simulator runs here.

        A command that looks whether one runs, or changes what is stored, holds it briefly.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(handle)
                return False
            self._handle = handle
            return True

    def release(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
