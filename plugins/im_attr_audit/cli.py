"""The command `im-attr-audit`: migrate, verify, retention.

Exit codes: 0 all is well; 1 verify found something; 2 it could not be done (and says why).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER, DATABASE_URL

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from im_attr_audit.record.verify import Checked, Finding, Head

URL_VARIABLE = DATABASE_URL.name


class CannotDo(AttrAuditError):
    """The command cannot be carried out as it was called; the text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; gives the exit code."""
    from sqlalchemy.exc import SQLAlchemyError

    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except (AttrAuditError, OSError) as error:
        print(f"im-attr-audit {given.command}: {error}", file=sys.stderr)
    except SQLAlchemyError as error:
        text = str(getattr(error, "orig", None) or error).strip()
        print(f"im-attr-audit {given.command}: the database says: {text}", file=sys.stderr)
    else:
        return code
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="im-attr-audit",
        description="The audit record of Tencent Cloud Chat's user-attribute names.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    migrate = commands.add_parser(
        "migrate",
        help="create or update the roles and the schema attr_audit",
        description=f"Create or update the roles and the schema attr_audit in the database at "
        f"{URL_VARIABLE} (the owner's URL). Running it again changes nothing.",
    )
    migrate.add_argument(
        "--print-roles",
        action="store_true",
        help="print the SQL by which a DBA makes the roles, and do nothing else",
    )
    migrate.set_defaults(run=_migrate)

    verify = commands.add_parser(
        "verify",
        help="check that the record is what was recorded",
        description="Check every chain in the audit database and that the snapshot follows from "
        "it, and compare with the heads that Airflow's asset events witnessed (as far back as "
        "`airflow db clean` has left them). Connects as Airflow does, by the connection "
        "im_attr_audit_db_reader or im_attr_audit_db.",
    )
    verify.add_argument(
        "--export", type=Path, metavar="CSV", help="check this export instead of the database"
    )
    verify.add_argument(
        "--heads", type=Path, metavar="FILE", help="compare with heads saved earlier as well"
    )
    verify.add_argument(
        "--save-heads",
        type=Path,
        metavar="FILE",
        help="save the heads as they are now, if all is well; keep the file elsewhere",
    )
    verify.add_argument(
        "--no-asset-events", action="store_true", help="do not look at Airflow's asset events"
    )
    verify.set_defaults(run=_verify)

    retention = commands.add_parser(
        "retention",
        help="drop polls older than some months; never touches change",
        description=f"Drop the monthly partitions of attr_audit.poll that are older than the "
        f"months to keep, in the database at {URL_VARIABLE} (the owner's URL). The table change "
        "is never touched.",
    )
    retention.add_argument(
        "--keep-months",
        type=_months,
        default=25,
        metavar="N",
        help="whole months to keep beside the running one (default: %(default)s)",
    )
    retention.set_defaults(run=_retention)
    return parser


def _months(given: str) -> int:
    months = int(given)
    if months < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return months


def _owner_url() -> str:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise CannotDo(
            f"{URL_VARIABLE} is not set. Set it to the owner's URL, such as "
            "postgresql://owner:password@host:5432/database."
        )
    return url


def _migrate(given: argparse.Namespace) -> int:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from im_attr_audit.record.migrate import migrate, print_roles

    if given.print_roles:
        url = os.environ.get(URL_VARIABLE)
        try:
            parsed = make_url(url) if url else None
        except ArgumentError:
            parsed = None
        database = (parsed and parsed.database) or "<the audit database>"
        login = (parsed and parsed.username) or "<the migrating login>"
        print(print_roles(database, login), end="")
        return 0
    print(f"attr_audit is at revision {migrate(_owner_url())}")
    return 0


def _retention(given: argparse.Namespace) -> int:
    from im_attr_audit.record.retention import drop_old_polls

    dropped = drop_old_polls(_owner_url(), keep_months=given.keep_months)
    print(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from im_attr_audit.record.verify import check_export, check_heads, read_heads, save_heads

    witnessed = [*(read_heads(given.heads) if given.heads else [])]
    engine = None
    if given.export:
        checked = check_export(given.export)
        print(f"export: {_counted(checked)}")
    else:
        engine = _reader_engine()
        checked = _check_database(engine)
        print(f"database: {_counted(checked)}")
        if not given.no_asset_events:
            witnessed += _asset_heads()
    try:
        findings = [*checked.findings]
        if given.heads or witnessed:
            findings += check_heads(witnessed, _rows(engine, given.export, witnessed))
            _tell_unwitnessed(checked, witnessed)
    finally:
        if engine is not None:
            engine.dispose()

    for finding in sorted(findings, key=_place):
        print(f"NOT AS RECORDED  {finding}")
    if findings:
        return 1
    print("The record is as it was recorded.")
    if given.save_heads:
        save_heads(checked.heads, given.save_heads, datetime.now(UTC))
        print(f"saved {len(checked.heads)} heads to {given.save_heads}")
    return 0


def _check_database(engine: Engine) -> Checked:
    from im_attr_audit.record.verify import check_database

    return check_database(engine)


def _rows(
    engine: Engine | None, export: Path | None, witnessed: Sequence[Head]
) -> dict[tuple[str, int], dict[int, str]]:
    from im_attr_audit.record.verify import read_rows, rows_of_export

    if engine is None:
        assert export is not None  # noqa: S101 - one of the two is what was checked
        return rows_of_export(export)
    return read_rows(engine, sorted({(head.region, head.sdk_app_id) for head in witnessed}))


def _reader_engine() -> Engine:
    from airflow.configuration import ensure_secrets_loaded

    from im_attr_audit.lookup import find_connection
    from im_attr_audit.record.engine import engine_of_connection

    for conn_id in (AUDIT_DB_READER, AUDIT_DB):
        if connection := find_connection(conn_id, ensure_secrets_loaded()):
            return engine_of_connection(connection)
    raise CannotDo(
        "Airflow has neither the connection im_attr_audit_db_reader nor im_attr_audit_db. Set one, "
        "such as AIRFLOW_CONN_IM_ATTR_AUDIT_DB_READER in the environment, or check an --export."
    )


def _asset_heads() -> tuple[Head, ...]:
    from im_attr_audit.witness import read_witnessed_heads

    witnessed = read_witnessed_heads()
    if not witnessed.events:
        print(
            "asset events: none. Nothing in Airflow witnesses the chains (`airflow db clean` "
            "removes the events); compare with a file of --save-heads."
        )
    else:
        print(
            f"asset events: {len(witnessed.heads)} heads in {witnessed.events} events since "
            f"{witnessed.since:%Y-%m-%d %H:%M:%S}Z (`airflow db clean` removes older ones)"
        )
    return witnessed.heads


def _tell_unwitnessed(checked: Checked, witnessed: Sequence[Head]) -> None:
    newest: dict[tuple[str, int], int] = {}
    for head in witnessed:
        app = (head.region, head.sdk_app_id)
        newest[app] = max(newest.get(app, 0), head.seq)
    waiting = [h for h in checked.heads if h.seq > newest.get((h.region, h.sdk_app_id), 0)]
    for head in waiting[:20]:
        print(
            f"not yet witnessed: {head.region}/{head.sdk_app_id} "
            f"seq {newest.get((head.region, head.sdk_app_id), 0) + 1} to {head.seq}"
        )
    if len(waiting) > 20:
        print(f"not yet witnessed: the newest rows of {len(waiting) - 20} more apps")


def _counted(checked: Checked) -> str:
    return f"{checked.rows} changes of {len(checked.heads)} apps checked"


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.region, finding.sdk_app_id, finding.seq or 0
