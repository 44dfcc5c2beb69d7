"""The operations guide: every command in it, in its order, against the real thing."""

from __future__ import annotations

import base64
import configparser
import importlib
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from im_attr_audit.record.store import record_polls

from launch.postgres import THROWAWAY, EmbeddedPostgres, bundled_binaries
from simulator.control import Simulator
from tests.airflow_commands import airflow_commands
from tests.airflow_process import ROOT
from tests.conftest import AuditDb
from tests.history import polled
from tests.operations import GUIDE, RUNBOOKS, blocks, codes_table, written
from tests.test_schema import run
from tests.webhook import webhook

PASSWORDS = {
    "deployer": "d-pw",
    "attr_audit_writer": "w-pw",
    "attr_audit_reader": "r-pw",
    "attr_audit_sealer": "s-pw",
}

#: Blocks that no test here runs, with what does instead.
ELSEWHERE = {
    "FROM apache/airflow": "the Dockerfile at the root is built the same way",
    "im-attr-audit notify": "the destinations above do not exist; tests/test_notify.py sends one "
    "to a webhook",
    "curl --fail": "needs a running API server; tests/test_page_api.py asks it",
}


def test_a_block_that_is_not_run_says_why() -> None:
    unrun = {block.text: block.not_run for block in blocks() if block.not_run}
    assert {
        text[: len(start)]: reason
        for text, reason in unrun.items()
        for start in ELSEWHERE
        if text.startswith(start)
    } == ELSEWHERE
    assert len(unrun) == len(ELSEWHERE)
    assert {b.language for b in blocks()} == {"sh", "json", "dockerfile", "ini"}


def test_the_guide_configures_a_secrets_backend_that_exists(tmp_path: Path) -> None:
    [block] = [block for block in blocks() if block.language == "ini"]
    configured = configparser.ConfigParser()
    configured.read_string(block.text)
    module, _, name = configured["secrets"]["backend"].rpartition(".")
    given = {**json.loads(configured["secrets"]["backend_kwargs"]), "folder": str(tmp_path)}
    backend = getattr(importlib.import_module(module), name)(**given)
    assert backend.get_conn_value("not there") is None


class Guide:
    """The guide's blocks, one after the other, in one shell environment."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.waiting = [b for b in blocks() if b.language == "sh" and not b.not_run]
        self._json = [json.loads(b.text) for b in blocks() if b.language == "json"]

    def command(self, section: str) -> str:
        """The next block, which must be of this section."""
        block = self.waiting.pop(0)
        assert block.section == section
        return block.text

    def next(self, section: str) -> str:
        """Run it; what it printed."""
        return self.run(self.command(section))

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}\n{done.stdout[-6000:]}"
        return done.stdout

    def run_on_terminal(self, command: str, answers: list[str]) -> str:
        """Run it with a terminal, where its prompts get these answers."""
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(self.folder)
            os.execvpe("bash", ["bash", "-euo", "pipefail", "-c", command], self.environment)
        printed, answered = "", 0
        while True:
            assert select.select([terminal], [], [], 60)[0], printed
            try:
                part = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            printed += part.decode()
            if len(re.findall(r"Enter (?:new password.*?|it again): ", printed)) > answered:
                os.write(terminal, answers[answered].encode() + b"\n")
                answered += 1
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, printed
        assert answered == len(answers), printed
        return printed

    def write_json(self, name: str, number: int, change: Mapping[str, Mapping[str, Any]]) -> None:
        """The file that the guide's JSON block shows, with what is true of this machine."""
        content = json.loads(json.dumps(self._json[number]))
        for conn_id, fields in change.items():
            assert conn_id in content
            content[conn_id] |= fields
            if not content[conn_id]["extra"]:  # Airflow takes {"a": 1} and stumbles over {}
                del content[conn_id]["extra"]
        (self.folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of its own: the guide makes its roles."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("server") / "pg", settings=THROWAWAY)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.destroy()


def url(server: EmbeddedPostgres, role: str, database: str) -> str:
    return f"postgresql://{role}:{PASSWORDS[role]}@127.0.0.1:{server.port}/{database}"


@pytest.fixture
def guide(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Guide]:
    """A folder that looks like a checkout, and an Airflow whose DAG nobody has unpaused yet."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "plugins", "sql", "bi"):
        (checkout / name).symlink_to(ROOT / name)
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database airflow")
    environment = {
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
        "PATH": os.environ["PATH"],
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(b"k" * 32).decode(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url("airflow"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "IM_ATTR_AUDIT_CONFIRM_SECONDS": "0.1",
        "IM_ATTR_AUDIT_RETRY_SECONDS": "1",
    }
    with airflow_commands(tmp_path / "commands", environment) as commands:
        path = [commands, Path(sys.executable).parent, bundled_binaries(), os.environ["PATH"]]
        yield Guide(
            checkout,
            environment
            | {
                "PATH": os.pathsep.join(map(str, path)),
                "DBA_URL": server.url("postgres", driver="postgresql"),
                "IM_ATTR_AUDIT_DATABASE_URL": url(server, "deployer", "audit"),
                "READER_URL": url(server, "attr_audit_reader", "audit"),
                # The package's tools must not go to a network.
                "UV_OFFLINE": "1",
                "UV_NO_BUILD_ISOLATION": "1",
                "VIRTUAL_ENV": sys.prefix,
            },
        )


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Simulator]:
    regions = ("frankfurt", "singapore")
    with Simulator.start(tmp_path / "simulator", regions=regions, lasting=False) as it:
        for number, region in enumerate(regions, 1):
            it.add_app(region, 20000000 + number, {0: "sex", 1: "city"})
        yield it


def test_every_command_of_the_guide_works_in_its_order(
    guide: Guide, server: EmbeddedPostgres, vendor: Simulator
) -> None:
    def ask(sql: str, database: str = "audit") -> str:
        query = f"psql -XAtq '{url(server, 'attr_audit_reader', database)}' -c \"{sql}\""
        return guide.run(query).strip()

    def im(region: str) -> dict[str, Any]:
        return vendor.connection_json(region, 20000001 + (region == "singapore"))

    def connections(database: str) -> dict[str, dict[str, Any]]:
        place = {"host": "127.0.0.1", "port": server.port, "schema": database, "extra": {}}
        return {
            "im_attr_audit_db": place | {"password": PASSWORDS["attr_audit_writer"]},
            "im_attr_audit_db_reader": place | {"password": PASSWORDS["attr_audit_reader"]},
            "im_frankfurt": im("frankfurt"),
        }

    section = "Install in your own Airflow"
    guide.next(section)
    assert len(list((guide.folder / "dist").glob("im_attr_audit-*.whl"))) == 1
    answers = [password for password in PASSWORDS.values() for _ in range(2)]
    printed = guide.run_on_terminal(guide.command(section), answers)
    assert "attr_audit is at revision" in printed
    guide.run("airflow dags reserialize")
    guide.write_json("connections.json", 0, connections("audit"))
    guide.next(section)
    paused = "airflow dags list --output json"
    assert '"is_paused": "False"' in guide.run(paused)
    guide.run("run-the-dag")
    assert ask("select count(*) from attr_audit.change where is_baseline") == "2"

    guide.next("Upgrade")
    assert '"is_paused": "True"' in guide.run(paused)
    guide.next("Upgrade")
    guide.next("Upgrade")
    assert '"is_paused": "True"' in guide.run(paused)
    guide.next("Upgrade")

    section = "Add and retire an app or a region"
    guide.write_json("im_singapore.json", 1, {"im_singapore": im("singapore")})
    guide.next(section)
    guide.run("run-the-dag")
    assert ask("select count(*) from attr_audit.current_names") == "4"
    guide.next(section)
    guide.run("run-the-dag")
    assert "singapore |   20000002" in guide.next(section)

    # A key is changed while a run waits for the vendor, and its successors use the new one.
    section = "Rotate a key"
    vendor.fault("hold", region="frankfurt")
    under_way = subprocess.Popen(
        ["run-the-dag"],
        executable=str(Path(guide.environment["PATH"].split(os.pathsep)[0]) / "run-the-dag"),
        env=guide.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    vendor.wait_held(timeout=60)
    new_key = vendor.rotate_key("frankfurt", 20000001, keep_old=True)
    (guide.folder / "im_frankfurt.json").write_text(json.dumps({"im_frankfurt": im("frankfurt")}))
    assert new_key in (guide.folder / "im_frankfurt.json").read_text()
    guide.next(section)
    vendor.release()
    assert under_way.wait(60) == 0
    guide.run("run-the-dag")
    vendor.rotate_key("frankfurt", 20000001, new_key)  # the old one is revoked
    guide.run("run-the-dag")
    assert ask("select distinct outcome from attr_audit.poll") == "ok"

    section = "Backup and restore"
    assert "saved 2 heads" in guide.next(section)
    guide.environment |= {
        "RESTORED_URL": url(server, "deployer", "restored"),
        "RESTORED_READER_CONNECTION": "postgres://attr_audit_reader:"
        f"{quote(PASSWORDS['attr_audit_reader'])}@127.0.0.1:{server.port}/restored",
    }
    restore = guide.command(section)
    printed = guide.run(restore)
    assert "database: 4 changes of 2 apps checked" in printed
    assert "The record is as it was recorded." in printed
    polls = "select count(*) from attr_audit.poll"
    assert ask(polls, "restored") == ask(polls)  # the partitions of another schema
    assert int(ask(polls)) > 0

    # The same again for a move, after the record has grown.
    vendor.set_name("frankfurt", 20000001, 0, "gender")
    guide.run("run-the-dag")
    section = "Move the database"
    guide.next(section)
    guide.run('psql "$DBA_URL" --command="drop database restored"')
    assert "database: 5 changes of 2 apps checked" in guide.run(restore)
    guide.write_json("connections.json", 0, connections("restored"))
    guide.next(section)
    guide.environment |= {
        "IM_ATTR_AUDIT_DATABASE_URL": url(server, "deployer", "restored"),
        "READER_URL": url(server, "attr_audit_reader", "restored"),
    }
    vendor.set_name("frankfurt", 20000001, 0, "sex")
    guide.run("run-the-dag")
    assert ask("select count(*) from attr_audit.change where not is_baseline", "restored") == "2"
    assert ask("select count(*) from attr_audit.change where not is_baseline") == "1"
    assert "6 changes of 2 apps checked" in guide.run("im-attr-audit verify --heads heads.json")

    run_the_regular_jobs(guide, server)
    assert "nothing to drop" in guide.next("Retention")
    assert "nothing to fold" in guide.next("Retention")
    guide.environment["MONTH"] = f"{datetime.now(UTC):%Y-%m}"
    guide.next("Retention")
    archived = guide.run('sha256sum --check --quiet *.sha256; zcat "poll-$MONTH.csv.gz" | wc -l')
    in_month = (
        "select count(*) from attr_audit.poll where requested_at >= date_trunc('month', now())"
    )
    assert int(archived) == int(ask(in_month, "restored")) + 1

    with webhook() as hook:
        addresses = [{"path": hook.url()}]
        guide.write_json(
            "notify.json", 2, {"im_attr_audit_notify": {"extra": {"config": addresses}}}
        )
        guide.next("Alerts")
        guide.run("run-the-dag")
        # Those that had waited, each run's by itself.
        assert [title for title, _ in hook.take()] == ["Attribute names: 1 change in frankfurt"] * 2
        assert "(0 rows)" in guide.next("Alerts")

    assert "frankfurt" in guide.next("Reviews")
    assert "(0 rows)" in guide.next("Freshness from outside")
    metrics = guide.next("Metrics").splitlines()
    assert "im_attr_audit_up 1.0" in metrics
    assert 'im_attr_audit_changes_total{region="frankfurt"}' in "".join(metrics)
    printed = guide.next("Licences")
    assert re.search(r"^ *im-attr-audit +\S+ +Apache-2.0 *$", printed, re.MULTILINE)
    assert guide.waiting == []
    run_the_runbooks(guide)


def run_the_regular_jobs(guide: Guide, server: EmbeddedPostgres) -> None:
    """Each as cron would run it, one after the other."""
    guide.environment |= {
        "IM_ATTR_AUDIT_SEALER_URL": url(server, "attr_audit_sealer", "restored"),
        "WITNESS": str(guide.folder / "witness"),
        "METRICS": str(guide.folder),
    }
    section = "Regular jobs"
    guide.next(section)
    assert "seal 0" in guide.next(section)
    verify = guide.command(section)
    for number in (1, 2):
        printed = guide.run(verify)
        assert "The record is as it was recorded." in printed, number
        assert "saved 2 heads" in printed
    result = (guide.folder / "im-attr-audit.prom").read_text().splitlines()
    assert "im_attr_audit_verify_ok 1.0" in result


def run_the_runbooks(guide: Guide) -> None:
    """Every command of the runbooks, on the record and the Airflow that the guide has made."""
    commands = blocks(RUNBOOKS)
    assert all(block.language == "sh" and not block.not_run for block in commands)
    printed = {text: guide.run(text) for text in dict.fromkeys(b.text for b in commands)}
    assert "as it was recorded." in (guide.folder / "findings.txt").read_text()
    assert (guide.folder / "evidence.dump").stat().st_size > 1000
    [checked] = [text for command, text in printed.items() if "--checkpoints" in command]
    assert re.search(r"checkpoints: 1 seal, \d+ sealed rows checked, \d+ rows? not sealed", checked)
    assert [text for text in printed.values() if "im_attr_audit_up 1.0" in text]
    links = re.findall(r"runbook\w*: .+", (guide.folder / "alerts.yml").read_text())
    url = "runbook_url: https://docs.example.com/im-attr-audit/runbooks.md"
    assert {link.split("#")[0] for link in links} == {url}
    pages = re.findall(r"page\w*: (.+)", (guide.folder / "alerts.yml").read_text())
    assert len(pages) == len(links)
    assert all(page.startswith("https://airflow.example.com/im-attr-audit/") for page in pages)


def test_the_generated_tables_of_the_guide_are_up_to_date() -> None:
    guide = GUIDE.read_text("utf-8")
    assert codes_table() in guide
    assert written(guide) == guide, "generate it again: python -m tests.operations"


def test_every_link_inside_the_guide_leads_somewhere() -> None:
    guide = GUIDE.read_text("utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", guide, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", guide)) <= headings
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", guide):
        assert (GUIDE.parent / path).exists(), path


def test_the_sizes_that_the_capacity_is_computed_from_are_true(audit_db: AuditDb) -> None:
    guide = GUIDE.read_text("utf-8")
    said = int(re.findall(r"one poll that changes nothing \| (\d+)", guide)[0])
    names = {slot: f"attribute {slot}" for slot in range(10)}
    apps, rounds = 200, 12
    begin = datetime.now(UTC) - timedelta(hours=1)

    def poll(number: int, reads: int) -> None:
        polls = [
            polled(
                *[names] * reads,
                at=begin + timedelta(seconds=60 * number),
                sdk_app_id=1400000000 + app,
                conn_id=f"im_shop_{app:05d}",
            )
            for app in range(apps)
        ]
        run_id = f"scheduled__2026-11-22T{number:02d}:15:00+00:00"
        record_polls(audit_db.writer, polls, dag_run_id=run_id, try_number=1)

    def size() -> int:
        sql = (
            "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits "
            "where inhparent = 'attr_audit.poll'::regclass"
        )
        return int(run(audit_db.owner, sql)[0][0])

    poll(0, reads=2)
    before = size()
    for number in range(1, rounds + 1):
        poll(number, reads=1)
    measured = (size() - before) / (apps * rounds)
    assert measured == pytest.approx(said, rel=0.25)
    for count, a_year in re.findall(
        r"^\| ([\d,]+) \| [\d,]+ \| \d.*? \| ([\d.]+ [MG]B) \|", guide, re.M
    ):
        number, unit = a_year.split()
        computed = int(count.replace(",", "")) * 35_040 * said / {"MB": 1e6, "GB": 1e9}[unit]
        assert computed == pytest.approx(float(number), rel=0.02)
