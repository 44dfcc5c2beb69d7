"""The tests that face Airflow, on the lowest and the newest apache-airflow that pyproject allows.

`make test-airflow-versions`. Each version gets an environment in .local/airflow-versions, with the
newest of everything else. Where a version is that of requirements.lock, its tests run in .venv.
Needs the package registry.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = str(Path(sys.executable).with_name("uv"))
#: What calls Airflow or is called by it.
FILES = (
    *("test_dag.py", "test_exactly_once.py", "test_hook.py", "test_imports.py", "test_lookup.py"),
    *("test_notify.py", "test_provider.py", "test_connection_files.py", "test_under_airflow.py"),
)


def versions() -> list[str]:
    """The lowest, and the newest that the registry has; one where they are the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    [allowed] = [d for d in project["dependencies"] if re.match(r"apache-airflow\b(?!-)", d)]
    found = []
    for resolution in ("lowest-direct", "highest"):
        resolved = subprocess.run(
            [
                *(UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-deps"),
                *("--resolution", resolution, "-"),
            ],
            input=allowed,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(resolved.stdout.strip().removeprefix("apache-airflow=="))
    return list(dict.fromkeys(found))


def python_with(airflow: str) -> Path:
    """The interpreter of an environment that has this apache-airflow."""
    if airflow == version("apache-airflow"):
        return Path(sys.executable)
    folder = ROOT / ".local" / "airflow-versions" / airflow
    python = folder / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--clear", str(folder)], check=True, cwd=ROOT)
    subprocess.run(
        [
            *(UV, "pip", "install", "--quiet", "--python", str(python)),
            *("--requirements", "pyproject.toml", "--all-extras", "--group", "local"),
            *("--group", "dev", "--editable", ".", f"apache-airflow=={airflow}"),
        ],
        check=True,
        cwd=ROOT,
    )
    return python


def main() -> int:
    """Test each version; 0 where all passed."""
    failed = 0
    for airflow in versions():
        sys.stderr.write(f"apache-airflow {airflow}\n")
        tests = [str(ROOT / "tests" / file) for file in FILES]
        command = [str(python_with(airflow)), "-m", "pytest", "--numprocesses=1", "-q", *tests]
        failed |= subprocess.run(command, check=False, cwd=ROOT).returncode
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
