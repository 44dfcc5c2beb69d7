"""What the subcommands share: how they read the record, and how they refuse."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.frames import without_frames
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER, SEALER_URL

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: So many findings, notes or warnings of a kind are printed; the rest is counted.
SHOWN = 20


class CannotDo(AttrAuditError):
    """The command cannot be run with these arguments or this environment; the text says why."""


@without_frames
def reader_engine() -> Engine:
    """An engine for the reader's connection in Airflow. Raises CannotDo if there is none."""
    from airflow.configuration import ensure_secrets_loaded

    from im_attr_audit.lookup import find_reading_connection
    from im_attr_audit.record.engine import engine_of_connection

    connection = find_reading_connection(ensure_secrets_loaded())
    if connection is not None:
        return engine_of_connection(connection)
    raise CannotDo(
        f"Airflow has neither the connection {AUDIT_DB_READER} nor {AUDIT_DB}. Create "
        "one of them, for example with AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER in the environment."
    )


def sealer_engine() -> Engine:
    """An engine for the sealer's URL. Raises CannotDo if it is not set."""
    from im_attr_audit.record.upkeep.owner import owner_engine

    url = os.environ.get(SEALER_URL.name)
    if not url:
        raise CannotDo(
            f"{SEALER_URL.name} is not set. Set it to the sealer's URL, such as "
            "postgresql://attr_audit_sealer:password@host:5432/database."
        )
    return owner_engine(url, "im-attr-audit checkpoint", None)


def auditing_engine() -> Engine:
    """The sealer's engine if its URL is set, because an auditor may have no Airflow."""
    return sealer_engine() if os.environ.get(SEALER_URL.name) else reader_engine()


def positive(given: str) -> int:
    """A whole number from 1, as an argument. Zero of anything would report that all is well."""
    if not (given.isascii() and given.isdecimal() and int(given)):
        raise argparse.ArgumentTypeError(f"{given[:20]!r} is not a whole number of 1 or more")
    return int(given)


def print_list(begin: str, sentences: Sequence[str]) -> None:
    """Print the first `SHOWN` sentences, after how many there are if there are more."""
    if len(sentences) > SHOWN:
        print(f"{begin}{len(sentences)} in all; the first {SHOWN}:")
    for sentence in sentences[:SHOWN]:
        print(f"{begin}{sentence}")
