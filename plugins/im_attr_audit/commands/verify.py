"""The command `verify`: the chains, the snapshot, and what saw them outside the database."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from im_attr_audit.airflow_stats import send_verify_result
from im_attr_audit.apps import AppKey
from im_attr_audit.commands import shared
from im_attr_audit.commands.metrics import write_result
from im_attr_audit.commands.seals import add_checkpoints_to_verify, verify_checkpoints
from im_attr_audit.commands.shared import SHOWN, CannotDo
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER
from im_attr_audit.text_format import counted, time_text

if TYPE_CHECKING:
    from im_attr_audit.record.checks.heads import Finding, Head
    from im_attr_audit.record.checks.verify import Checked

#: What one finding of a category is called in the summary, and what several are called.
CATEGORIES = {
    "chain": ("broken chain", "broken chains"),
    "snapshot": (
        "difference between the snapshot and the changes",
        "differences between the snapshot and the changes",
    ),
    "span": (
        "app with changes that names_as_of can miss",
        "apps with changes that names_as_of can miss",
    ),
    "app": ("app hidden from the views", "apps hidden from the views"),
    "poll": ("finding about polls", "findings about polls"),
    "review": ("altered or missing review", "altered or missing reviews"),
    "witness": (
        "app whose chain does not match a stored head",
        "apps whose chain does not match a stored head",
    ),
}


def add_verify(commands: Any) -> None:
    """The parser of `verify`."""
    verify = commands.add_parser(
        "verify",
        help="check that nothing on record was edited",
        description="Check every chain, that the snapshot follows from it and that every change "
        "comes from a poll, and compare with the heads that Airflow's asset events witnessed (as "
        "far back as `airflow db clean` has left them). Rows are read and checked here; no "
        "function or view of the database is used. Connects through the Airflow connection "
        f"{AUDIT_DB_READER}, or {AUDIT_DB}. At most {SHOWN} findings of each kind are printed.",
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
        "is compared first; if there are findings, nothing is saved",
    )
    verify.add_argument(
        "--no-asset-events",
        action="store_true",
        help="do not compare with Airflow's asset events. Use it for a database that this Airflow "
        "does not record into, such as a trial restore: the events belong to another database",
    )
    verify.add_argument(
        "--result",
        type=Path,
        metavar="FILE",
        help="write whether the record is intact, and when it was checked, to FILE for Prometheus "
        "(node_exporter's textfile collector reads *.prom). Not written if it cannot be checked",
    )
    verify.add_argument(
        "--stats",
        action="store_true",
        help="send the same through Airflow's own metrics (StatsD or OpenTelemetry), as this "
        "Airflow is configured. Not sent if it cannot be checked",
    )
    add_checkpoints_to_verify(verify)
    verify.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    saved: Path | None = given.save_heads
    if saved and saved.exists() and not saved.is_file():
        raise CannotDo(f"{saved} is not a regular file: choose a file for --save-heads.")
    # Before the record is read: what is recorded in the meantime is then newer than its witness.
    witnessed = _witnessed_heads(given)
    checked = _check_record(given, witnessed)
    _print_checked(checked, "export" if given.export else "database")
    if given.heads or witnessed:
        _print_unwitnessed(checked, witnessed)
    is_as_sealed = not given.checkpoints or verify_checkpoints(given)
    is_intact = not checked.findings and is_as_sealed
    if is_intact and not checked.rows and not given.checkpoints:
        return _nothing_to_check(given)
    checked_at = datetime.now(UTC)
    if given.result:
        write_result(given.result, is_intact, checked_at)
    if given.stats:
        send_verify_result(is_intact, checked_at)
    if is_intact:
        print("The record is as it was recorded.")
    if saved:
        _save_heads(checked, saved, is_intact)
    return int(not is_intact)


def _nothing_to_check(given: argparse.Namespace) -> int:
    """An empty record is not an intact one: nothing says that anything was ever in it."""
    if given.export:
        raise CannotDo(f"{given.export} has no change in it: there is nothing to check.")
    print("The record has no change yet: there was nothing to check, and no file was written.")
    return 0


def _witnessed_heads(given: argparse.Namespace) -> list[Head]:
    """The heads in the files that are named and exist, and in Airflow's asset events."""
    from im_attr_audit.record.checks.heads import read_heads

    saved = given.save_heads if given.save_heads and given.save_heads.exists() else None
    heads = [head for file in (given.heads, saved) if file for head in read_heads(file)]
    return heads if given.export or given.no_asset_events else [*heads, *_asset_heads()]


def _save_heads(checked: Checked, file: Path, is_intact: bool) -> None:
    from im_attr_audit.record.checks.heads import save_heads

    if is_intact:
        save_heads(checked.heads, file, datetime.now(UTC))
        print(f"saved {counted(len(checked.heads), 'head')} to {file}")
    else:
        kept = "The file was left unchanged." if file.exists() else "No file was written."
        print(f"Heads were not saved to {file}: see the findings above. {kept}")


def _check_record(given: argparse.Namespace, witnessed: Sequence[Head]) -> Checked:
    """The export or the database, against these heads."""
    from im_attr_audit.record.checks.verify import check_database, check_export

    if given.export:
        return check_export(given.export, witnessed)
    try:
        engine = shared.auditing_engine() if given.checkpoints else shared.reader_engine()
    except CannotDo as refused:
        raise CannotDo(f"{refused} To check an export, use --export.") from None
    try:
        return check_database(engine, witnessed)
    finally:
        engine.dispose()


def _print_checked(checked: Checked, where: str) -> None:
    changes, apps = counted(checked.rows, "change"), counted(len(checked.heads), "app")
    print(f"{where}: {changes} of {apps} checked")
    if checked.reviews:
        print(f"{where}: {counted(checked.reviews, 'review')} checked")
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
            print(f"{len(found)} {_called(category, len(found))}")
    for category, found in by_category.items():
        for finding in sorted(found, key=_place)[:SHOWN]:
            print(f"NOT AS RECORDED  {finding}")
        if len(found) > SHOWN:
            rest = len(found) - SHOWN
            print(f"NOT AS RECORDED  {rest} more {_called(category, rest)}")


def _called(category: str, number: int) -> str:
    one, several = CATEGORIES[category]
    return one if number == 1 else several


def _asset_heads() -> tuple[Head, ...]:
    from im_attr_audit.commands.asset_events import read_witnessed_heads

    witnessed = read_witnessed_heads()
    if not witnessed.events:
        print(
            "asset events: none. Nothing in Airflow witnesses the chains (`airflow db clean` "
            "removes the events); compare with a file of --save-heads."
        )
    else:
        print(
            f"asset events: {counted(len(witnessed.heads), 'head')} in "
            f"{counted(witnessed.events, 'event')} since "
            f"{time_text(witnessed.since)} (`airflow db clean` removes older ones)"
        )
    return witnessed.heads


def _print_unwitnessed(checked: Checked, witnessed: Sequence[Head]) -> None:
    newest: Counter[AppKey] = Counter()
    for head in witnessed:
        app = AppKey(head.region, head.sdk_app_id)
        newest[app] = max(newest[app], head.seq)
    heads = [(AppKey(head.region, head.sdk_app_id), head.seq) for head in checked.heads]
    waiting = [(app, seq) for app, seq in heads if seq > newest[app]]
    for app, seq in waiting[:SHOWN]:
        print(f"not yet witnessed: {app.address} seq {newest[app] + 1} to {seq}")
    if len(waiting) > SHOWN:
        print(f"not yet witnessed: the newest rows of {len(waiting) - SHOWN} more apps")


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.region, finding.sdk_app_id, finding.seq or 0
