"""Who imports whom, seen from a fresh process; ruff's banned-api keeps it file by file."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CORE = (
    "errors names tencent.usersig tencent.regions tencent.codes tencent.redact tencent.answer "
    "tencent.target record.rules record.clock evidence.canonical evidence.merkle"
)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded once the statement has run in a new process."""
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", CORE.split())
def test_the_core_needs_nothing_but_the_standard_library(module: str) -> None:
    loaded = loaded_by(f"import im_attr_audit.{module}")
    foreign = {"airflow", "sqlalchemy", "psycopg2", "requests", "urllib3", "fastapi", "alembic"}
    assert loaded & foreign == set()


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("tencent.client", {"airflow", "sqlalchemy", "psycopg2"}),
        ("sync", {"airflow", "fastapi"}),
        ("record.store", {"airflow", "requests"}),
        ("record.upkeep.migrate", {"airflow", "requests"}),
    ],
)
def test_an_adapter_knows_one_foreign_library(module: str, not_loaded: set[str]) -> None:
    assert loaded_by(f"import im_attr_audit.{module}") & not_loaded == set()


def test_a_task_that_asks_nobody_does_not_load_what_speaks_http() -> None:
    modules = ("tencent.target", "record.runs", "hook")
    loaded = loaded_by("; ".join(f"import im_attr_audit.{module}" for module in modules))
    assert "requests" not in loaded


def test_the_simulator_shares_no_code_with_the_product_that_it_tests() -> None:
    loaded = loaded_by(
        "import importlib, pkgutil, simulator; "
        "[importlib.import_module(f'simulator.{found.name}') "
        "for found in pkgutil.iter_modules(simulator.__path__)]"
    )
    assert "simulator" in loaded
    assert loaded & {"im_attr_audit", "launch", "tests", "requests", "airflow"} == set()


def test_the_architecture_page_shows_the_layers_that_are_checked() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    shown = re.findall(r"^<!-- the layers .*\n```\n(.*?)^```$", page, re.M | re.S)[0]
    assert shown.split("\n")[:-1] == pyproject["tool"]["importlinter"]["contracts"][0]["layers"]


def test_every_file_that_the_architecture_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:[\w-]+/)+|(?:[\w-]+/)*[\w-]+\.(?:py|toml))`", page))
    assert len(named) > 15
    package = ROOT / "plugins" / "im_attr_audit"
    assert {n for n in named if not ((ROOT / n).exists() or (package / n).exists())} == set()
