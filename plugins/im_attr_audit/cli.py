"""The command `im-attr-audit`: its parser, and migrate and retention.

Exit codes: 0 all is well; 1 verify, checkpoint or declare found something; 2 it could not be done
(and says why).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from im_attr_audit.commands.declare import add_declare
from im_attr_audit.commands.metrics import add_metrics
from im_attr_audit.commands.notify import add_notify
from im_attr_audit.commands.seals import add_checkpoint, add_prove
from im_attr_audit.commands.shared import CannotDo, positive
from im_attr_audit.commands.verify import add_verify
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.settings import DATABASE_URL
from im_attr_audit.text_format import counted

URL_VARIABLE = DATABASE_URL.name


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
        print(f"im-attr-audit {given.command}: database error: {text}", file=sys.stderr)
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

    add_verify(commands)
    add_checkpoint(commands)
    add_prove(commands)
    add_declare(commands)

    add_metrics(commands)
    add_notify(commands)
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
        type=positive,
        default=25,
        metavar="N",
        help="whole months to keep besides the current one (default: %(default)s)",
    )
    retention.add_argument(
        "--fold", action="store_true", help="fold months instead of dropping any"
    )
    retention.add_argument(
        "--unsealed", action="store_true", help="with --fold: also polls that no seal covers"
    )
    retention.set_defaults(run=_retention)


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

    from im_attr_audit.record.upkeep.migrate import migrate, print_roles

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
    from im_attr_audit.record.upkeep.fold import fold_old_polls
    from im_attr_audit.record.upkeep.retention import drop_old_polls

    if given.unsealed and not given.fold:
        raise AttrAuditError("--unsealed goes with --fold.")
    if given.fold:
        folded = fold_old_polls(_owner_url(), unsealed=given.unsealed, report=_report)
        for month in folded:
            print(
                f"folded {month.part}: {counted(month.polls, 'good poll')} in "
                f"{counted(month.spans, 'span')}, {counted(month.kept, 'row')} kept"
            )
        if not folded:
            print("nothing to fold")
        return 0

    dropped = drop_old_polls(_owner_url(), keep_months=given.keep_months, report=_report)
    print(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop")
    return 0
