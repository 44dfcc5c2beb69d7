"""Where declared names are read, and recording them whenever they differ.

The Variable, else the file that the environment names, else ``declared_names.yaml`` in the DAG's
folder, else nothing is declared. A document that cannot be read or is invalid is never recorded:
the last valid one stays in force.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from airflow.sdk import Variable
from sqlalchemy import Engine

from im_attr_audit import settings
from im_attr_audit.declared.parse import MOST_BYTES, decode, parse
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.record.declarations import note_stale_after, read_last, record_declaration

log = logging.getLogger(__name__)

#: The file in the DAG's folder.
FILE = "declared_names.yaml"
#: Warnings that are logged of a new document.
WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where the DAG's file is, and the bundle it is part of (Airflow's ``ti.bundle_instance``)."""

    dag_folder: Path
    bundle: Any = None

    def revision_of(self, path: Path) -> str | None:
        """The bundle's version, where it has versions and the file is part of it."""
        version = getattr(self.bundle, "version", None)
        if version is None or not path.resolve().is_relative_to(Path(self.bundle.path).resolve()):
            return None
        return str(version)


@dataclass(frozen=True, slots=True)
class Document:
    """A document's text (None: there is none), where it is from, and its revision."""

    source: str
    text: str | None = None
    revision: str | None = None


def declare(
    engine: Engine, dag_run_id: str | None, dag_folder: Path | None, bundle: Any
) -> str | None:
    """What a task does: note how it is set, and record the declared names.

    ``dag_folder`` is None where a DAG file of the previous release does not give it: nothing is
    read then. Gives what is wrong with the document, or None.
    """
    note_stale_after(engine, settings.stale_after())
    if dag_folder is None:
        return None
    return record_declared_names(engine, Place(dag_folder, bundle), dag_run_id=dag_run_id)


def record_declared_names(engine: Engine, place: Place, *, dag_run_id: str | None) -> str | None:
    """Record what is declared, if it differs from the last declaration.

    Gives what is wrong with the document, or None; database errors are raised. A text that did not
    change since it was recorded is not parsed again.
    """
    last = read_last(engine)
    try:
        found = find_document(place)
        digest = None if found.text is None else sha256(found.text.encode()).digest()
        if found.text is None and last is None:
            return None
        if digest is not None and last is not None and digest == last.text_digest:
            return None
        parsed = parse(found.text or "", found.source)
    except (AttrAuditError, OSError) as error:
        return f"declared names were refused, the last valid declaration stays in force:\n{error}"
    if last is not None and parsed.declaration.digest == last.digest:
        return None
    for warning in parsed.warnings[:WARNINGS]:
        log.warning("%s, %s", found.source, warning)
    if record_declaration(
        engine,
        parsed.declaration,
        source=found.source,
        revision=found.revision,
        text_digest=digest,
        dag_run_id=dag_run_id,
    ):
        groups = len(parsed.declaration.groups)
        log.info("Declared names recorded from %s: %d groups.", found.source, groups)
    return None


def find_document(place: Place, environ: Mapping[str, str] = os.environ) -> Document:
    """The document that is declared now.

    Raises SecretsUnavailable where the Variable could not be looked up, OSError and
    InvalidDeclaration where a file cannot be read: that is not the same as nothing declared.
    """
    given = _variable()
    if given is not None:
        # A secrets backend may give JSON as the values it stands for.
        text = given if isinstance(given, str) else json.dumps(given)
        return Document(f"Variable {settings.DECLARED_NAMES}", text)
    if named := environ.get(settings.DECLARED_NAMES_FILE.name, "").strip():
        path = place.dag_folder / named
        return Document(str(path), read_document(path), place.revision_of(path))
    path = place.dag_folder / FILE
    try:
        text = read_document(path)
    except FileNotFoundError:
        return Document("none")
    return Document(str(path), text, place.revision_of(path))


def read_document(path: Path) -> str:
    """A file's text. Raises OSError, and InvalidDeclaration where it is not UTF-8 or too long."""
    with path.open("rb") as file:
        return decode(file.read(MOST_BYTES + 1), str(path))


def _variable() -> object:
    given = Variable.get(settings.DECLARED_NAMES, default=None)
    if given is None:
        from im_attr_audit.lookup import ask_for_variable

        given = ask_for_variable(settings.DECLARED_NAMES)
    return given
