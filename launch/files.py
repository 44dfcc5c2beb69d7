"""Files that only we can read, each written in one step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step: a reader sees the old text or the new one."""
    _write_aside(path, text).rename(path)


def generated_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in that file. Made at the first call; of several at once, the first one wins."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = _write_aside(path, make() + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
    return path.read_text().strip()


def _write_aside(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return aside
