"""Who imports whom, seen from a fresh process; ruff's banned-api keeps it file by file."""

from __future__ import annotations

import subprocess
import sys

import pytest

CORE = (
    "errors names tencent.usersig tencent.regions tencent.codes tencent.redact tencent.answer "
    "tencent.target record.rules record.clock"
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
        ("record.migrate", {"airflow", "requests"}),
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
