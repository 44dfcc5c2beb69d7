"""The simulator as a child process: started, waited for, ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from simulator.files import read_json
from simulator.world import SimulatorError

_ROOT = Path(__file__).resolve().parents[1]


def start_process(
    state_dir: Path, *, options: Sequence[str], new_session: bool, timeout: float
) -> tuple[dict[str, Any], subprocess.Popen[bytes]]:
    """Start one on ``state_dir`` and wait until it serves: its announcement and its process.

    It ends when this process does. SimulatorError where it does not serve within ``timeout``.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "simulator", "--die-with-parent"]
    command += ["--state", str(state_dir.resolve()), *options]
    search = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    with (state_dir / "simulator.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=new_session,
        )
    try:
        ready = _first_line(process, timeout)
        announcement = read_json(state_dir / "simulator.json")
        if not ready.startswith(b"ready") or announcement is None:
            said = (state_dir / "simulator.log").read_text("utf-8", "replace").strip()
            raise SimulatorError(f"the simulator did not start: {said or 'it said nothing'}")
    except BaseException:
        end_process(process)
        raise
    return announcement, process


def _first_line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """What the process says first; empty if it ends or stays silent."""
    stream: IO[bytes] | None = process.stdout
    said = b""
    deadline = time.monotonic() + timeout
    while stream is not None and not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            break
        part = os.read(stream.fileno(), 4096)
        if not part:
            break
        said += part
    return said


def end_process(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL after ten seconds."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
