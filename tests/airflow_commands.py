"""`airflow` and `im-attr-audit` as commands on a PATH, without importing Airflow for each.

One process imports Airflow and forks for every command that a client sends it: the child takes over
the client's arguments, environment, folder and files, and runs the command's own main(). Runs of
the DAG are made by one child, one after the other: what its first run pays for serves them all.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from im_attr_audit.settings import DAG_ID

from tests.airflow_process import ROOT

_CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
name = os.path.basename(sys.argv[0])
server.connect({address!r} + (".runs" if name == "run-the-dag" else ""))
asked = json.dumps([[name, *sys.argv[1:]], os.getcwd(), dict(os.environ)])
socket.send_fds(server, [len(asked.encode()).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked.encode())
sys.exit(int(server.makefile().read() or 70))
"""

#: Beside the two real ones: one run of the DAG, which ends with exit code 0 if it is green.
COMMANDS = ("airflow", "im-attr-audit", "run-the-dag")


@contextlib.contextmanager
def airflow_commands(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """The folder to put on PATH, for as long as the commands in it work."""
    (binaries := folder / "bin").mkdir(parents=True)
    address = str(folder / "socket")
    for name in COMMANDS:
        command = binaries / name
        command.write_text(_CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
    ready, ready_end = os.pipe()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow_commands", address, str(ready_end)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[ready_end],
            cwd=ROOT,
            env=dict(environment),
            start_new_session=True,
        )
    os.close(ready_end)
    try:
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read():
                raise RuntimeError((folder / "server.log").read_text()[-4000:])
        yield binaries
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _serve(address: str, ready_end: int) -> None:
    from airflow import settings
    from airflow.cli import cli_parser
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.execution_time.supervisor import in_process_api_server
    from airflow.utils import db
    from im_attr_audit import cli, hook, sync  # noqa: F401
    from im_attr_audit.messages import notify  # noqa: F401

    # All that costs a command time, so that the children have it already.
    db.initdb()
    cli_parser.get_parser()
    DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    _ = in_process_api_server().app
    assert settings.engine is not None
    settings.engine.dispose()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    commands, runs = _listen(address), _listen(f"{address}.runs")
    if os.fork() == 0:
        commands.close()
        os.close(ready_end)
        while True:
            _serve_one(runs.accept()[0])
    runs.close()
    os.write(ready_end, b"ready")
    os.close(ready_end)
    while True:
        client, _ = commands.accept()
        if os.fork() == 0:
            commands.close()
            _serve_one(client)
            os._exit(0)
        client.close()


def _listen(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    return server


def _serve_one(client: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 70
    try:
        code = _answer(client)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # The reader of the output waits for its end.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.close(nowhere)
        client.sendall(str(code).encode())
        client.close()


def _answer(client: socket.socket) -> int:
    size, files, _, _ = socket.recv_fds(client, 4, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += client.recv(65536)
    arguments, folder, environment = json.loads(content)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    try:
        code: Any = _MAINS[arguments[0]]()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return code if isinstance(code, int) else 0 if code is None else 1


def _airflow() -> None:
    from airflow.__main__ import main

    main()  # type: ignore[no-untyped-call]


def _im_attr_audit() -> int:
    from im_attr_audit.cli import main

    return main()


def _run_the_dag() -> int:
    from airflow.dag_processing.dagbag import DagBag

    run = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags[DAG_ID].test()
    return 0 if run.state == "success" else 1


_MAINS = {"airflow": _airflow, "im-attr-audit": _im_attr_audit, "run-the-dag": _run_the_dag}

if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
