"""The table of a run that a person reads. Pure: a `Run` in, text out.

Everything the vendor sent is shown inertly: a name is quoted, and what does not print is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from im_attr_audit.names import AttrName
from im_attr_audit.record.runs import Run, RunChange, RunPoll
from im_attr_audit.tencent.codes import explain

_WHAT_TO_DO = {
    "unstable": "Nothing is recorded until reads agree; the next run asks again.",
    "unavailable": "Nothing is recorded; the next run asks again. If it lasts: check the network "
    "path to the region's host, and the vendor's status page.",
    "invalid": "Nothing is recorded. The answer is kept in attr_audit.poll; check that host and "
    "port are the vendor's, or tell us of a new form of answer.",
    "rejected": "Nothing is recorded. Mend the connection, then clear the sync task.",
    "misconfigured": "Nothing was sent. Mend the connection, then clear the sync task.",
}


def render(run: Run) -> str:
    """The run as a few aligned lines: every app with its names, every change, every failure."""
    failed = [poll for poll in run.polls if poll.failed]
    recorded = sum(poll.recorded for poll in run.polls)
    count = f"{recorded} of {len(run.polls)} targets recorded"
    if not run.polls:
        count = "nothing was polled"
    lines = [f"Run {run.dag_run_id}: {count}", ""]
    if run.polls:
        lines += _table(
            ("REGION", "APP", "OUTCOME", "NAMES"),
            [(p.region or "?", str(p.sdk_app_id or "?"), p.outcome, _names(p)) for p in run.polls],
        )
        lines.append("")
    changes = [c for c in run.changes if c.kind != "baseline"]
    if baselines := len(run.changes) - len(changes):
        lines += [f"Baseline: {baselines} names seen for the first time.", ""]
    if changes:
        lines += ["Changes:"]
        lines += _table(("REGION", "APP", "SLOT", "CHANGE", "BETWEEN"), list(map(_change, changes)))
    elif failed:
        lines += [f"Changes: none in the {recorded} recorded; what failed was not seen."]
    elif recorded < len(run.polls):
        lines += [f"Changes: none in the {recorded} recorded; the late are recorded by later runs."]
    elif run.polls:
        lines += ["Changes: none."]
    if failed:
        lines += ["", "Failed:"]
        for poll in failed:
            lines += [f"  {line}" for line in _failure(poll)]
    return "\n".join(lines)


def quoted(name: str) -> str:
    """A name in double quotes, with everything that does not print escaped."""
    text = json.dumps(name, ensure_ascii=False)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _names(poll: RunPoll) -> str:
    if not poll.names:
        return "(none)" if poll.last_ok_at else "(never seen)"
    names = "  ".join(f"{slot} {_named(name)}" for slot, name in sorted(poll.names.items()))
    if poll.failed:
        return f"as of {_time(poll.last_ok_at)}: {names}"
    return names


def _named(name: AttrName | None) -> str:
    if name is None:
        return "(none)"
    return quoted(name.name) if name.type is None else f"{quoted(name.name)} (type {name.type})"


def _change(change: RunChange) -> tuple[str, str, str, str, str]:
    if change.old is None:
        what = f"added {_named(change.new)}"
    elif change.new is None:
        what = f"removed {_named(change.old)}"
    else:
        what = f"{change.kind} {_named(change.old)} → {_named(change.new)}"
    between = f"{_time(change.not_before)} and {_time(change.seen_at)}"
    return change.region, str(change.sdk_app_id), str(change.slot), what, between


def _failure(poll: RunPoll) -> list[str]:
    app = f"{poll.region or '?'}/{poll.sdk_app_id or '?'}"
    head = f"{app} (connection {poll.conn_id}): {poll.outcome}: {_one_line(poll.error_info or '')}"
    advice = _WHAT_TO_DO[poll.outcome]
    if poll.error_code is not None:
        return [head, f"    {poll.error_code}: {explain(poll.error_code)}", f"    {advice}"]
    return [head, f"    {advice}"]


def _one_line(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z" if at else "?"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
