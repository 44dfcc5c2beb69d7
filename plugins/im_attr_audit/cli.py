"""The command `im-attr-audit`: its parser, and migrate, verify and retention.

Exit codes: 0 all is well; 1 verify, checkpoint or declare found something; 2 it could not be done
(and says why).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from im_attr_audit.declare_command import add_declare
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.frames import without_frames
from im_attr_audit.metrics_command import add_metrics, write_result
from im_attr_audit.seal_commands import (
    add_checkpoint,
    add_checkpoints_to_verify,
    add_prove,
    auditing_engine,
    verify_checkpoints,
)
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER, DATABASE_URL

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from im_attr_audit.record.heads import Finding, Head
    from im_attr_audit.record.verify import Checked

URL_VARIABLE = DATABASE_URL.name

#: At most so many findings of a category are printed, after the count.
SHOWN = 20

#: What a category of findings is called in the summary.
CATEGORIES = {
    "chain": "breaks in a chain",
    "snapshot": "differences between the snapshot and the changes",
    "span": "apps with changes that names_as_of does not find where they belong",
    "app": "apps hidden from the views",
    "poll": "polls that do not fit what they are of",
    "review": "reviews that are not as they were recorded",
    "witness": "apps that are not as a witness saw them",
}


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

    _add_verify(commands)
    add_checkpoint(commands)
    add_prove(commands, _reader_engine)
    add_declare(commands, _reader_engine)

    add_metrics(commands, _reader_engine)
    _add_retention(commands)
    return parser


def _add_retention(commands: Any) -> None:
    retention = commands.add_parser(
        "retention",
        help="drop or fold polls older than some months; never touches change",
        description=f"Drop the monthly partitions of attr_audit.poll that are older than the "
        f"months to keep, in the database at {URL_VARIABLE} (the owner's URL). With --fold, "
        "instead: put the good polls of months that ended more than a week ago into "
        "attr_audit.coverage, one row for each app, and drop their own rows, without those that a "
        "change cites. The table change is never touched.",
    )
    retention.add_argument(
        "--keep-months",
        type=_months,
        default=25,
        metavar="N",
        help="whole months to keep beside the running one (default: %(default)s)",
    )
    retention.add_argument(
        "--fold", action="store_true", help="fold months instead of dropping any"
    )
    retention.add_argument(
        "--unsealed", action="store_true", help="with --fold: also polls that no seal covers"
    )
    retention.set_defaults(run=_retention)


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="check that the record is what was recorded",
        description="Check every chain, that the snapshot follows from it and that every change "
        "comes from a poll, and compare with the heads that Airflow's asset events witnessed (as "
        "far back as `airflow db clean` has left them). Rows are read and checked here; no "
        "function or view of the database is used. Connects through the Airflow connection "
        f"{AUDIT_DB_READER}, or {AUDIT_DB}. At most {SHOWN} findings of each sort are printed.",
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
        help="save the heads as they are now; keep the file outside the database. An existing FILE "
        "is compared first; nothing is saved where anything is not as it was recorded",
    )
    verify.add_argument(
        "--no-asset-events",
        action="store_true",
        help="do not compare with Airflow's asset events. For a database other than the one this "
        "Airflow records into, such as a restore on trial or one of several audit databases: "
        "the events are of the other one",
    )
    verify.add_argument(
        "--result",
        type=Path,
        metavar="FILE",
        help="write whether the record holds, and when it was checked, to FILE for Prometheus "
        "(node_exporter's textfile collector reads *.prom). Not written where nothing was checked",
    )
    add_checkpoints_to_verify(verify)
    verify.set_defaults(run=_verify)


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


def _report(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


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
    print(f"attr_audit is at revision {migrate(_owner_url(), report=_report)}")
    return 0


def _retention(given: argparse.Namespace) -> int:
    from im_attr_audit.record.fold import fold_old_polls
    from im_attr_audit.record.retention import drop_old_polls

    if given.unsealed and not given.fold:
        raise AttrAuditError("--unsealed goes with --fold.")
    if given.fold:
        folded = fold_old_polls(_owner_url(), unsealed=given.unsealed, report=_report)
        for month in folded:
            print(
                f"folded {month.part}: {month.polls} good polls in {month.spans} spans, "
                f"{month.kept} rows kept"
            )
        if not folded:
            print("nothing to fold")
        return 0

    dropped = drop_old_polls(_owner_url(), keep_months=given.keep_months, report=_report)
    print(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from im_attr_audit.record.heads import read_heads, save_heads

    saved: Path | None = given.save_heads
    if saved and saved.exists() and not saved.is_file():
        raise CannotDo(f"{saved} is not a regular file: choose a file for --save-heads.")
    existing = saved if saved and saved.exists() else None
    # Before the record is read: what is recorded in the meantime is then newer than its witness.
    witnessed = [head for file in (given.heads, existing) if file for head in read_heads(file)]
    if not (given.export or given.no_asset_events):
        witnessed += _asset_heads()
    checked = _check_record(given, witnessed)
    _print_checked(checked, "export" if given.export else "database")
    if given.heads or witnessed:
        _print_unwitnessed(checked, witnessed)
    is_as_sealed = not given.checkpoints or verify_checkpoints(given, _reader_engine)
    holds = not checked.findings and is_as_sealed
    if given.result:
        write_result(given.result, holds, datetime.now(UTC))
    if not holds:
        if saved:
            kept = "The file was left unchanged." if existing else "No file was written."
            print(f"Heads were not saved to {saved}: see the findings above. {kept}")
        return 1
    print("The record is as it was recorded.")
    if saved:
        save_heads(checked.heads, saved, datetime.now(UTC))
        print(f"saved {len(checked.heads)} heads to {saved}")
    return 0


def _check_record(given: argparse.Namespace, witnessed: Sequence[Head]) -> Checked:
    """The export or the database, against these heads."""
    from im_attr_audit.record.verify import check_database, check_export

    if given.export:
        return check_export(given.export, witnessed)
    engine = auditing_engine(_reader_engine) if given.checkpoints else _reader_engine()
    try:
        return check_database(engine, witnessed)
    finally:
        engine.dispose()


def _print_checked(checked: Checked, where: str) -> None:
    print(f"{where}: {checked.rows} changes of {len(checked.heads)} apps checked")
    if checked.reviews:
        print(f"{where}: {checked.reviews} reviews checked")
    _print_findings(checked.findings)
    for note in checked.notes:
        print(f"note: {note}")


def _print_findings(findings: Sequence[Finding]) -> None:
    """The number of each category first, then at most `SHOWN` of each."""
    by_category: dict[str, list[Finding]] = {name: [] for name in CATEGORIES}
    for finding in findings:
        by_category[finding.category].append(finding)
    for category, found in by_category.items():
        if found:
            print(f"{len(found)} {CATEGORIES[category]}")
    for category, found in by_category.items():
        for finding in sorted(found, key=_place)[:SHOWN]:
            print(f"NOT AS RECORDED  {finding}")
        if len(found) > SHOWN:
            print(f"NOT AS RECORDED  {len(found) - SHOWN} more {CATEGORIES[category]}")


@without_frames
def _reader_engine() -> Engine:
    from airflow.configuration import ensure_secrets_loaded

    from im_attr_audit.lookup import find_reading_connection
    from im_attr_audit.record.engine import engine_of_connection

    connection = find_reading_connection(ensure_secrets_loaded())
    if connection is not None:
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


def _print_unwitnessed(checked: Checked, witnessed: Sequence[Head]) -> None:
    newest: dict[tuple[str, int], int] = {}
    for head in witnessed:
        app = (head.region, head.sdk_app_id)
        newest[app] = max(newest.get(app, 0), head.seq)
    waiting = [h for h in checked.heads if h.seq > newest.get((h.region, h.sdk_app_id), 0)]
    for head in waiting[:SHOWN]:
        print(
            f"not yet witnessed: {head.region}/{head.sdk_app_id} "
            f"seq {newest.get((head.region, head.sdk_app_id), 0) + 1} to {head.seq}"
        )
    if len(waiting) > SHOWN:
        print(f"not yet witnessed: the newest rows of {len(waiting) - SHOWN} more apps")


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.region, finding.sdk_app_id, finding.seq or 0
