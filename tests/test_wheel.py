"""The wheel by itself: installed where nothing of this checkout is, it can migrate a database."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launch.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[1]
UV = str(Path(sys.executable).with_name("uv"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout with what the lock has installed."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            UV,
            "build",
            "--quiet",
            "--wheel",
            "--no-build-isolation",
            "--offline",
            "--out-dir",
            folder,
        ],
        cwd=ROOT,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        check=True,
    )
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_schema_and_the_queries(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    carried = {name.removeprefix("im_attr_audit/") for name in names if "/sql/" in name}
    package = ROOT / "plugins" / "im_attr_audit"
    there = {
        str(path.relative_to(root))
        for root, folder in ((ROOT, ROOT / "sql"), (package, package / "page" / "sql"))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "page/sql/changes.sql" in there
    assert "page/sql/parts/matching_changes.sql" in there
    assert carried == there
    assert "im_attr_audit/declared/declared_names.schema.json" in names
    assert not [name for name in names if name.startswith(("tests/", "launch/"))]


def test_the_installed_wheel_migrates_from_empty(
    wheel: Path, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    options = ["--quiet", "--offline", "--no-deps", "--python", str(python)]
    subprocess.run([UV, "pip", "install", *options, str(wheel)], check=True)
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database by_wheel")
    # Other distributions come from the lock's environment; its .pth file, by which this checkout
    # is importable there, has no effect on a path that is given like this.
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": libraries}
    where = subprocess.run(
        [
            python,
            "-c",
            "import im_attr_audit.record.upkeep.migrate as m; print(m.__file__, m.sql_directory())",
        ],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(Path(path).is_relative_to(environment) for path in where)
    done = subprocess.run(
        [environment / "bin" / "im-attr-audit", "migrate"],
        env={**clean, "IM_ATTR_AUDIT_DATABASE_URL": postgres.url("by_wheel")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("attr_audit is at revision ")
