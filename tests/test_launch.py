"""What the make targets do: set-up from the lock, secrets, one's own Postgres, psql, clean."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg2
import pytest
from im_attr_audit.record.upkeep.roles import READER, WRITER
from im_attr_audit.settings import DECLARED_NAMES_FILE

from launch import components, databases, environment, network, processes, table
from launch.network import free_port
from launch.postgres import THROWAWAY, EmbeddedPostgres
from launch.state import STATE_VARIABLE, LaunchError, State
from launch.targets import targets
from tests.conftest import AuditDb
from tests.test_declarations import declare
from tests.test_notify import ago, record

ROOT = Path(__file__).resolve().parents[1]
FILE = DECLARED_NAMES_FILE.name


def run(*command: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        input=given,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """The state in this folder, also for commands, and no targets or databases of the tester."""
    for name in os.environ:
        if name.startswith(("AIRFLOW_", "IM_ATTR_AUDIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(STATE_VARIABLE, str(folder))
    mine = State()
    mine.make()
    return mine


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A state folder of the test's own."""
    mine = use(tmp_path / "local", monkeypatch)
    yield mine
    mine.postgres().destroy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with both databases, for tests that leave them as they are."""
    mine = State(tmp_path_factory.mktemp("made") / "local")
    mine.make()
    with mine.postgres().in_use() as server:
        databases.prepare(mine, server, {})
    yield mine.folder
    mine.postgres().destroy()


@pytest.fixture
def prepared(made: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    return use(made, monkeypatch)


# -- the lock and the set-up ---------------------------------------------------------------------

LOCKS = ("requirements.lock", "launch/bootstrap.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_for_everything_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert not re.search(r"://|index|find-links|trusted-host|@ ", text)


def test_the_locks_agree_on_uv() -> None:
    pins = {lock: re.search(r"(?m)^uv==\S+", (ROOT / lock).read_text()) for lock in LOCKS}
    assert len({pin.group() for pin in pins.values() if pin}) == 1
    assert all(pins.values())


def test_the_lock_holds_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *(each for group in project["project"]["optional-dependencies"].values() for each in group),
        *(each for group in project["dependency-groups"].values() for each in group),
        *project["build-system"]["requires"],
    ]
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text()))
    names = {re.match(r"[A-Za-z0-9._-]+", each)[0].lower() for each in asked}  # type: ignore[index]
    assert names <= locked


class Checkout:
    """A copy of what set-up needs, with stubs for Python and uv that say what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "launch").mkdir(parents=True)
        for name in ("requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        for name in ("bootstrap.sh", "bootstrap.py", "bootstrap.lock"):
            shutil.copy(ROOT / "launch" / name, folder / "launch")
        self.path = folder / "bin"
        self.path.mkdir()
        for tool in ("sh", "cat", "cksum", "dirname", "grep"):
            (self.path / tool).symlink_to(str(shutil.which(tool)))

    def write(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def with_venv(self) -> Checkout:
        """As after the first two steps: an environment with nothing but uv."""
        self.write(self.path / "python3", f'exec {sys.executable} "$@"')
        self.write(self.folder / ".venv/bin/python", f'exec {sys.executable} "$@"')
        (self.folder / ".venv/bin/activate").write_text(f"VIRTUAL_ENV={self.folder}/.venv\n")
        self.write(
            self.folder / ".venv/bin/uv",
            f'[ "$1" = --version ] && exit 0; echo "$@" >> {self.folder}/asked; '
            f"[ ! -e {self.folder}/broken ] || {{ echo no network; exit 1; }}",
        )
        return self

    def set_up(self) -> subprocess.CompletedProcess[str]:
        return run("/bin/sh", str(self.folder / "launch/bootstrap.sh"), PATH=str(self.path))

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path.resolve() / "checkout")


def test_where_no_python_suits_it_says_which_would(checkout: Checkout) -> None:
    checkout.write(checkout.path / "python3", "exit 1")
    done = checkout.set_up()
    assert done.returncode == 1
    assert "3.11" in done.stderr
    assert "PYTHON=" in done.stderr


def test_where_venv_is_missing_it_says_which_package_to_install(checkout: Checkout) -> None:
    checkout.write(
        checkout.path / "python3",
        f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac',
    )
    done = checkout.set_up()
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in done.stderr


def test_set_up_that_failed_half_way_continues_and_is_then_silent(checkout: Checkout) -> None:
    checkout.with_venv()
    (checkout.folder / "broken").touch()
    done = checkout.set_up()
    assert done.returncode == 1
    assert "no network" in done.stderr
    assert not (checkout.folder / ".venv/.complete").exists()

    (checkout.folder / "broken").unlink()
    done = checkout.set_up()
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in checkout.asked[1:]] == [
        ["pip", "sync"],
        ["pip", "install"],
    ]
    assert "--require-hashes" in checkout.asked[1]

    done = checkout.set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(checkout.asked) == 3


def test_a_changed_lock_is_synced_again(checkout: Checkout) -> None:
    checkout.with_venv().set_up()
    with (checkout.folder / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    before = len(checkout.asked)
    assert checkout.set_up().returncode == 0
    assert len(checkout.asked) == before + 2


def test_several_set_ups_at_once_do_it_once(checkout: Checkout) -> None:
    checkout.with_venv()
    command = ["/bin/sh", str(checkout.folder / "launch/bootstrap.sh")]
    started = [
        subprocess.Popen(
            command, env={**os.environ, "PATH": str(checkout.path)}, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    assert len(checkout.asked) == 2


# -- secrets and the environment -----------------------------------------------------------------


def databases_for_test() -> databases.Databases:
    return databases.Databases("postgresql+psycopg2://airflow:x@127.0.0.1/airflow", "{}", "{}")


def test_secrets_are_made_once_into_files_only_we_can_read(state: State) -> None:
    made = environment.for_airflow(state, {}, databases_for_test())
    assert made == environment.for_airflow(State(), {}, databases_for_test())
    files = [path for path in (state.folder / "secrets").iterdir() if path.is_file()]
    assert len(files) >= 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in [state.folder, *files])
    assert len(made["AIRFLOW__CORE__FERNET_KEY"]) == 44


def test_the_owners_url_and_another_airflow_do_not_reach_a_task(state: State) -> None:
    user = {
        "IM_ATTR_AUDIT_DATABASE_URL": "postgresql://owner:hidden@db/audit",
        "AIRFLOW_HOME": "/another",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://another",
        "AIRFLOW_CONN_MINE": "{}",
    }
    made = environment.for_airflow(state, user, databases_for_test())
    assert "IM_ATTR_AUDIT_DATABASE_URL" not in made
    assert "hidden" not in json.dumps(made)
    assert made["AIRFLOW_HOME"] == str(state.airflow)
    assert "another" not in made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert made["AIRFLOW_CONN_MINE"] == "{}"


def test_a_proxy_is_for_the_vendor_and_not_for_our_own_machine(state: State) -> None:
    user = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "intern"}
    made = environment.for_airflow(state, user, databases_for_test())
    assert made["NO_PROXY"] == made["no_proxy"] == "intern,localhost"
    assert made["HTTPS_PROXY"] == "http://proxy:3128"


def test_the_real_environment_wins_over_the_dot_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    env = tmp_path / ".env"
    env.write_text("""A='{"key": "with $dollar"}'\nB=file\n""")
    env.chmod(0o600)
    assert environment.given({"B": "real"}) == {"A": '{"key": "with $dollar"}', "B": "real"}


def test_a_port_that_is_in_use_has_a_sentence_of_its_own() -> None:
    import socket

    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        taken = int(somebody.getsockname()[1])
        assert not network.nobody_listens(taken)
        free = free_port()
        assert network.choose(taken, free) == free
        assert network.choose(taken) != taken


@pytest.mark.parametrize("listed", ["not json", "{}", "[]", "[1]", '"one"'])
def test_an_unreadable_list_of_targets_is_reported_before_anything_is_asked(
    state: State, listed: str
) -> None:
    with (
        pytest.raises(LaunchError, match="not a JSON list of connection ids"),
        targets(state, {environment.CONN_IDS: listed}),
    ):
        pass


def test_the_simulators_names_are_declared_unless_the_user_declares_some(state: State) -> None:
    with targets(state, {}) as asked:
        assert asked.environment[FILE].endswith("declared_names.yaml")
    for name in (FILE, "AIRFLOW_VAR_IM_ATTR_AUDIT_DECLARED_NAMES"):
        with targets(state, {name: "of the user"}) as asked:
            assert FILE not in asked.environment


def test_what_is_not_as_declared_is_shown_with_where_to_answer(audit_db: AuditDb) -> None:
    def shown(run_id: str) -> str:
        return table.what_to_answer(audit_db.url(READER), run_id, "http://reviews")

    names = {"names": {"0": "sex", "1": "city"}}
    record(audit_db, {0: "sex", 1: "city"}, run_id="1", at=ago(minutes=9), app_group="shop")
    assert shown("1") == ""
    declare(audit_db, json.dumps({"groups": {"shop": names}}))
    assert shown("1") == ""
    record(audit_db, {0: "gender"}, run_id="2", at=ago(seconds=5), app_group="shop")
    assert shown("2").splitlines() == [
        'Not as declared: frankfurt/1400000001 slot 0 has "gender", declared "sex"',
        'Not as declared: frankfurt/1400000001 slot 1 has no name, declared "city"',
        "2 changes wait for your answer: http://reviews",
    ]
    assert "wait" not in shown("1")


# -- a Postgres of one's own ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Somebody's PostgreSQL 16 with a database for the audit."""
    folder = tmp_path_factory.mktemp("older") / "postgres"
    server = EmbeddedPostgres(folder, settings=THROWAWAY, major=16)
    server.start()
    server.ensure_database("audit")
    yield server
    server.destroy()


@pytest.fixture
def embedded(prepared: State) -> Iterator[EmbeddedPostgres]:
    with prepared.postgres().in_use() as server:
        yield server


def test_ones_own_postgres_is_migrated_and_its_roles_let_in(
    prepared: State, embedded: EmbeddedPostgres, older: EmbeddedPostgres
) -> None:
    user = {"IM_ATTR_AUDIT_DATABASE_URL": older.url("audit", driver="postgresql")}
    ready = databases.prepare(prepared, embedded, user)
    for connection, role in (
        (ready.writer, "attr_audit_writer"),
        (ready.reader, "attr_audit_reader"),
    ):
        url = databases.url_of(connection)
        assert (url.username, url.port, url.database) == (role, older.port, "audit")
        with psycopg2.connect(url.set(drivername="postgresql").render_as_string(False)) as opened:
            opened.cursor().execute("select count(*) from attr_audit.current_names")
        opened.close()
    assert str(embedded.port) in ready.airflow_url
    # The second time nothing is set: another deployment may use the roles.
    assert databases.prepare(prepared, embedded, user) == ready


def test_a_given_writers_connection_is_used_and_no_password_changed(
    prepared: State, embedded: EmbeddedPostgres, older: EmbeddedPostgres
) -> None:
    given = '{"conn_type": "postgres", "login": "mine", "host": "db", "schema": "audit"}'
    older.ensure_role("attr_audit_writer")
    user = {
        "IM_ATTR_AUDIT_DATABASE_URL": older.url("audit"),
        "AIRFLOW_CONN_IM_ATTR_AUDIT_DB": given,
    }
    ready = databases.prepare(prepared, embedded, user)
    assert ready.writer == ready.reader == given
    with pytest.raises(LaunchError, match="AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER too"):
        databases.reader(prepared, embedded, user)
    with older.connect("audit", "attr_audit_writer"):
        pass


def test_an_unreachable_or_unreadable_database_is_reported_without_its_password(
    prepared: State, embedded: EmbeddedPostgres
) -> None:
    for url in (
        f"postgresql://owner:hidden-secret@127.0.0.1:{free_port()}/audit",
        "postgresql//owner:hidden-secret@nowhere",
    ):
        with pytest.raises(LaunchError) as made:
            databases.prepare(prepared, embedded, {"IM_ATTR_AUDIT_DATABASE_URL": url})
        assert "IM_ATTR_AUDIT_DATABASE_URL" in str(made.value)
        assert "hidden-secret" not in str(made.value)


def test_a_server_that_is_too_old_is_refused(
    prepared: State,
    embedded: EmbeddedPostgres,
    older: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(databases, "OLDEST", 17)
    user = {"IM_ATTR_AUDIT_DATABASE_URL": older.url("audit")}
    with pytest.raises(LaunchError, match="PostgreSQL 16; 17 to 18"):
        databases.prepare(prepared, embedded, user)


def test_writer_and_reader_cannot_connect_to_airflows_own_database(
    prepared: State, embedded: EmbeddedPostgres
) -> None:
    databases.prepare(prepared, embedded, {})
    for role in (WRITER, READER):
        with (
            pytest.raises(psycopg2.OperationalError, match="permission denied for database"),
            embedded.connect(databases.AIRFLOW, role),
        ):
            pass
        with embedded.connect(databases.AUDIT, role):
            pass


@pytest.mark.parametrize(
    "connection",
    [
        '{"conn_type": "postgres", "login": "u", "password": "p@:/", "host": "h", "port": 5433, '
        '"schema": "d", "extra": {"sqlalchemy_query": {"sslmode": "require"}}}',
        '{"conn_type": "postgres", "login": "u", "password": "p@:/", "host": "h", "port": 5433, '
        '"schema": "d", "extra": "{\\"sqlalchemy_query\\": {\\"sslmode\\": \\"require\\"}}"}',
        "postgres://u:p%40%3A%2F@h:5433/d?sslmode=require",
    ],
)
def test_a_connection_is_read_in_every_form_airflow_takes(connection: str) -> None:
    url = databases.url_of(connection)
    assert (url.username, url.password, url.host, url.port) == ("u", "p@:/", "h", 5433)
    assert (url.database, dict(url.query)) == ("d", {"sslmode": "require"})
    assert url.drivername == "postgresql+psycopg2"


def test_the_readers_address_is_shown_without_its_password_which_a_private_file_holds(
    state: State,
) -> None:
    reader = {"conn_type": "postgres", "login": "attr_audit_reader", "password": "a:b\\c"}
    given = json.dumps({**reader, "host": "db", "port": 6543, "schema": "audit"})
    shown = databases.show_reader(state, databases.Databases("", "{}", given))
    assert shown is not None
    address, path = shown
    assert address == "postgresql://attr_audit_reader@db:6543/audit"
    assert path.read_text() == "db:6543:audit:attr_audit_reader:a\\:b\\\\c\n"
    assert path.stat().st_mode & 0o077 == 0


def test_no_address_is_shown_where_only_the_writers_connection_is_given(state: State) -> None:
    assert databases.show_reader(state, databases_for_test()) is None


# -- psql and clean ------------------------------------------------------------------------------


def launch(command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "launch", command, given=given)


def test_psql_prints_the_result_and_nothing_else(state: State) -> None:
    done = launch("psql", "\\pset format unaligned\n\\t on\nselect current_user, 1 + 1;\n")
    assert (done.returncode, done.stdout) == (0, "attr_audit_reader|2\n"), done.stderr
    assert not state.postgres().running
    assert not list((state.folder / "secrets").glob("pgpass*"))


@pytest.mark.usefixtures("prepared")
def test_psql_is_the_reader_and_reports_an_error() -> None:
    for statement in ("delete from attr_audit.change;", "select nonsense;"):
        done = launch("psql", statement)
        assert done.returncode == 3
        assert "ERROR" in done.stderr


def test_psql_leaves_a_server_that_others_use(embedded: EmbeddedPostgres) -> None:
    assert launch("psql", "select 1;").returncode == 0
    assert embedded.running


@pytest.mark.usefixtures("prepared")
def test_make_adds_no_line_of_its_own_to_what_a_command_says(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    shutil.copy(ROOT / "Makefile", checkout.folder)
    bootstrap = checkout.folder / "launch" / "bootstrap.sh"
    checkout.write(bootstrap, "exit 0")
    checkout.write(
        checkout.folder / ".venv/bin/python", f'PYTHONPATH={ROOT} exec {sys.executable} "$@"'
    )

    def make(goal: str, given: str = "") -> tuple[int, str, str]:
        command = ("make", "--no-print-directory", "-C", str(checkout.folder), goal)
        done = run(*command, given=given, MAKEFLAGS="")
        return done.returncode, done.stdout, done.stderr

    status, shown, said = make("psql", "select 1 as one;")
    assert (status, said) == (0, "")
    assert "(1 row)" in shown
    assert make("psql", "select nonsense;") == (1, "", launch("psql", "select nonsense;").stderr)
    checkout.write(bootstrap, "echo no Python >&2; exit 1")
    assert make("sync") == (1, "", "no Python\n")
    assert not list((checkout.folder / ".local").iterdir())


@pytest.mark.parametrize("answer", ["", "n\n", "what?\n"])
def test_clean_asks_and_keeps_the_record_unless_answered_yes(prepared: State, answer: str) -> None:
    with processes.file_lock(prepared.folder / "unrelated"):
        pass
    done = launch("clean", answer)
    assert done.returncode == 1
    assert (prepared.postgres().data / "PG_VERSION").exists()


def test_clean_deletes_everything_when_answered_yes(state: State) -> None:
    server = state.postgres()
    server.start()
    server.stop()
    home = server.home
    done = launch("clean", "y\n")
    assert done.returncode == 0, done.stderr
    assert str(home) in done.stderr
    assert not state.folder.exists()
    assert not home.exists()


def test_clean_works_where_nothing_is_installed_and_stops_a_server_that_still_runs(
    state: State,
) -> None:
    server = state.postgres()
    server.start()
    pid, home = server.pid, server.home
    assert pid is not None
    done = run(sys.executable, "-S", "-m", "launch", "clean", given="y\n")
    assert done.returncode == 0, done.stderr
    assert not processes.exists(pid)
    assert not home.exists()
    assert not state.folder.exists()


def test_clean_is_refused_while_a_command_is_up(state: State) -> None:
    with state.only_one():
        done = launch("clean", "y\n")
    assert done.returncode == 1
    assert "is up in this checkout" in done.stderr
    assert state.folder.exists()


# -- processes -----------------------------------------------------------------------------------


def test_an_identity_is_of_one_process_and_not_of_its_number() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    known = processes.identity(process.pid)
    assert processes.is_same(known)
    assert known is not None
    assert not processes.is_same({**known, "started": "another time"})
    process.kill()
    process.wait()
    assert not processes.is_same(known)


ORPHANS = """
import os, signal, sys, time
from pathlib import Path
from launch import components, processes
components.adopt_orphans()
family = components.Family()
nest = "sleep 600 & setsid sleep 600 & echo started; wait"
family.components.append(
    components.Component("nest", ["/bin/sh", "-c", nest], os.environ, Path(sys.argv[1]))
)
below = lambda: processes.children(os.getpid(), recursive=True)
while len(below()) < 3:
    time.sleep(0.02)
if sys.argv[2] == "killed":
    os.kill(family.components[0].pid, signal.SIGKILL)
family.stop(patience=float(sys.argv[3]))
print(len(below()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="adopting orphans is Linux's")
@pytest.mark.parametrize(("how", "patience"), [("killed", "5"), ("asked", "5"), ("asked", "0")])
def test_of_a_component_nothing_is_left_grandchildren_included(
    tmp_path: Path, how: str, patience: str
) -> None:
    done = run(sys.executable, "-c", ORPHANS, str(tmp_path / "log"), how, patience)
    assert done.stdout.split() == ["0"], done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_component_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from launch import components
component = components.Component("c", ["/bin/sleep", "600"], os.environ, Path(sys.argv[1]))
print(component.pid, flush=True)
sys.stdin.read()
"""
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert processes.exists(pid)
    launcher.kill()
    launcher.wait()
    assert processes.wait_until(lambda: not processes.exists(pid), seconds=10)


def test_what_a_killed_launcher_left_is_ended_and_a_stranger_is_not() -> None:
    left = subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"], start_new_session=True)
    stranger = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
    try:
        assert processes.wait_until(lambda: bool(processes.children(left.pid)), seconds=10)
        known: list[Mapping[str, object]] = [
            processes.identity(left.pid) or {},
            {**(processes.identity(stranger.pid) or {}), "started": "before the last boot"},
        ]
        below = processes.children(left.pid, recursive=True)
        assert components.stop_left_over(known) == 1
        assert left.wait(10) == -signal.SIGTERM
        assert not any(processes.exists(pid) for pid in below)
        assert stranger.poll() is None
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()
