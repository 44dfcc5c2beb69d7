"""The command `declare`: check a declaration, show what it would change, write a first one."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from im_attr_audit.commands import shared
from im_attr_audit.commands.shared import SHOWN, CannotDo
from im_attr_audit.declared.first import first_declaration
from im_attr_audit.declared.judge import Judged, difference, judge
from im_attr_audit.declared.nodes import shown
from im_attr_audit.declared.parse import (
    MOST_BYTES,
    InvalidDeclaration,
    Problem,
    decode,
    look_over,
    parse,
)
from im_attr_audit.text_format import counted, time_text

if TYPE_CHECKING:
    from im_attr_audit.declared.model import Declaration
    from im_attr_audit.record.declarations import Present


def add_declare(commands: Any) -> None:
    """The parser of `declare`."""
    declare = commands.add_parser(
        "declare",
        help="check declared names, and show what they would make a violation",
        description="Check the declared names in FILE, and compare them with the record: which "
        "slots would become violations, and which present violations would end. Nothing is "
        "recorded. Connects as `verify`. Exit code 0: FILE is valid; 1: it has errors, or with "
        "--strict a warning or a slot that would become a violation; 2: FILE or the record cannot "
        "be read.",
    )
    declare.add_argument("file", type=Path, nargs="?", metavar="FILE", help="YAML or JSON")
    declare.add_argument(
        "--from-current",
        action="store_true",
        help="write a first declaration from the names on record, to the new file FILE or to "
        "standard output",
    )
    declare.add_argument(
        "--strict", action="store_true", help="exit code 1 for warnings and new violations too"
    )
    declare.add_argument(
        "--no-database", action="store_true", help="check FILE alone; needs no connection"
    )
    declare.set_defaults(run=_declare)


def _declare(given: argparse.Namespace) -> int:
    if given.from_current:
        if given.no_database or given.strict:
            raise CannotDo("--from-current reads the record: give it alone, with a new FILE.")
        return _write_first(given.file, _present())
    if given.file is None:
        raise CannotDo("FILE is missing: the declaration to check, or give --from-current.")
    with given.file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    try:
        parsed = parse(decode(content, str(given.file)), str(given.file))
    except InvalidDeclaration as error:
        _print_problems(given.file, "error", error.errors)
        print(f"{given.file} is refused: {counted(len(error.errors), 'error')}.")
        return 1
    declaration = parsed.declaration
    if given.no_database:
        _print_problems(given.file, "warning", parsed.warnings)
        _print_summary(given.file, declaration, len(parsed.warnings))
        return int(given.strict and bool(parsed.warnings))
    present = _present()
    apps = [(each.app_group, each.app) for each in present.apps]
    warnings = [*parsed.warnings, *look_over(declaration, apps, present.at)]
    _print_problems(given.file, "warning", sorted(warnings, key=lambda each: each.line))
    _print_summary(given.file, declaration, len(warnings))
    begins = _print_comparison(declaration, present)
    return int(given.strict and bool(warnings or begins))


def _present() -> Present:
    from im_attr_audit.record.declarations import read_present
    from im_attr_audit.settings import stale_after

    engine = shared.reader_engine()
    try:
        return read_present(engine, stale_after())
    finally:
        engine.dispose()


def _write_first(file: Path | None, present: Present) -> int:
    text = first_declaration(present.apps)
    declaration = parse(text, "the declaration from current names").declaration
    if file is None:
        print(text, end="")
    else:
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError:
            raise CannotDo(f"{file} exists: name a new file, or delete it first.") from None
        exceptions = sum(len(group.exceptions) for group in declaration.groups.values())
        print(
            f"{file}: {counted(len(declaration.groups), 'group')}, "
            f"{counted(exceptions, 'exception')}. Give each exception its reason, or delete it."
        )
    # One name in two slots of an app cannot be declared.
    rest = [each for each in judge(declaration, present.apps, present.at) if each.is_known]
    _print_list("cannot be declared, remains a violation", rest, sys.stderr)
    return 0


def _print_summary(file: Path, declaration: Declaration, warnings: int) -> None:
    exceptions = sum(len(group.exceptions) for group in declaration.groups.values())
    print(
        f"{file} is valid: {counted(len(declaration.groups), 'group')}, "
        f"{counted(exceptions, 'exception')}, {counted(warnings, 'warning')}."
    )


def _print_comparison(declaration: Declaration, present: Present) -> int:
    """Print what the declaration would change; how many violations would begin."""
    found = difference(present.declaration, declaration, present.apps, present.at)
    print(
        f"Against the record of {counted(len(present.apps), 'app')} at "
        f"{time_text(present.at)}: {counted(len(found.begins), 'violation')} would begin, "
        f"{len(found.ends)} would end, {found.remain} would remain."
    )
    _print_list("would begin", found.begins)
    _print_list("would end", found.ends)
    unknown = Counter(
        each.app for each in judge(declaration, present.apps, present.at) if not each.is_known
    )
    if unknown:
        apps = [shown(app.address)[1:-1] for app in unknown]
        rest = f" and {len(apps) - SHOWN} more" if len(apps) > SHOWN else ""
        print(
            "Not judged, because these apps are stale or have never had a good poll: "
            f"{', '.join(apps[:SHOWN])}{rest}."
        )
    return len(found.begins)


def _print_list(word: str, listed: Sequence[Judged], file: Any = None) -> None:
    for each in listed[:SHOWN]:
        actual = "unused" if each.actual_name is None else shown(each.actual_name)
        declared = "unused" if each.declared_name is None else shown(each.declared_name)
        print(
            f"{word}: {shown(each.app.address)[1:-1]} slot {each.slot}: {actual}, "
            f"declared {declared} ({each.violation}, group {shown(each.app_group)})",
            file=file,
        )
    if len(listed) > SHOWN:
        print(f"{word}: {len(listed) - SHOWN} more", file=file)


def _print_problems(file: Path, word: str, problems: Sequence[Problem]) -> None:
    for each in problems[:SHOWN]:
        print(f"{file}, line {each.line}: {word}: {each.text}")
    if len(problems) > SHOWN:
        print(f"{file}: {len(problems) - SHOWN} more {word}s")
