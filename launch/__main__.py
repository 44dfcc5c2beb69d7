"""`python -m launch run|sync|psql|clean`: what the Makefile calls."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from launch.postgres import PostgresError
from launch.state import LaunchError, say

_COMMANDS = {"run": "run", "sync": "one_run", "psql": "psql", "clean": "clean"}
_INTERRUPTED = 130


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when the parent process is killed (Linux)"
    )
    parser.add_argument(
        "--status-to",
        type=Path,
        help="write a status that is not 0 to this file and end with 0, so that make adds no line",
    )
    asked = parser.parse_args()
    status = _run(asked)
    # After a Ctrl-C make ends by itself, and nobody would read the file.
    if asked.status_to is None or status in (0, _INTERRUPTED):
        return status
    asked.status_to.parent.mkdir(mode=0o700, exist_ok=True)
    asked.status_to.write_text(f"{status}\n", encoding="utf-8")
    return 0


def _run(asked: argparse.Namespace) -> int:
    try:
        if asked.with_parent:
            from launch.components import stop_with_parent

            stop_with_parent()
        return int(importlib.import_module(f"launch.{_COMMANDS[asked.command]}").main())
    except (LaunchError, PostgresError) as error:
        say(str(error))
    except KeyboardInterrupt:
        say("Interrupted.")
        return _INTERRUPTED
    except PermissionError as error:
        say(f"{error}. Was this checkout used by another user (or root) before?")
    return 1


if __name__ == "__main__":
    sys.exit(main())
