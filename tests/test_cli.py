"""The command `im-attr-audit` as a person calls it, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from im_attr_audit import cli

from launch.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from im_attr_audit.cli import main; sys.exit(main())",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
    )


def test_migrate_migrates_and_says_the_revision_and_again_changes_nothing(
    postgres: EmbeddedPostgres,
) -> None:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("create database by_command")
    for _ in range(2):
        done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=postgres.url("by_command"))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("attr_audit is at revision ")


@pytest.mark.parametrize("name", ["migrate", "retention"])
def test_a_missing_url_is_reported_with_what_to_do(name: str) -> None:
    done = command(name)
    assert done.returncode == 2
    assert "IM_ATTR_AUDIT_DATABASE_URL is not set. Set it to the owner's URL" in done.stderr


@pytest.mark.parametrize("given", ["0", "-1", "all", "1.5", ""])
@pytest.mark.parametrize(
    "arguments",
    [
        ["retention", "--keep-months"],
        ["checkpoint", "--key", "key", "--to", "file:/nowhere", "--poll-apps"],
    ],
)
def test_a_number_that_would_do_nothing_is_refused(
    arguments: list[str], given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([*arguments, given])
    assert f"{given!r} is not a whole number of 1 or more" in capsys.readouterr().err


def test_an_unreachable_url_is_reported_without_its_password() -> None:
    url = "postgresql://owner:the-password@127.0.0.1:1/nowhere"
    done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=url)
    assert done.returncode == 2
    assert "refused" in done.stderr
    assert "the-password" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_login_that_may_not_make_roles_is_sent_to_the_dba(postgres: EmbeddedPostgres) -> None:
    name = "by_a_dba"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    postgres.ensure_role("deployer")
    url = postgres.url(name, "deployer")
    done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=url)
    assert done.returncode == 2
    assert "im-attr-audit migrate --print-roles" in done.stderr

    printed = command("migrate", "--print-roles", IM_ATTR_AUDIT_DATABASE_URL=url).stdout
    assert "the-password" not in printed
    with postgres.connect(name) as connection, connection.cursor() as cursor:
        for statement in printed.split(";"):
            # The roles are there already: other databases of this server use them.
            if "grant" in statement:
                cursor.execute(statement)
    done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_name_is_refused_before_anything_is_changed(
    postgres: EmbeddedPostgres, encoding: str
) -> None:
    name = f"in_{encoding.lower()}"

    def state() -> list[tuple[object, ...]]:
        with postgres.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select to_regnamespace('attr_audit'), datacl::text, "
                " (select count(*) from pg_auth_members), (select count(*) from pg_roles) "
                "from pg_database where datname = current_database()"
            )
            return list(cursor.fetchall())

    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"create database {name} encoding '{encoding}' locale 'C' template template0"
        )
    before = state()
    done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=postgres.url(name))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"is in the encoding {encoding}" in done.stderr
    assert "Traceback" not in done.stderr
    assert state() == before

    # What it says to do is what helps.
    advice = re.search(r"create database [^`]+", done.stderr)
    assert advice
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database {name}")
        cursor.execute(advice[0])
    done = command("migrate", IM_ATTR_AUDIT_DATABASE_URL=postgres.url(name))
    assert (done.returncode, done.stderr) == (0, "")
