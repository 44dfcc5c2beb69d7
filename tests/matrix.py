"""The part of the suite that depends on a version, on other versions: `make test-matrix`.

    python -m tests.matrix --postgres 16
    python -m tests.matrix --python /usr/bin/python3.13

A Python runs what reads, signs, decides and faces Airflow, on the embedded PostgreSQL; a PostgreSQL
what the schema does, under the Python of .venv. Each writes its row of README's table of versions:
what was run, and what came of it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from launch.postgres import MAJOR, bundled_binaries

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
UV = str(Path(sys.executable).with_name("uv"))
EMBEDDED = (16, MAJOR)
OF_PYTHON = (
    *("answer", "codes", "dag", "declarations", "declared", "evidence_formats", "frames", "hook"),
    *("proof", "provider", "rules", "settings", "store", "sync", "target", "usersig"),
)
OF_POSTGRES = (
    *("catalogue", "fold", "retention", "schema", "seal_schema", "session_state", "store"),
    *("sync", "views"),
)


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def environment_of(program: str) -> Path:
    """The interpreter of an environment of that Python with what requirements.lock lists."""
    version = python_version(program)
    if version == python_version(sys.executable):
        return Path(sys.executable)
    folder = ROOT / ".local" / "matrix" / version
    python = folder / "bin" / "python"
    install = (UV, "pip", "install", "--quiet", "--python", str(python))
    for command in (
        (UV, "venv", "--quiet", "--clear", "--python", program, str(folder)),
        (*install, "--require-hashes", "--requirements", "requirements.lock"),
        (*install, "--no-deps", "--editable", "."),
    ):
        subprocess.run(command, check=True, cwd=ROOT)
    return python


def programs_of(major: int) -> Path:
    """The folder of a server's programs: from the wheel, or the machine's own."""
    embedded = major in EMBEDDED
    return bundled_binaries(major) if embedded else Path(f"/usr/lib/postgresql/{major}/bin")


def run(python: Path, major: int, parts: Sequence[str]) -> tuple[str, bool]:
    """What came of these test files, as a sentence; whether all passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}"]
        subprocess.run(
            [*command, *(f"tests/test_{name}.py" for name in parts)],
            check=False,
            cwd=ROOT,
            env={**os.environ, "IM_ATTR_AUDIT_TEST_POSTGRES": str(major)},
        )
        suite = next(ET.parse(report).getroot().iter("testsuite"))
    tests, *others = (int(suite.get(k, "0")) for k in ("tests", "failures", "errors", "skipped"))
    failed, skipped = sum(others[:2]), others[2]
    text = f"{tests - sum(others)} tests of {len(parts)} files passed"
    text += f", {skipped} skipped" if skipped else ""
    return text + (f", **{failed} failed**" if failed else ""), not failed


def with_row(readme: str, kind: str, version: str, result: str) -> str:
    """README with this result in the row of that version: of Python's minor or Postgres' major."""
    key = ".".join(version.split(".")[: 2 if kind == "Python" else 1])
    row = f"| {kind} {version} | {result}, {datetime.now(UTC):%Y-%m-%d} |\n"
    new, found = re.subn(rf"(?m)^\| {kind} {re.escape(key)}\b.*\n", lambda _: row, readme)
    assert found == 1, f"README has {found} rows of {kind} {key}"
    return new


def main() -> int:
    """Run what is named; 0 where all passed."""
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__)
    parser.add_argument("--python", nargs="*", default=[], metavar="PROGRAM")
    parser.add_argument("--postgres", nargs="*", type=int, default=[], metavar="MAJOR")
    given = parser.parse_args()
    good = True
    for program in given.python:
        python = environment_of(program)
        result, passed = run(python, MAJOR, OF_PYTHON)
        keep("Python", python_version(python), f"{result} on PostgreSQL {version_of(MAJOR)}")
        good &= passed
    for major in given.postgres:
        result, passed = run(Path(sys.executable), major, OF_POSTGRES)
        ours = python_version(Path(sys.executable))
        keep("PostgreSQL", version_of(major), f"{result} under Python {ours}")
        good &= passed
    return int(not good)


def python_version(program: str | Path) -> str:
    return said(str(program), "-c", "import platform; print(platform.python_version())")


def version_of(major: int) -> str:
    return said(str(programs_of(major) / "postgres"), "--version").split()[2]


def keep(kind: str, version: str, result: str) -> None:
    sys.stdout.write(f"{kind} {version}: {result}\n")
    README.write_text(with_row(README.read_text("utf-8"), kind, version, result), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
