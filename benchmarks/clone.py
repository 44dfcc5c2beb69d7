"""A fresh clone of this checkout in a temporary folder, and the make targets in it.

What is committed is what is measured, away from the checkout's own .env, record and Airflow.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.plain import plain_environment
from launch import api, components, processes
from launch.state import ROOT, State

_SECONDS = 900
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Clone:
    """``environment``: what its commands get beside the plain environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.state = State(folder / ".local")
        # The Python that this one was made from: a clone makes its own environment.
        base = str(getattr(sys, "_base_executable", sys.executable))
        self.environment = plain_environment() | {"PYTHON": base, **environment}

    def make(self, target: str, **more: str) -> str:
        """`make target`; what it printed. Raises unless it ended well."""
        done = subprocess.run(
            ["make", target],
            cwd=self.folder,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"make {target}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        """`make run`, until the block ends: then as Ctrl-C ends it."""
        output = self.folder / "make-run.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["make", "run"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Running(process, output)
        finally:
            # To all of its group, as a terminal does; and whatever does not listen is killed.
            for number, patience in ((signal.SIGINT, 60), (signal.SIGKILL, 10)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
            components.stop_left_over(self.state.recall("components") or [])


class Running:
    """A `make run` that is up or on its way."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output
        self._token = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until it has printed that."""
        found: re.Match[str] | None = None

        def printed() -> bool:
            nonlocal found
            said = self._output.read_text(errors="replace")
            found = re.search(pattern, said)
            assert found or self._process.poll() is None, f"`make run` ended:\n{said[-4000:]}"
            return found is not None

        assert processes.wait_until(printed, seconds=_SECONDS, interval=0.1), (
            f"not printed: {pattern}\n{self._output.read_text(errors='replace')[-4000:]}"
        )
        assert found is not None
        return found

    def wait_for_page(self) -> str:
        """Until the page that it names answers to the login that it prints; its address."""
        page = self.wait_for(r"The page +(\S+)")[1]
        name, password = self.wait_for(r"Login +(\S+) / (\S+)").groups()
        address = page.partition("/im-attr-audit")[0]

        def answers() -> bool:
            try:
                token = api.log_in(address, name, password)
                for path in ("", "api/now"):  # the page, and what it shows first
                    request = urllib.request.Request(f"{page}{path}")
                    request.add_header("Authorization", f"Bearer {token}")
                    with _DIRECTLY.open(request, timeout=30) as answer:
                        if answer.status != 200:
                            return False
            except OSError:
                return False
            return True

        assert processes.wait_until(answers, seconds=_SECONDS, interval=0.1), f"{page} is silent"
        return page


@contextlib.contextmanager
def clone(environment: Mapping[str, str] | None = None) -> Iterator[Clone]:
    """A clone with nothing installed; deleted afterwards, its database with it."""
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as temporary:
        folder = Path(temporary) / "im-attr-audit"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        made = Clone(folder, environment or {})
        try:
            yield made
        finally:
            made.state.postgres().destroy()
            shutil.rmtree(folder, ignore_errors=True)
