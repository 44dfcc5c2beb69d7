"""What belongs to this checkout: its state folder, its generated secrets, what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch import processes
from launch.files import generated_secret, write_private
from launch.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[1]
#: Tests run with a state folder of their own, beside the one of the checkout.
STATE_VARIABLE = "IM_ATTR_AUDIT_STATE_DIR"


class LaunchError(Exception):
    """A command cannot continue; the text says why and what to do."""


def say(text: str = "") -> None:
    """Print on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    began = time.monotonic()
    print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        say()
        raise
    say(f" {time.monotonic() - began:.0f} s")


class State:
    """The folder `.local`: everything of this checkout that outlives a command."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get(STATE_VARIABLE) or ROOT / ".local")
        self.airflow = self.folder / "airflow"
        self.logs = self.folder / "logs"
        self.simulator = self.folder / "simulator"
        self.secrets = self.folder / "secrets"

    def make(self) -> None:
        for folder in (self.folder, self.airflow, self.logs, self.secrets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def postgres(self, report: Callable[[str], None] = lambda _: None) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder / "postgres", report=report)

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """A generated secret in a file that only we can read; the same one every time."""
        return generated_secret(self.secrets / name, make)

    def remember(self, name: str, value: Any) -> None:
        write_private(self.folder / f"{name}.json", json.dumps(value) + "\n")

    def recall(self, name: str) -> Any:
        """What was remembered under that name; None where nothing was, or nothing readable."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / f"{name}.json").read_text())
        return None

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def only_one(self) -> Iterator[None]:
        """Only one command at a time may run the DAG here (`make run`, or one `make sync`)."""
        with processes.file_lock(self.folder / "run.lock", wait=False):
            yield
