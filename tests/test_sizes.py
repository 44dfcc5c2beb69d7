"""No module of the product has over 400 lines, no function over 60."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("plugins", "dags", "launch", "compose", "simulator")
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
OPENS = re.compile(
    r"(?P<indent> {0,2})(?:(?:export )?(?:async )?function (?P<name>\w+)|run\w*\(async"
    r"|(?:async )?(?!(?:if|for|while|switch)\b)(?P<method>\w+)\(.*\) \{$)"
)


def files(*suffixes: str) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    if path.suffix == ".js":
        yield from functions_of_script(path)
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{name_of(path)} {node.name}", node.end_lineno - node.lineno + 1


def functions_of_script(path: Path) -> Iterator[tuple[str, int]]:
    """Functions of a module and methods of its classes, as they are indented everywhere here."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if found := OPENS.match(line):
            begun[found["indent"]] = number, found["name"] or found["method"] or "view"
        elif (end := re.match(r"( {0,2})\}", line)) and end[1] in begun:
            first, name = begun.pop(end[1])
            yield f"{name_of(path)} {name}", number - first + 1


def test_no_module_is_longer_than_is_read_at_once() -> None:
    lines = {name_of(path): len(path.read_bytes().splitlines()) for path in files(".py", ".js")}
    assert len(lines) > 200
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    lines = dict(each for path in files(".py", ".js") for each in functions(path))
    assert len(lines) > 1000
    scripts = [name for name in lines if ".js " in name]
    assert len(scripts) > 150
    assert {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FUNCTION} == {}
