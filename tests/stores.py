"""`make test-stores`: checkpoints in object stores that speak the real protocols, on loopback.

S3 is moto's server, Google Cloud Storage gcp-storage-emulator, Azure Blob Storage Microsoft's
Azurite (where npm is there). They and the packages that fsspec needs for each are installed into
.local/stores, which goes before .venv. The tests are tests/cluster/stores.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from launch.state import ROOT, LaunchError, step

FOLDER = ROOT / ".local" / "stores"
PACKAGES = ("s3fs", "gcsfs", "adlfs", "moto[server]", "gcp-storage-emulator")
AZURITE = "azurite@3.35.0"


def main() -> int:
    """Install what is missing and run the tests; gives pytest's exit code."""
    fsspec = f"fsspec=={version('fsspec')}"
    stamp, wanted = FOLDER / ".complete", " ".join((*PACKAGES, fsspec, AZURITE))
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        with step("Installing the stores and their clients into .local/stores"):
            uv = str(Path(sys.executable).with_name("uv"))
            packages = FOLDER / "python"
            _run(uv, "pip", "install", "--quiet", "--target", str(packages), *PACKAGES, fsspec)
            if npm := shutil.which("npm"):
                _run(npm, "install", "--silent", "--prefix", str(FOLDER / "node"), AZURITE)
        stamp.write_text(wanted, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(FOLDER / "python")}
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "tests/cluster/stores.py"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LaunchError(f"{' '.join(command[:3])} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
