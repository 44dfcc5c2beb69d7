"""The compose stack from nothing to nothing: sealed, run on three workers, parts of it killed.

``python -m tests.cluster.drill`` on a machine with docker compose; the arguments are the services
that are killed (``none``: no one, and no three workers), all of them where there are none: killing
takes most of the time. It works in a copy of the checkout under a project name of its own, on ports
of its own, so that neither an `.env` nor a stack that is up is touched; it removes everything
again. What it prints goes into docs/compose.md. Exit status 0 only if all that was expected came
about.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.network import free_port

ROOT = Path(__file__).resolve().parents[2]
DAG = "im_attr_name_audit"
PROJECT = "im-attr-audit-drill"
KILLED = ("worker", "redis", "postgres", "api-server")
#: With the simulator and the container that seals.
ALL = "docker compose --profile demo --profile checkpoint"
WITNESS = "/opt/airflow/witness"
KEY = "/opt/airflow/checkpoint-key/audit.key"

STALE_AFTER = 150
PORT, DB_PORT = free_port(), free_port()
SETTINGS = f"""\
COMPOSE_PROJECT_NAME={PROJECT}
AIRFLOW_PORT={PORT}
AUDIT_DB_PORT={DB_PORT}
IM_ATTR_AUDIT_SCHEDULE='* * * * *'
IM_ATTR_AUDIT_RETRY_SECONDS=5
IM_ATTR_AUDIT_STALE_AFTER={STALE_AFTER}
CHECKPOINT_SECONDS=20
CHECKPOINT_FOLDER=./witness
IM_ATTR_AUDIT_IMAGE={PROJECT}:local
IM_ATTR_AUDIT_DEMO_IMAGE={PROJECT}-demo:local
"""
# Answers so slow that there is time to kill something while they are waited for.
SLOW = """
import sys
from pathlib import Path
from simulator.control import Simulator
Simulator.attach(Path("/opt/airflow/simulator-state")).set_latency(float(sys.argv[1]))
"""
MINE = """
import json, sys
from pathlib import Path
from simulator.control import Simulator
from simulator.story import APPS
simulator = Simulator.attach(Path("/opt/airflow/simulator-state"))
print(json.dumps(simulator.connection_json("seoul", APPS["seoul"], ca_bundle=sys.argv[1])))
"""
CONNECT = """
import json, os, psycopg2
known = json.loads(os.environ["AIRFLOW_CONN_IM_ATTR_AUDIT_DB"])
for name in ("attr_audit", "airflow", "postgres"):
    try:
        psycopg2.connect(host=known["host"], user=known["login"], password=known["password"],
                         dbname=name).close()
        print(name, "connected")
    except psycopg2.OperationalError as error:
        print(name, str(error).strip().splitlines()[-1].strip())
"""


class NotDoneError(Exception):
    """A command did not end as it should; the text says how."""


class Drill:
    """A copy of the checkout, and what is done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.vkey = ""

    # Saying and doing ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def chapter(self, title: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.say(f"\n# {minutes}:{seconds:02d}  {title}")

    def do(
        self,
        command: str,
        *,
        shown: str | None = None,
        fails: bool = False,
        quiet: bool = False,
        last: int = 12,
    ) -> str:
        """Run it as if it had been typed; print it with the last lines of what it says."""
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        took = time.monotonic() - began
        output = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout).strip("\n")
        if not quiet:
            self.say(f"$ {shown or command}")
            lines = output.splitlines()
            if len(lines) > last:
                lines = ["…", *lines[-last:]]
            for line in lines:
                self.say(line.rstrip())
            if took > 5:
                self.say(f"[{took:.0f} s]")
        if (done.returncode != 0) != fails:
            raise NotDoneError(f"{command}: exit status {done.returncode}\n{output[-6000:]}")
        return output

    def sql(self, database: str, query: str, *, show: bool = False) -> str:
        """Ask Postgres; ``show``: as a reader would."""
        how = "-P pager=off" if show else "-qtA"
        asked = f'docker compose exec -T postgres psql -U postgres -d {database} {how} -c "{query}"'
        return self.do(asked, quiet=not show, last=40)

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
        """Wait for it; the first answer that is true."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, NotDoneError):
                if found := condition():
                    return found
            if time.monotonic() > deadline:
                raise NotDoneError(f"waited {seconds:.0f} s without success: {what}")
            time.sleep(1)

    # Runs ----------------------------------------------------------------------------------------

    def runs(self) -> list[tuple[str, str]]:
        """(run_id, state), in order."""
        printed = self.sql("airflow", "select run_id, state from dag_run order by id")
        return [(run, state) for run, _, state in (row.partition("|") for row in printed.split())]

    def next_run(self, after: str | None) -> str:
        """The run that follows that one."""

        def begun() -> str:
            ids = [run for run, _ in self.runs()]
            later = ids[ids.index(after) + 1 :] if after else ids
            return later[0] if later else ""

        return str(self.wait("the next run", begun))

    def ended(self, run: str) -> str:
        """Wait for its end; how it ended."""

        def over() -> str:
            state = dict(self.runs()).get(run, "")
            return state if state in ("success", "failed") else ""

        return str(self.wait(f"the end of {run}", over, 1200))

    def newest(self) -> str:
        """The newest run, once it has ended."""
        run = self.runs()[-1][0]
        self.ended(run)
        return run

    def tasks(self, run: str) -> None:
        """Show what ran where, and how often."""
        self.sql(
            "airflow",
            "select coalesce(rendered_map_index, task_id) as task, state, try_number as try, "
            "hostname as worker, round(extract(epoch from end_date - start_date)) as seconds "
            f"from task_instance where run_id = '{run}' order by start_date",
            show=True,
        )

    # The story -----------------------------------------------------------------------------------

    def go(self, kills: Sequence[str]) -> None:
        self.from_nothing()
        self.page()
        self.little_knowledge()
        self.sealed()
        if not kills:
            self.end_the_story()
        else:
            self.three_workers()
            for number, part in enumerate(kills, 1):
                self.killed(part, number)
        self.stale()
        self.forged()
        self.down_and_up()
        self.apps_from_a_file()
        self.lost_and_restored()
        self.say("\nAll checks passed.")

    def from_nothing(self) -> None:
        self.chapter("Without secrets nothing starts")
        self.do("docker compose up --wait", fails=True)
        self.do("sh compose/make-env.sh")
        env = self.folder / ".env"
        env.write_text(env.read_text() + SETTINGS)
        witness = self.folder / "witness"
        witness.mkdir()
        witness.chmod(0o777)  # user 50000 writes to it
        self.chapter("From nothing")
        self.do("docker compose build --quiet", last=1)
        self.do("docker compose up --wait", last=10)
        self.do("docker compose --profile demo up --wait", last=1)
        self.do("docker compose ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'", last=20)
        self.chapter("The first run")
        unpause = f"docker compose exec -T api-server airflow dags unpause {DAG}"
        self.do(unpause, quiet=True)
        self.say(f"$ {unpause}")
        run = self.next_run(None)
        self.expect(self.ended(run) == "success", "the first run is green")
        self.tasks(run)
        self.sql(
            "attr_audit",
            "select region, count(*) as names from attr_audit.current_names group by 1 order by 1",
            show=True,
        )

    def page(self) -> None:
        self.chapter("The page, behind FAB's login")
        jar = http.cookiejar.CookieJar()
        browser = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
        )

        def get(path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
            body = urllib.parse.urlencode(form).encode() if form else None
            try:
                with browser.open(f"http://localhost:{PORT}{path}", body, timeout=60) as answer:
                    return answer.status, answer.geturl(), answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.geturl(), ""

        def show(path: str, came: tuple[int, str, str]) -> None:
            title = re.search(r"<title>(.*?)</title>", came[2], re.S)
            where = urllib.parse.urlsplit(came[1]).path
            said = f"  “{title[1].strip()}”" if title else f"  {came[2][:40]}"
            self.say(f"GET {path} → {came[0]} {where}{said if came[2] else ''}")

        for path in ("/im-attr-audit/healthz", "/api/v2/dags", "/im-attr-audit/"):
            came = get(path)
            show(path, came)
        login = came
        self.expect(
            "/auth/login" in login[1], "users who are not logged in are redirected to the login"
        )
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', login[2])
        password = self.setting("AIRFLOW_ADMIN_PASSWORD")
        form = {
            "username": "admin",
            "password": password,
            "csrf_token": token[1] if token else "",
        }
        get("/auth/login/?next=/im-attr-audit/", form)
        self.say("logged in as admin")
        came = get("/im-attr-audit/")
        show("/im-attr-audit/", came)
        self.expect(came[0] == 200 and "/auth/" not in came[1], "the page opens after the login")

    def setting(self, name: str) -> str:
        found = re.search(rf"(?m)^{name}=(.*)$", (self.folder / ".env").read_text())
        return found[1] if found else ""

    def little_knowledge(self) -> None:
        self.chapter("What a worker cannot do")
        reach = self.do(
            f"docker compose exec -T worker python - <<'END'\n{CONNECT}\nEND",
            shown="docker compose exec worker python …      # connect as attr_audit_writer to each",
        )
        self.expect(
            reach.count("CONNECT privilege") == 2, "the worker can connect only to the record"
        )
        names = self.do("docker compose exec -T worker env", quiet=True)
        secrets = {
            name: self.setting(name)
            for name in (
                "POSTGRES_PASSWORD",
                "AIRFLOW_DB_PASSWORD",
                "AUDIT_MIGRATOR_PASSWORD",
                "AUDIT_READER_PASSWORD",
                "AUDIT_SEALER_PASSWORD",
                "AIRFLOW_FERNET_KEY",
                "AIRFLOW_JWT_SECRET",
                "AIRFLOW_ADMIN_PASSWORD",
            )
        }
        known = [name for name, value in secrets.items() if value in names]
        self.expect(not known, f"not in a worker's environment: {', '.join(secrets)}")
        self.do("docker compose exec -T worker id", shown="docker compose exec worker id")

    # Seals ---------------------------------------------------------------------------------------

    def sealed(self) -> None:
        self.chapter("Sealed by a container that has a key of its own")
        self.vkey = self.new_key("example.com/im-attr-audit")
        self.do(f"{ALL} up --wait", last=1)
        self.seals_more(self.vkey, WITNESS)
        self.do("docker compose logs --no-log-prefix checkpoint", last=20)
        self.do("ls witness")
        has_key = [
            service
            for service in self.do("docker compose ps --services", quiet=True).split()
            if self.do(f"{self.exec(service)} sh -c '! test -e {KEY} || echo yes'", quiet=True)
        ]
        self.expect(has_key == ["checkpoint"], "only the container checkpoint has the key")

    def exec(self, service: str) -> str:
        return f"docker compose exec -T {service}"

    def new_key(self, name: str) -> str:
        """Make a key as docs/compose.md says; its public half."""
        made = self.do(
            "docker compose run --rm -T checkpoint im-attr-audit checkpoint "
            f"--new-key {name} --key {KEY}",
            last=1,
        )
        return made.splitlines()[-1]

    def seals(self, where: str) -> int:
        return int(self.sql("attr_audit", f"select count(*) from attr_audit.seal where {where}"))

    def seals_more(self, key: str, folder: str) -> None:
        """Wait for a seal over polls that are recorded from now on; all is as it was sealed."""
        newest = self.sql("attr_audit", "select max(poll_id) from attr_audit.poll")
        self.wait(
            "a seal over polls of the next run",
            lambda: self.seals(f"last_poll_id > {newest}"),
        )
        said = self.verify(key, folder)
        self.expect("The record is as it was recorded." in said, "all is as it was sealed")

    def verify(self, key: str, folder: str, *, fails: bool = False) -> str:
        """In a container that knows the record as the sealer, and nothing of Airflow."""
        return self.do(
            "docker compose run --rm -T --no-deps checkpoint im-attr-audit verify "
            f"--no-asset-events --checkpoints {folder} --vkey {key} 2>&1",
            fails=fails,
            last=6,
        )

    def forged(self) -> None:
        self.chapter("A poll edited by the superuser")
        forge = "set session_replication_role = replica; update attr_audit.poll set outcome = "
        poll = self.sql(
            "attr_audit",
            "select min(poll_id) from attr_audit.poll where outcome = 'ok' and error_code is null",
        )
        self.sql("attr_audit", f"{forge}'unavailable' where poll_id = {poll}", show=True)
        said = self.verify(self.vkey, WITNESS, fails=True)
        self.expect(f"poll {poll} of " in said, "verify names the edited poll")
        self.sql("attr_audit", f"{forge}'ok' where poll_id = {poll}")
        self.verify(self.vkey, WITNESS)

    def stale(self) -> None:
        self.chapter(f"No poll for {STALE_AFTER} seconds")
        self.do(f"{self.exec('api-server')} airflow dags pause {DAG}", quiet=True)
        self.say(f"$ docker compose exec api-server airflow dags pause {DAG}")
        self.wait("healthz that says stale", lambda: self.health() == (503, "stale"))
        self.say("GET /im-attr-audit/healthz → 503 stale")
        self.do(f"{self.exec('api-server')} airflow dags unpause {DAG}", quiet=True)
        self.wait("healthz that says ok", lambda: self.health() == (200, "ok"))
        self.say("unpaused: GET /im-attr-audit/healthz → 200 ok")

    def health(self) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://localhost:{PORT}/im-attr-audit/healthz", timeout=60) as came:
                return came.status, came.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()

    def three_workers(self) -> None:
        self.chapter("Three workers")
        self.do(f"{ALL} up --wait --scale worker=3", last=1)
        before = self.newest()
        run = self.next_run(before)
        self.expect(self.ended(run) in ("success", "failed"), "the next run ended")
        self.tasks(run)
        hosts = self.sql(
            "airflow", f"select count(distinct hostname) from task_instance where run_id = '{run}'"
        )
        self.expect(hosts == "3", "all three took work")
        self.end_the_story()

    def end_the_story(self) -> None:
        self.do(
            "docker compose exec -T simulator python -m simulator "
            "--state /opt/airflow/simulator-state set china 3 'signup'",
            shown="docker compose exec simulator python -m simulator … set china 3 'signup'",
            last=1,
        )
        self.say("(a change by hand ends the story; from here on all names are ours)")

    def killed(self, part: str, number: int) -> None:
        self.chapter(f"{part} killed in a run, and brought back")
        name = f"killed {number}: {part}"
        # Between two runs, so that both changes are the next run's to see.
        self.newest()
        for region in ("frankfurt", "jakarta"):
            self.do(
                "docker compose exec -T simulator python -m simulator "
                f"--state /opt/airflow/simulator-state set {region} 2 '{name}'",
                quiet=True,
            )
            self.say(f"{region} calls slot 2 “{name}” now")
        self.latency(6)
        run = str(self.wait("all regions being asked", self.all_being_asked))
        if part == "worker":
            self.do(f"docker kill {PROJECT}-worker-2", shown="docker kill …-worker-2")
        else:
            self.do(f"docker compose kill {part}", last=1)
        self.latency(0)
        time.sleep(5)
        self.do(f"{ALL} up --wait --scale worker=3", last=1)
        state = self.ended(run)
        self.say(f"the run that was hit: {state}")
        self.tasks(run)
        following = self.next_run(run)
        state = self.ended(following)
        self.expect(state == "success", f"the next run is green ({following})")
        found = self.sql(
            "attr_audit",
            "select region, slot, old_name, new_name, not_before < seen_at as bounded, dag_run_id "
            f"from attr_audit.change where new_name = '{name}' order by region",
            show=True,
        )
        self.expect("(2 rows)" in found, "both changes are recorded, once each")
        said = self.do("docker compose exec -T api-server im-attr-audit verify 2>&1", last=3)
        self.expect("The record is as it was recorded." in said, "the record is right")
        self.seals_more(self.vkey, WITNESS)
        self.same_as_the_vendor()

    def all_being_asked(self) -> str:
        """The run whose every region is being synced at present."""
        return self.sql(
            "airflow",
            "select run_id from task_instance where task_id = 'sync' and state = 'running' "
            "group by 1 having count(*) = 6",
        )

    def latency(self, seconds: float) -> None:
        self.do(
            f"docker compose exec -T simulator python - {seconds} <<'END'\n{SLOW}\nEND", quiet=True
        )

    def same_as_the_vendor(self) -> None:
        """Every name in the record is what the simulator answers, and the other way round."""
        printed = self.do(
            "docker compose exec -T simulator python -m simulator "
            "--state /opt/airflow/simulator-state show",
            quiet=True,
        )
        vendor, region = set(), ""
        for line in printed.splitlines():
            if app := re.match(r"(\w+) / \d+ ", line):
                region = app[1]
            elif slot := re.match(r"\s+(\d+)  '(.*)'$", line):
                vendor.add((region, int(slot[1]), slot[2]))
        rows = self.sql(
            "attr_audit",
            "select json_agg(json_build_array(region, slot, name)) from attr_audit.current_names",
        )
        record = {(region, slot, name) for region, slot, name in json.loads(rows)}
        self.expect(record == vendor, f"the record's {len(record)} names are the vendor's")

    def down_and_up(self) -> None:
        self.chapter("Down, and up again: everything is still there")
        count = self.sql("attr_audit", "select count(*) from attr_audit.change")
        self.do(f"{ALL} down", last=1)
        self.do(f"{ALL} up --wait", last=1)
        again = self.sql("attr_audit", "select count(*) from attr_audit.change")
        self.expect(int(again) >= int(count) > 0, f"{count} changes before, {again} after")
        run = self.newest()
        self.expect(self.ended(self.next_run(run)) == "success", "the next run is green")
        self.do("docker compose exec -T api-server im-attr-audit verify 2>&1", last=3)
        self.seals_more(self.vkey, WITNESS)
        self.do("docker compose run --rm -T init im-attr-audit retention 2>&1", last=1)

    def apps_from_a_file(self) -> None:
        self.chapter("Apps from targets.env")
        mine = self.do(
            "docker compose exec -T simulator python - /opt/airflow/demo/ca.pem "
            f"<<'END'\n{MINE}\nEND",
            quiet=True,
        )
        targets = self.folder / "targets.env"
        targets.touch(0o600)
        targets.write_text(
            f"AIRFLOW_CONN_FROM_A_FILE='{mine}'\n"
            """AIRFLOW_VAR_IM_ATTR_AUDIT_CONN_IDS='["from_a_file"]'\n"""
        )
        key = json.loads(mine)["password"]
        self.say("$ cat targets.env")
        self.say(targets.read_text().replace(key, "…").rstrip())
        self.do("docker compose --profile demo up --wait", last=1)
        run = self.next_run(self.newest())
        self.expect(self.ended(run) == "success", "the next run is green")
        asked = self.sql(
            "attr_audit",
            "select conn_id, region, sdk_app_id, outcome from attr_audit.poll "
            f"where dag_run_id = '{run}'",
            show=True,
        )
        self.expect(
            "from_a_file" in asked and "(1 row)" in asked, "it asked the app of that file alone"
        )
        retired = self.sql(
            "attr_audit", "select count(*) from attr_audit.app where retired_at is not null"
        )
        self.expect(retired == "5", "the other five are retired")
        knows = [
            service
            for service in self.do("docker compose ps --services", quiet=True).split()
            if key in self.do(f"docker compose exec -T {service} env", quiet=True)
        ]
        self.expect(knows == ["worker"], "the key is in the environment of the worker alone")
        self.do("rm targets.env && docker compose --profile demo up --wait", last=1)
        run = self.next_run(self.newest())
        self.expect(self.ended(run) == "success", "the next run is green")
        polled = self.sql(
            "attr_audit",
            f"select count(distinct conn_id) from attr_audit.poll where dag_run_id = '{run}'",
        )
        self.expect(polled == "6", "it asked all six apps, as before")

    def lost_and_restored(self) -> None:
        self.chapter("Backed up, lost with every volume, and restored")
        self.do(
            "docker compose exec -T api-server sh -c 'im-attr-audit verify "
            "--save-heads /tmp/heads.json >&2 && cat /tmp/heads.json' > heads.json",
            last=4,
        )
        self.do(
            "docker compose exec -T postgres pg_dump -U postgres -Fc attr_audit > record.dump "
            "&& wc -c record.dump"
        )
        # A run between the heads and the dump is in the dump; what comes after it is lost.
        listed = self.do(
            "docker compose exec -T postgres pg_restore --data-only --table=change -f - "
            "< record.dump | grep -c '^[0-9]'",
            quiet=True,
        )
        self.seals_more(self.vkey, WITNESS)
        self.do(f"{ALL} down -v", last=1)
        self.do("docker compose up --wait postgres", last=1)
        self.do(
            "docker compose exec -T postgres pg_restore -U postgres -d attr_audit "
            "--exit-on-error --single-transaction < record.dump"
        )
        self.do("docker compose up --wait", last=1)
        again = self.sql("attr_audit", "select count(*) from attr_audit.change")
        self.expect(again == listed, f"{listed} changes in the dump, {again} in the database")
        said = self.do(
            "docker compose exec -T api-server sh -c 'cat > /tmp/heads.json "
            "&& im-attr-audit verify --heads /tmp/heads.json 2>&1' < heads.json",
            last=4,
        )
        self.expect("The record is as it was recorded." in said, "the restored record is right")
        said = self.verify(self.vkey, WITNESS, fails=True)
        self.expect(" gone" in said, "verify reports what was sealed after the dump as missing")

        self.do("docker compose --profile demo up --wait", last=1)
        self.end_the_story()
        self.do(f"docker compose exec -T api-server airflow dags unpause {DAG}", quiet=True)
        run = self.next_run(None)
        self.expect(self.ended(run) == "success", "a run on the restored record is green")
        self.same_as_the_vendor()
        self.new_log()

    def new_log(self) -> None:
        self.chapter("A new key and a new log: the key was in one of the volumes")
        self.do("mkdir -m 777 witness/2")
        env = self.folder / ".env"
        env.write_text(f"{env.read_text()}CHECKPOINT_TO=file:{WITNESS}/2\n")
        self.say(f"$ echo CHECKPOINT_TO=file:{WITNESS}/2 >> .env")
        key = self.new_key("example.com/im-attr-audit-2")
        self.do(f"{ALL} up --wait", last=1)
        self.seals_more(key, f"{WITNESS}/2")
        said = self.verify(key, f"{WITNESS}/2")
        self.expect(
            "this log follows the log example.com/im-attr-audit," in said,
            "verify names the previous log",
        )

    def expect(self, so: bool, what: str) -> None:
        self.say(f"{'✓' if so else '✗ NOT SO:'} {what}")
        if not so:
            raise NotDoneError(what)

    def why(self) -> None:
        """After a failure: what there is to know about it."""
        with contextlib.suppress(NotDoneError, IndexError):
            self.tasks(self.runs()[-1][0])
        for command in (
            "docker compose exec -T api-server sh -c "
            "'grep -rhi \\\"error\\\" /opt/airflow/logs/dag_id=* | tail -n 20 | cut -c 1-2000'",
            "docker compose logs --tail 40 scheduler worker",
        ):
            with contextlib.suppress(NotDoneError):
                self.do(command, last=100)

    def clean_up(self) -> None:
        self.chapter("Nothing is left")
        if (self.folder / ".env").exists():
            self.do(f"{ALL} down -v --timeout 10", last=1)
            self.do(f"docker image rm {PROJECT}:local {PROJECT}-demo:local || true", quiet=True)


def copy_of_the_checkout(folder: Path) -> None:
    """What git knows or would add: no .env, no .local."""
    printed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, printed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def main(arguments: list[str]) -> int:
    """The drill; the exit status."""
    kills = [each for each in arguments or KILLED if each != "none"]
    if not set(kills) <= set(KILLED):
        sys.stderr.write(f"usage: python -m tests.cluster.drill [none | {' | '.join(KILLED)} …]\n")
        return 2
    for name in ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-drill-") as scratch:
        folder = Path(scratch)
        copy_of_the_checkout(folder)
        drill = Drill(folder)
        try:
            drill.go(kills)
        except NotDoneError as error:
            drill.say(f"\nNot as expected: {error}")
            drill.why()
            return 1
        finally:
            drill.clean_up()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
