"""The compose stack without a docker engine: what its files say, its secrets, its first start.

`python -m tests.cluster.drill` runs it for real.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from im_attr_audit import cli
from im_attr_audit.commands.metrics import add_metrics
from im_attr_audit.commands.verify import add_verify
from im_attr_audit.declared.parse import parse
from im_attr_audit.record.upkeep.migrate import migrate
from packaging.requirements import Requirement

from compose import demo
from launch.postgres import THROWAWAY, EmbeddedPostgres, bundled_binaries

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
LOGINS = (
    *("airflow", "attr_audit_migrator", "attr_audit_writer", "attr_audit_reader"),
    "attr_audit_sealer",
)
#: Where the worker has the files of CONNECTION_FILES_FOLDER.
CONNECTION_FILES = "/etc/im-attr-audit/connections"
ASK_BACKENDS = """
import json
from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded
from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend
print(json.dumps([
    [type(each).__name__, [
        name for name in ("from_a_file", "from_targets_env")
        if not isinstance(each, ExecutionAPISecretsBackend) and each.get_conn_value(name)
    ]]
    for each in ensure_secrets_backend_loaded()
]))
"""
#: What no default is good for.
SECRET = re.compile(r"PASSWORD|SECRET|KEY")


def required() -> set[str]:
    """The variables without which nothing starts."""
    return set(re.findall(r"\$\{(\w+):\?", COMPOSE))


def make_env(folder: Path) -> str:
    """Run the command in a checkout of its own; what it says."""
    (folder / "compose").mkdir(exist_ok=True)
    shutil.copy(ROOT / "compose" / "make-env.sh", folder / "compose")
    done = subprocess.run(
        ["sh", "compose/make-env.sh"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def settings(folder: Path) -> dict[str, str]:
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_no_secret_has_a_default_and_each_one_missing_names_the_command() -> None:
    used = {name for name in re.findall(r"\$\{(\w+)", COMPOSE) if SECRET.search(name)}
    assert used
    assert used == {name for name in required() if SECRET.search(name)}
    messages = set(re.findall(r"\$\{\w+:\?([^}]*)\}", COMPOSE))
    assert messages == {"run `sh compose/make-env.sh` once"}


def test_one_command_makes_every_secret_and_keeps_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_PASSWORD=mine\nPOSTGRES_PASSWORD=\nOTHER=1")
    first = make_env(tmp_path)
    made = settings(tmp_path)
    assert required() <= set(made)
    assert (made["REDIS_PASSWORD"], made["OTHER"]) == ("mine", "1")
    others = [made[name] for name in required() - {"REDIS_PASSWORD"}]
    assert len(set(others)) == len(others)
    assert all(len(value) >= 40 for value in others)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert not any(value in first for value in others)
    assert "everything already" in make_env(tmp_path)
    assert settings(tmp_path) == made


def test_a_worker_knows_nothing_of_airflows_database_nor_of_its_keys() -> None:
    environment = str(SERVICES["worker"]["environment"])
    assert set(re.findall(r"\$\{(\w+):\?", environment)) == {
        "REDIS_PASSWORD",
        "AIRFLOW_API_SECRET_KEY",
        "AUDIT_WRITER_PASSWORD",
    }
    assert "SQL_ALCHEMY_CONN" not in environment


def filled(text: str, **settings: str) -> str:
    """The text with its variables replaced, in the forms that compose and the shell share."""
    # Its quotes are the value's own, not the shell's.
    script = f"cat <<END\n{text}\nEND\n"
    done = subprocess.run(["sh", "-c", script], env=settings, capture_output=True, check=True)
    return done.stdout.decode().removesuffix("\n")


def worker_backends(tmp_path: Path, **settings: str) -> list[list[Any]]:
    """What a worker asks for connections, and who has those of a file and of targets.env.

    Each backend by its name, with the connections that it has.
    """
    folder = tmp_path / "connections"
    folder.mkdir(exist_ok=True)
    environment = SERVICES["worker"]["environment"]
    names = ("AIRFLOW__SECRETS__BACKEND", "AIRFLOW__SECRETS__BACKEND_KWARGS")
    given = {name: filled(environment[name], **settings) for name in names}
    given[names[1]] = given[names[1]].replace(CONNECTION_FILES, str(folder))
    done = subprocess.run(
        [sys.executable, "-c", ASK_BACKENDS],
        env={**os.environ, **given, "AIRFLOW_CONN_FROM_TARGETS_ENV": "tencent-im://"},
        capture_output=True,
        check=True,
    )
    found: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_connection_files_are_mounted_read_only_into_the_worker_alone() -> None:
    mounting = [n for n, each in SERVICES.items() if CONNECTION_FILES in str(each.get("volumes"))]
    configured = [n for n, each in SERVICES.items() if "SECRETS__BACKEND" in str(each)]
    assert mounting == configured == ["worker"]
    [volume] = [each for each in SERVICES["worker"]["volumes"] if CONNECTION_FILES in each]
    folder = "/etc/im-attr-audit/connections"
    assert filled(volume) == f"connections:{CONNECTION_FILES}:ro"
    assert "connections" in yaml.safe_load(COMPOSE)["volumes"]
    assert filled(volume, CONNECTION_FILES_FOLDER=folder) == f"{folder}:{CONNECTION_FILES}:ro"


def test_connection_files_are_off_until_their_folder_is_set(tmp_path: Path) -> None:
    backends = worker_backends(tmp_path)
    assert backends[0][0] == "EnvironmentVariablesBackend"
    assert "ConnectionFilesBackend" not in str(backends)


@pytest.mark.parametrize("files", [0, 1])
def test_a_connection_that_no_file_has_is_found_in_targets_env(tmp_path: Path, files: int) -> None:
    for _ in range(files):
        (tmp_path / "connections").mkdir()
        (tmp_path / "connections" / "a.json").write_text('{"from_a_file": "tencent-im://"}')
    first, second, *_ = worker_backends(tmp_path, CONNECTION_FILES_FOLDER="./connections")
    assert first == ["ConnectionFilesBackend", ["from_a_file"] * files]
    assert second == ["EnvironmentVariablesBackend", ["from_targets_env"]]


def test_the_instructions_for_connection_files_list_every_app(tmp_path: Path) -> None:
    docs = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    [script] = re.findall(r"(?s)<<'END'\n(import json\n.*?\n)END\n", docs)
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps({f"im_{name}": "tencent-im://"}))
    assert CONNECTION_FILES in script
    program = script.replace(CONNECTION_FILES, str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) == {"im_attr_audit_conn_ids": ["im_a", "im_b"]}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    for text in (docs, example):
        assert "CONNECTION_FILES_FOLDER=/etc/im-attr-audit/connections" in text


def test_the_owners_way_in_is_the_init_containers_alone() -> None:
    knowing = [
        name
        for name, service in SERVICES.items()
        if "AUDIT_MIGRATOR_PASSWORD" in str(service.get("environment"))
    ]
    assert knowing == ["postgres", "init"]


def test_only_the_container_that_seals_has_the_signing_key_and_the_sealers_login() -> None:
    mounting = [n for n, each in SERVICES.items() if "checkpoint-key" in str(each.get("volumes"))]
    knowing = [
        name
        for name, service in SERVICES.items()
        if "AUDIT_SEALER_PASSWORD" in str(service.get("environment"))
    ]
    assert mounting == ["checkpoint"]
    assert knowing == ["postgres", "checkpoint"]
    environment = str(SERVICES["checkpoint"]["environment"])
    assert set(re.findall(r"\$\{(\w+):\?", environment)) == {"AUDIT_SEALER_PASSWORD"}
    assert SERVICES["checkpoint"]["profiles"] == ["checkpoint"]


def test_the_container_that_seals_gives_the_command_options_that_it_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [line] = re.findall(r"im-attr-audit (checkpoint .*?) &&", SERVICES["checkpoint"]["command"][2])
    arguments = shlex.split(line.replace("$$CHECKPOINT_TO", "file:/opt/airflow/witness"))
    assert cli.main(arguments) == 2
    assert "/opt/airflow/checkpoint-key/audit.key" in capsys.readouterr().err
    for folder in ("/opt/airflow/checkpoint-key", "/opt/airflow/witness", "/opt/airflow/metrics"):
        # A volume belongs to whom its folder in the image does.
        assert folder in DOCKERFILE


def test_the_nightly_verify_leaves_its_result_in_a_folder_that_the_machine_can_read() -> None:
    [volume] = [each for each in SERVICES["checkpoint"]["volumes"] if "METRICS_FOLDER" in each]
    assert filled(volume) == "metrics:/opt/airflow/metrics"
    assert filled(volume, METRICS_FOLDER="/mnt/metrics") == "/mnt/metrics:/opt/airflow/metrics"
    docs = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    section = docs.split("## Metrics and alerts")[1]
    [line] = re.findall(r"checkpoint \\\n  (im-attr-audit verify (?:.|\\\n)+)\n```", section)
    _, *arguments = shlex.split(line.replace("\\\n", " "))
    parser = argparse.ArgumentParser()
    add_verify(parser.add_subparsers())
    given = parser.parse_args(arguments)
    assert given.result.parent == Path("/opt/airflow/metrics")
    assert given.result.suffix == ".prom"
    assert given.checkpoints == ["/opt/airflow/witness"]


def test_the_exporter_knows_the_readers_login_and_nothing_else() -> None:
    exporter = SERVICES["metrics"]
    assert set(exporter["environment"]) == {
        "AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER",
        "IM_ATTR_AUDIT_STALE_AFTER",
    }
    assert set(re.findall(r"\$\{(\w+):\?", str(exporter["environment"]))) == {
        "AUDIT_READER_PASSWORD"
    }
    assert "volumes" not in exporter
    command, *arguments = exporter["command"]
    assert command == "im-attr-audit"
    parser = argparse.ArgumentParser()
    add_metrics(parser.add_subparsers())
    _, port = parser.parse_args(arguments).listen
    assert filled(exporter["ports"][0]) == f"127.0.0.1:{port}:{port}"
    assert f"'127.0.0.1', {port}" in str(exporter["healthcheck"])


def test_ports_are_on_loopback_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "init"])
def test_everything_that_runs_on_has_a_health_check_and_comes_back(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_what_is_ours_runs_without_privileges(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in SERVICES[name]
    assert re.findall(r"(?m)^USER (.*)$", DOCKERFILE) == ["50000:0"]


def test_base_images_are_named_with_their_version_and_no_host() -> None:
    images = set(re.findall(r"_IMAGE:-([^}]+)\}", COMPOSE)) | set(
        re.findall(r"(?m)^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE)
    )
    assert images == {
        "python:3.12-slim-bookworm",
        "postgres:17",
        "redis:7.2-bookworm",
        "im-attr-audit:local",
        "im-attr-audit-demo:local",
    }
    assert "syntax=" not in DOCKERFILE
    assert "://" not in DOCKERFILE


def test_the_image_is_built_of_files_that_exist_and_are_sent_to_the_engine() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        path
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", DOCKERFILE)
        for path in line.split()[:-1]
    }
    assert {"simulator", "sql", "plugins/im_attr_audit"} <= copied
    for path in copied:
        assert (ROOT / path).exists(), path
        patterns = [path, *map(str, Path(path).parents), f"{Path(path).parent}/*.py"]
        assert sent & set(patterns), path


def test_the_image_installs_the_one_airflow_of_the_lock_out_of_the_range_that_is_supported() -> (
    None
):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {Requirement(each).name: Requirement(each) for each in project["dependencies"]}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (locked,) = re.findall(r"(?m)^apache-airflow==(\S+)", lock)
    assert str(ranges["apache-airflow"].specifier) == "<3.4,>=3.3.2"
    assert ranges["apache-airflow"].specifier.contains(locked)
    assert "--constraint requirements.lock" in DOCKERFILE


@pytest.fixture
def first_start(tmp_path: Path) -> Iterator[tuple[EmbeddedPostgres, dict[str, str]]]:
    """A server of its own on which roles.sh has been run, as the postgres image runs it."""
    make_env(tmp_path)
    made = settings(tmp_path)
    server = EmbeddedPostgres(tmp_path / "postgres", settings=THROWAWAY)
    server.start()
    try:
        script = (ROOT / "compose" / "postgres" / "roles.sh").read_text(encoding="utf-8")
        subprocess.run(
            ["sh", "-e"],
            input=script,
            text=True,
            check=True,
            env={
                **made,
                "PATH": f"{bundled_binaries()}{os.pathsep}{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(server.port),
                "PGPASSWORD": server.password("postgres"),
            },
        )
        yield server, made
    finally:
        server.destroy()


def test_the_roles_of_the_first_start_migrate_and_see_what_they_should_and_no_more(
    first_start: tuple[EmbeddedPostgres, dict[str, str]],
) -> None:
    server, made = first_start
    passwords = {
        "airflow": made["AIRFLOW_DB_PASSWORD"],
        "attr_audit_migrator": made["AUDIT_MIGRATOR_PASSWORD"],
        "attr_audit_writer": made["AUDIT_WRITER_PASSWORD"],
        "attr_audit_reader": made["AUDIT_READER_PASSWORD"],
        "attr_audit_sealer": made["AUDIT_SEALER_PASSWORD"],
    }
    place = f"127.0.0.1:{server.port}"
    password = passwords["attr_audit_migrator"]
    for _ in range(2):
        migrate(f"postgresql://attr_audit_migrator:{password}@{place}/attr_audit")

    def gets_in(login: str, database: str) -> bool:
        try:
            psycopg2.connect(
                host="127.0.0.1",
                port=server.port,
                user=login,
                password=passwords[login],
                dbname=database,
            ).close()
        except psycopg2.OperationalError as error:
            refused = str(error)
        else:
            return True
        assert "CONNECT privilege" in refused
        return False

    everywhere = [(login, name) for login in LOGINS for name in ("airflow", "attr_audit")]
    assert [where for where in everywhere if gets_in(*where)] == [
        ("airflow", "airflow"),
        ("attr_audit_migrator", "attr_audit"),
        ("attr_audit_writer", "attr_audit"),
        ("attr_audit_reader", "attr_audit"),
        ("attr_audit_sealer", "attr_audit"),
    ]
    assert not any(gets_in(login, "postgres") for login in LOGINS)
    with server.connect("attr_audit") as connection, connection.cursor() as cursor:
        cursor.execute(
            "select rolname from pg_roles where (rolsuper or rolcreaterole or rolcreatedb or "
            "rolbypassrls) and rolname = any(%s)",
            ([*LOGINS, "attr_audit_owner"],),
        )
        assert cursor.fetchall() == []
        cursor.execute(
            "select nspowner::regrole::text from pg_namespace where nspname = 'attr_audit'"
        )
        assert cursor.fetchall() == [("attr_audit_owner",)]
        cursor.execute("select datname, pg_encoding_to_char(encoding) from pg_database order by 1")
        encodings = dict(cursor.fetchall())
    assert encodings["airflow"] == encodings["attr_audit"] == "UTF8"


def test_every_file_that_airflow_reads_is_in_the_image_and_in_the_instructions() -> None:
    files = [f"dags/{path.name}" for path in (ROOT / "dags").glob("*.py")]
    files += [f"plugins/{path.name}" for path in (ROOT / "plugins").glob("*.py")]
    assert len(files) == 3
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    copied = {
        file for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for file in line.split()
    }
    for file in files:
        assert file in copied
        assert f"| `{file}` |" in operations
        assert f"`{file}`" in readme


class Answers:
    """What Airflow's API would keep, and what it was asked to change."""

    def __init__(self, **variables: str) -> None:
        self.variables = variables
        self.connections: list[str] = []

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        *_, kind, name = path.split("/")
        if body is None:
            return self.variables.get(name) if kind == "variables" else None
        assert method == ""
        if name == "variables":
            self.variables[body["key"]] = body["value"]
        else:
            self.connections.append(body["connection_id"])
        return body


class Apps:
    """A simulator as far as its connections go."""

    def connection_json(self, region: str, app: int, *, ca_bundle: str) -> dict[str, Any]:
        extra = {"region": region, "sdk_app_id": app, "ca_bundle": ca_bundle}
        return {"conn_type": "tencent_im", "extra": extra}


def test_the_demo_lists_its_apps_and_declares_their_names_unless_somebody_did() -> None:
    fresh = Answers()
    demo.introduce(fresh, Apps())  # type: ignore[arg-type]
    listed = json.loads(fresh.variables["im_attr_audit_conn_ids"])
    assert listed == fresh.connections
    assert len(listed) == 6
    declared = parse(fresh.variables["im_attr_audit_declared_names"], "Variable").declaration
    assert [*declared.groups] == ["shop"]

    used = Answers(im_attr_audit_conn_ids="[]", im_attr_audit_declared_names="groups: {}")
    before = dict(used.variables)
    demo.introduce(used, Apps())  # type: ignore[arg-type]
    assert used.variables == before
