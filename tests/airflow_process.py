"""A real Airflow in a child process that runs the DAG on request, as `airflow dags test` does.

Importing Airflow takes seconds and reads its settings once, so one child serves a whole session;
each request may change the environment that connections and Variables come from.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from im_attr_audit.settings import DAG_ID

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """A run of the DAG as it ended: its tasks by label or id, and everything that was logged."""

    run_id: str
    state: str
    tasks: dict[str, dict[str, Any]]
    log: str

    def states(self) -> dict[str, str]:
        """Task (or mapped label) → state."""
        return {name: task["state"] for name, task in self.tasks.items()}


class AirflowProcess:
    """The child. ``home`` is its AIRFLOW_HOME, ``metadata_url`` its (empty) metadata database."""

    def __init__(self, home: Path, metadata_url: str, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log_path = home / "everything.log"
        self._log = self.log_path.open("wb")
        self._read = 0
        self._set: set[str] = set()
        answers, answer_end = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow_process", str(answer_end)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[answer_end],
            cwd=ROOT,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")},
                "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_url,
                "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
                "IM_ATTR_AUDIT_CONFIRM_SECONDS": "0.1",
                "IM_ATTR_AUDIT_RETRY_SECONDS": "0",
                **environment,
            },
        )
        os.close(answer_end)
        self._answers = os.fdopen(answers)
        self.ask("start")

    def ask(self, command: str, **values: Any) -> Any:
        """The child's answer to one request; raises if it died or failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **values}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._answers.readline()
        reply = json.loads(line) if line else {"error": "the process ended"}
        if "error" in reply:
            raise RuntimeError(f"{reply['error']}\n{self.new_log()[-4000:]}")
        return reply["answer"]

    def run(self, environment: Mapping[str, str | None], conf: Any = None) -> Ended:
        """Run the DAG once with these variables set (None: unset)."""
        self.new_log()
        reply = self.ask("run", environment=self._with_others_unset(environment), conf=conf)
        return Ended(reply["run_id"], reply["state"], reply["tasks"], self.new_log())

    def command(self, environment: Mapping[str, str | None], *arguments: str) -> tuple[int, str]:
        """The exit code and output of `im-attr-audit` in this Airflow's environment."""
        given = self._with_others_unset(environment)
        code, output = self.ask("cli", environment=given, arguments=arguments)
        return code, output

    def _with_others_unset(self, environment: Mapping[str, str | None]) -> dict[str, str | None]:
        """What an earlier test has set and this one has not is gone."""
        others = dict.fromkeys(self._set - environment.keys())
        self._set |= environment.keys()
        return {**others, **environment}

    def connection_form(self, connection_type: str) -> Any:
        """What the form for a connection of this type is made from, as the UI asks for it."""
        return self.ask("form", connection_type=connection_type)

    def describe(self) -> Any:
        """The DAG as Airflow serializes it."""
        return self.ask("describe")

    def new_log(self) -> str:
        """What was written since the last call."""
        self._log.flush()
        with self.log_path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        return new.decode(errors="replace")

    def stop(self) -> None:
        """End the child."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._answers.close()
        self._log.close()


def _serve(answers: Any) -> None:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils import db
    from im_attr_audit.cli import main

    db.initdb()
    for line in sys.stdin:
        asked = json.loads(line)
        # Read again each time: a run leaves its params behind in the DAG object.
        bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        dag = bag.dags.get(DAG_ID)
        answer: Any = None
        try:
            if dag is None or bag.import_errors:
                raise RuntimeError(f"a DAG cannot be read: {bag.import_errors}")
            for name, value in asked.get("environment", {}).items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            if asked["command"] == "describe":
                answer = DagSerialization.serialize_dag(dag)
            elif asked["command"] == "form":
                [form] = (
                    hook
                    for hook in HookMetaService.hook_meta_data()
                    if hook.connection_type == asked["connection_type"]
                )
                answer = form.model_dump(mode="json")
            elif asked["command"] == "cli":
                output = io.StringIO()
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    code = main(asked["arguments"])
                answer = [code, output.getvalue()]
            elif asked["command"] == "run":
                run = dag.test(run_conf=asked["conf"])
                answer = {
                    "run_id": run.run_id,
                    "state": str(run.state),
                    "tasks": {
                        ti.rendered_map_index or ti.task_id: {
                            "state": str(ti.state),
                            "tries": ti.try_number,
                        }
                        for ti in run.get_task_instances()
                    },
                }
        except Exception as error:  # the parent raises it
            reply = {"error": repr(error)}
        else:
            reply = {"answer": answer}
        sys.stdout.flush()
        answers.write(json.dumps(reply, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        _serve(pipe)
