"""`python -m launch run|sync|psql|clean`: what the Makefile calls."""

from __future__ import annotations

import argparse
import importlib
import sys

from launch.postgres import PostgresError
from launch.state import LaunchError, say

_COMMANDS = {"run": "run", "sync": "one_run", "psql": "psql", "clean": "clean"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when the parent process is killed (Linux)"
    )
    asked = parser.parse_args()
    try:
        if asked.with_parent:
            from launch.components import stop_with_parent

            stop_with_parent()
        return int(importlib.import_module(f"launch.{_COMMANDS[asked.command]}").main())
    except (LaunchError, PostgresError) as error:
        say(str(error))
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except PermissionError as error:
        say(f"{error}. Was this checkout used by another user (or root) before?")
    return 1


if __name__ == "__main__":
    sys.exit(main())
