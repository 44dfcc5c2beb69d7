"""`make clean`: delete what the other targets made. Asks before it deletes recorded data.

Standard library only, since it works where nothing is installed, too.
"""

from __future__ import annotations

import shutil

from launch import processes
from launch.state import ROOT, LaunchError, State, say

_CACHES = (".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "build", "dist")


def main() -> int:
    state = State()
    server = state.postgres()
    if state.folder.is_dir():
        try:
            with state.only_one(), server.not_in_use():
                if not _may_delete(state):
                    say("Nothing was deleted.")
                    return 1
                for home in server.left_over():
                    shutil.rmtree(home)
                server.destroy()
                shutil.rmtree(state.folder)
        except processes.BusyError:
            raise LaunchError(
                "`make run` (or another command) is up in this checkout. Stop it first."
            ) from None
    if state.folder != ROOT / ".local":  # a state beside the checkout's: the rest is not its own
        return 0
    for name in _CACHES:
        shutil.rmtree(ROOT / name, ignore_errors=True)
    return 0


def _may_delete(state: State) -> bool:
    server = state.postgres()
    places = [server.home] if (server.data / "PG_VERSION").exists() else []
    places += server.left_over()
    if not places:
        return True
    say("This deletes everything that was recorded here, for good:")
    for place in places:
        say(f"    {place}")
    print("Delete it? [y/N] ", end="", flush=True)
    try:
        answer = input()
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
