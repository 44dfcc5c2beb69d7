"""`make psql`: psql on the audit database as the reader, in a terminal or with SQL from stdin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from launch import databases, environment
from launch.files import write_private
from launch.postgres import bundled_binaries
from launch.state import State


def main() -> int:
    state = State()
    state.make()
    with state.postgres().in_use() as server:
        url = databases.url_of(databases.reader(state, server, environment.given()))
        passwords = state.secrets / f"pgpass.{os.getpid()}"
        write_private(passwords, databases.pgpass(url))
        try:
            return _psql(databases.without_password(url), str(passwords))
        finally:
            passwords.unlink()


def _psql(address: str, passwords: str) -> int:
    options = ["--no-password", "-P", "pager=off"]
    if not sys.stdin.isatty():
        # Nothing but the result, whatever the user's psqlrc would say; an error ends it with 3.
        options += ["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1"]
    # In a terminal a Ctrl-C cancels psql's query; it is psql that ends, and then we do.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        [str(bundled_binaries() / "psql"), *options, address],
        env={**os.environ, "PGPASSFILE": passwords, "PGAPPNAME": "make psql"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        if process.poll() is None:
            process.terminate()
            process.wait()
