"""Make .venv from the lock files: a virtual environment, a pinned uv, everything else by uv.

bootstrap.sh runs it with the Python of the machine, so it uses the standard library only. Each step
may be interrupted at any point; a stamp, written last, shows that the set-up is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / ".complete"
LOCK = ROOT / "requirements.lock"


def say(text: str, end: str = "\n") -> None:
    """Progress goes to stderr: `make -s psql` prints its result and nothing else."""
    print(text, end=end, file=sys.stderr, flush=True)


def step(text: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Run one program, quietly; its words are shown only if it fails."""
    live = sys.stderr.isatty()
    began = time.monotonic()
    say(f"{text} ...", end="" if not live else "\r")
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = child.wait(timeout=1)
                    break
                if live:
                    say(f"{text} ... {time.monotonic() - began:.0f} s", end="\r")
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        took = f"{time.monotonic() - began:.0f} s"
        say(f"{text} ... {took}" if live else f" {took}")
        if code != 0:
            output.seek(0)
            say(output.read().decode(errors="replace").rstrip())
            say("The set-up failed; its output is above. The next make continues from here.")
            sys.exit(1)


def works(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def same_registry_as_pip() -> dict[str, str]:
    """uv does not read pip's settings: a mirror that is set for pip is meant for uv, too."""
    if any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")):
        return {}
    done = subprocess.run(
        [str(VENV / "bin/python"), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = dict(re.findall(r"(?m)^(\S+?)='(.*)'$", done.stdout))
    found = {}
    for setting, variable in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("cert", "SSL_CERT_FILE"),
    ):
        for source in ("global", "install", ":env:"):  # the last one that says something wins
            if value := said.get(f"{source}.{setting}"):
                found[variable] = " ".join(value.replace("\\n", " ").split())
    if "UV_INDEX" in found:  # look in all of them, as pip does; the hashes say what may come
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in found.items() if name not in os.environ}


def set_up(wanted: str) -> None:
    if STAMP.is_file() and STAMP.read_text().rstrip("\n") == wanted:
        return  # somebody else did it while we waited for the lock
    STAMP.unlink(missing_ok=True)
    began = time.monotonic()
    python, uv = str(VENV / "bin/python"), str(VENV / "bin/uv")
    suits = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))"
    moved = VENV.is_dir() and not works("grep", "-qF", str(VENV), str(VENV / "bin/activate"))
    if moved or not (works(python, "-c", suits) and works(uv, "--version")):
        version = ".".join(map(str, sys.version_info[:3]))
        if VENV.is_dir():
            shutil.rmtree(VENV)
        step(f"Making .venv with Python {version}", [sys.executable, "-m", "venv", str(VENV)])
        step(
            "Installing uv and setuptools",
            [
                *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--require-hashes", "-r", "launch/bootstrap.lock"),
            ],
            {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"},
        )
    environment = {**same_registry_as_pip(), "UV_NO_PROGRESS": "1"}
    count = sum(1 for line in LOCK.read_text().splitlines() if "==" in line)
    step(
        f"Installing what requirements.lock lists ({count} packages)",
        [
            *(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python),
            # The vendor's own package is there as source only: what builds it is ours, by hash.
            *("--no-build-isolation", str(LOCK)),
        ],
        environment,
    )
    step(
        "Installing im-attr-audit itself, editable",
        [
            *(uv, "pip", "install", "--quiet", "--python", python),
            *("--no-deps", "--no-build-isolation", "--editable", "."),
        ],
        environment,
    )
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(wanted + "\n")
    temporary.rename(STAMP)
    say(f"Set up in {time.monotonic() - began:.0f} s.")


def stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    (ROOT / ".local").mkdir(mode=0o700, exist_ok=True)
    with (ROOT / ".local" / "set-up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(sys.argv[1])
        except KeyboardInterrupt:
            say("\nInterrupted. The next make continues from here.")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
