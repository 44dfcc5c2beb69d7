"""A sealed record with its sealer, key and witness, for the tests of seals; fixtures too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.declared.parse import parse
from im_attr_audit.evidence.note import Signer, new_signer
from im_attr_audit.evidence.witnesses import Witness, open_witness
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.reviews import Answer, record_answer
from im_attr_audit.record.runs import record_planned
from im_attr_audit.record.seals.sealing import Sealed, make_checkpoint
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.store import record_polls
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres
from tests.conftest import SEALER, AuditDb, fresh_audit_db
from tests.history import NamesLike, polled

NAMES: list[NamesLike] = [
    {0: "sex", 1: "city"},
    {0: "gender", 1: "city"},
    {0: "gender", 1: "", 2: "level"},
    {0: "gender", 1: "", 2: 'a "quoted"\\ \n\x01 name é'},
]
REGIONS = ("frankfurt", "seoul")


def folder_at(path: Path) -> Witness:
    return open_witness(f"file:{path}")


def file_name(size: int) -> str:
    return f"{size:012d}.json"


@dataclass
class Sealing:
    """A record with its sealer, its key and its witness."""

    db: AuditDb
    engine: Engine
    signer: Signer
    folder: Path
    at: datetime

    def run(self, number: int, names: NamesLike) -> None:
        """One run of two apps, recorded now."""
        at = self.at + timedelta(seconds=10 * number - 120)
        ids = [(f"im_{region}_7", region, 7) for region in REGIONS]
        record_planned(self.db.writer, f"run {number}", ids)
        polls = [polled(names, names, at=at, region=region, sdk_app_id=7) for region in REGIONS]
        record_polls(self.db.writer, polls, dag_run_id=f"run {number}", try_number=1)

    def judge(self, number: int) -> None:
        """Review changes and declare names, of some runs."""
        changes = {1: 3, 2: 4, 9: 3}
        if number in changes:
            answer = Answer("expected", "uma", None, None, 'a "b"\tc', self.at, f"review {number}")
            record_answer(self.db.writer, "frankfurt", {7: [changes[number]]}, answer)
            document = parse(f"groups: {{shop: {{names: {{0: name {number}}}}}}}", "").declaration
            record_declaration(
                self.db.writer,
                document,
                source="a file",
                revision=None,
                text_digest=None,
                dag_run_id=f"run {number}",
            )

    def seal(self, *more: Path) -> Sealed:
        witnesses = [folder_at(path) for path in (self.folder, *more)]
        return make_checkpoint(self.engine, self.signer, witnesses)

    def found(self, *more: Path, signer: Signer | None = None) -> list[str]:
        witnesses = [folder_at(path) for path in (self.folder, *more)]
        key = (signer or self.signer).verifier
        return check_seals(self.engine, witnesses, key)[1].findings


def sealing_of(db: AuditDb, folder: Path, signer: Signer | None = None) -> Sealing:
    folder.mkdir(exist_ok=True)
    engine = create_audit_engine(make_url(db.url(SEALER)))
    signer = signer or new_signer("example.com/audit")
    return Sealing(db, engine, signer, folder, datetime.now(UTC))


def new_log(sealed: Sealing, folder: Path) -> Sealing:
    """The same record in a log that begins now: its first seal has polls of any age."""
    return sealing_of(sealed.db, folder, new_signer("example.com/another"))


def edit_file(folder: Path, seal: int, **values: object) -> dict[str, Any]:
    """Give a seal's file at a witness other values; returns what it had."""
    file = folder / file_name(seal + 1)
    before: dict[str, Any] = json.loads(file.read_text())
    file.chmod(0o600)
    file.write_text(json.dumps({**before, **values}))
    return before


@pytest.fixture(scope="session")
def story(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Signer]]:
    """A database with four runs in three seals and one run that no seal covers; a template."""
    folder = tmp_path_factory.mktemp("witness")
    with fresh_audit_db(postgres, template) as db:
        made = sealing_of(db, folder)
        for number, names in enumerate(NAMES):
            made.run(number, names)
            made.judge(number)
            if number < 3:
                made.seal()
        made.seal()
        made.run(9, NAMES[0])
        made.judge(9)
        db.dispose()
        made.engine.dispose()
        yield db.name, folder, made.signer


@pytest.fixture
def sealed(
    postgres: EmbeddedPostgres, story: tuple[str, Path, Signer], tmp_path: Path
) -> Iterator[Sealing]:
    name, folder, signer = story
    copy = tmp_path / "witness"
    shutil.copytree(folder, copy)
    with fresh_audit_db(postgres, name) as db:
        made = sealing_of(db, copy, signer)
        yield made
        made.engine.dispose()


@pytest.fixture(scope="session")
def shared(
    postgres: EmbeddedPostgres, story: tuple[str, Path, Signer]
) -> Iterator[tuple[Engine, Path, Signer]]:
    """One sealed database for forgeries that are taken back."""
    name, folder, signer = story
    with fresh_audit_db(postgres, name) as db:
        engine = create_audit_engine(make_url(db.server.url(db.name)))
        yield engine, folder, signer


@pytest.fixture
def commanded(
    sealed: Sealing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Sealing, Path, str]:
    """The sealer's URL in the environment, the key in a file; the public key."""
    monkeypatch.setenv("IM_ATTR_AUDIT_SEALER_URL", sealed.db.url(SEALER))
    key = tmp_path / "key"
    key.write_text(sealed.signer.secret_text())
    key.chmod(0o600)
    return sealed, key, str(sealed.signer.verifier)


def as_superuser(db: AuditDb, statements: str) -> None:
    with db.server.connect(db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica; " + statements)
