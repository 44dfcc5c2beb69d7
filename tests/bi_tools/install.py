"""The tools' own environment in .local/bi: they need older packages than Airflow does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from launch.state import ROOT, LaunchError, step

LOCK = ROOT / "bi" / "requirements.lock"
VENV = ROOT / ".local" / "bi"
#: Superset 6.1 and what it pins run on these.
_PYTHONS = ("3.11", "3.12")


def install() -> Path:
    """Make .local/bi match bi/requirements.lock; its folder of programs."""
    stamp, wanted = VENV / ".complete", LOCK.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return VENV / "bin"
    uv = str(Path(sys.executable).with_name("uv"))
    with step("Installing Superset and dbt into .local/bi"):
        _run(uv, "venv", "--quiet", "--clear", "--python", _python(), str(VENV))
        sync = ("pip", "sync", "--quiet", "--require-hashes", "--python", str(VENV / "bin/python"))
        _run(uv, *sync, str(LOCK))
    stamp.write_text(wanted, encoding="utf-8")
    return VENV / "bin"


def version(programs: Path, package: str) -> str:
    """The package with the version that is installed."""
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    command = [str(programs / "python"), "-c", asked]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"{package} {found}"


def _python() -> str:
    mine = "{}.{}".format(*sys.version_info)
    found = [mine] if mine in _PYTHONS else [v for v in _PYTHONS if shutil.which(f"python{v}")]
    if not found:
        raise LaunchError(f"Superset needs Python {' or '.join(_PYTHONS)}. Install one of them.")
    return sys.executable if found[0] == mine else f"python{found[0]}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LaunchError(f"{' '.join(command[:3])} failed:\n{done.stdout}{done.stderr}")
