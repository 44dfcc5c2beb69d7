"""Roll back package and schema, as docs/operations.md says, with the package of before.

Part of `make test-cluster`. The older package is that of the commit before the newest step of the
schema: it runs in processes of its own, from the repository's history.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from simulator.control import Simulator
from tests.cluster.recovery import SCHEMAS, program
from tests.conftest import OWNER, READER, SEALER, WRITER, AuditDb
from tests.rig import Rig, app_of, assert_changes_are_true, brief

REGIONS = ("frankfurt",)
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("plugins", "sql", "dags")
pytestmark = pytest.mark.timeout(600)

#: What the older package does, called by its own modules alone.
OLDER = """
import json, sys
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.checks.heads import Head
from im_attr_audit.record.upkeep.migrate import migrate, revisions
from im_attr_audit.record.runs import prepare_run, read_run
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.sync import sync_apps
from im_attr_audit.tencent.target import target_from_connection
from sqlalchemy.engine import make_url

given = json.load(sys.stdin)
if given["do"] == "migrate":
    said = migrate(given["url"])
elif given["do"] == "revisions":
    said = list(revisions())
else:
    engine = create_audit_engine(make_url(given["url"]))
    if given["do"] == "sync":
        targets = [
            target_from_connection(
                name, **{k: fields[k] for k in ("login", "password", "host", "port", "extra")}
            )
            for name, fields in given["targets"].items()
        ]
        prepare_run(engine)
        done = sync_apps(
            engine, targets, dag_run_id=given["run"], try_number=1, confirm_seconds=0
        )
        assert len(read_run(engine, given["run"]).polls) == len(targets)
        said = [one.outcome for one in done]
    else:
        heads = [Head(*head) for head in given.get("heads", [])]
        found = check_database(engine, heads).findings
        said = [(finding.sdk_app_id, finding.category) for finding in found]
json.dump(said, sys.stdout)
"""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@dataclass(frozen=True)
class Older:
    """The package as it was before the newest step of the schema."""

    folder: Path

    def do(self, what: str, **given: Any) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", OLDER],
            input=json.dumps({"do": what, **given}),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "plugins")},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Older:
    newest = f"sql/migrations/versions/{revisions()[-1]}_*"
    commits = git("log", "--diff-filter=A", "--format=%H", "--", newest).decode().split()
    if not commits:
        pytest.fail("The history of the repository is needed: git fetch --unshallow", pytrace=False)
    folder = tmp_path_factory.mktemp("older")
    archive = git("archive", f"{commits[-1]}^", *FOLDERS)
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
    found = Older(folder)
    assert found.do("revisions") == list(revisions())[:-1]
    return found


@dataclass
class Scene:
    """A database that the older package has made and recorded into."""

    db: AuditDb
    rig: Rig
    older: Older
    targets: list[Any]
    runs: int = 0

    def rename(self) -> None:
        """Another name in each app, from the second record on."""
        for target in self.targets if self.runs else ():
            self.rig.set_names(target, {0: f"name {self.runs}", 1: "city"})
        self.runs += 1

    def older_records(self, url: str) -> None:
        """The names change, and the older package's sync records it."""
        self.rename()
        connections = {
            t.conn_id: self.rig.simulator.connection_json(*app_of(t)) for t in self.targets
        }
        given = {"url": url, "targets": connections, "run": self.rig.new_run()}
        assert self.older.do("sync", **given) == ["ok"] * len(self.targets)

    def ours_records(self) -> None:
        self.rename()
        assert self.rig.outcomes(*self.targets) == ["ok"] * len(self.targets)

    def check(self) -> None:
        """Each change is on record once, whichever package recorded it."""
        record = self.rig.record(*self.targets)
        for target in self.targets:
            changes = record.changes_of(app_of(target))
            assert_changes_are_true(changes, self.rig.history(target))
        assert check_database(self.db.owner).findings == ()


@pytest.fixture
def scene(
    postgres: EmbeddedPostgres, template: str, simulator: Simulator, older: Older
) -> Iterator[Scene]:
    assert template  # the roles are there
    name = "rolled_back"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    assert older.do("migrate", url=postgres.url(name)) == revisions()[-2]

    def engine(role: str) -> Engine:
        return create_audit_engine(make_url(postgres.url(name, role)))

    db = AuditDb(postgres, name, engine(OWNER), engine(WRITER), engine(READER))
    rig = Rig(simulator, db.writer)
    made = Scene(
        db, rig, older, [rig.add_app("frankfurt", {0: "sex", 1: "city"}) for _ in range(3)]
    )
    try:
        yield made
    finally:
        db.dispose()
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"drop database {name} with (force)")


def test_the_package_is_rolled_back_and_upgraded_again_without_a_loss(scene: Scene) -> None:
    writer, owner = scene.db.url(WRITER), scene.db.server.url(scene.db.name)
    scene.older_records(writer)
    assert migrate(owner) == revisions()[-1]
    scene.older_records(writer)  # until the new image is rolled out
    scene.ours_records()
    scene.older_records(writer)  # rolled back
    assert scene.older.do("verify", url=scene.db.url(READER)) == []
    scene.check()
    scene.ours_records()  # and upgraded again
    assert migrate(owner) == revisions()[-1]
    scene.ours_records()
    scene.check()


def test_the_schema_is_rolled_back_by_a_dump_and_what_came_later_is_named(
    scene: Scene, tmp_path: Path
) -> None:
    server, db = scene.db.server, scene.db
    scene.older_records(db.url(WRITER))
    dump = tmp_path / "attr_audit.dump"
    place = server.url(db.name, driver="postgresql")
    program("pg_dump", "--format=custom", *SCHEMAS, f"--file={dump}", place)
    assert migrate(server.url(db.name)) == revisions()[-1]
    scene.ours_records()
    heads = check_database(db.reader).heads

    restored = f"{db.name}_again"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {restored} encoding 'UTF8' template template0")
        cursor.execute(f"grant connect, create on database {restored} to {OWNER}")
        cursor.execute(f"grant connect on database {restored} to {WRITER}, {READER}, {SEALER}")
    url = server.url(restored, driver="postgresql")
    program("pg_restore", "--exit-on-error", "--single-transaction", f"--role={OWNER}",
            f"--dbname={url}", str(dump))  # fmt: skip
    assert scene.older.do("migrate", url=server.url(restored)) == revisions()[-2]
    kept = [astuple(head) for head in heads]
    named = scene.older.do("verify", url=server.url(restored, READER), heads=kept)
    assert sorted(named) == sorted([t.sdk_app_id, "witness"] for t in scene.targets)
    owner = create_audit_engine(make_url(server.url(restored)))
    # The newest revision added no table, so the newer version reads the older schema, too.
    found = check_database(owner, heads).findings
    assert sorted((each.sdk_app_id, each.category) for each in found) == sorted(
        (target.sdk_app_id, "witness") for target in scene.targets
    )

    scene.older_records(server.url(restored, WRITER))
    with owner.connect() as asking:
        for target in scene.targets:
            [newest] = asking.execute(
                text(
                    "select * from attr_audit.change where sdk_app_id = :app "
                    "order by seq desc limit 1"
                ),
                {"app": target.sdk_app_id},
            ).all()
            # From what the dump had last to what is true now: what was between is in the other one.
            assert brief([newest]) == [(0, "renamed", "sex", "name 2")]
    assert scene.older.do("verify", url=server.url(restored, READER)) == []
    owner.dispose()
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"drop database {restored} with (force)")
