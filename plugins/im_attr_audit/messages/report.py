"""What one run recorded, as text that a person reads. Pure: values in, text out.

Everything the vendor sent is shown inertly: a name is quoted, and what does not print is escaped.
The text of a run does not grow with the number of its apps: beyond `MOST_APPS` it has counts.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from im_attr_audit.apps import AppKey
from im_attr_audit.names import AttrName
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record.runs import Run, RunChange, RunPoll
from im_attr_audit.tencent.codes import explain
from im_attr_audit.text_format import counted, time_text

#: Apps that a run's text lists one by one; of more it has counts.
MOST_APPS = 100
#: Connections listed for a cause of failure, causes and changes listed; the rest is counted.
MOST_OF_A_CAUSE = 20
MOST_CAUSES = 20
MOST_CHANGES = 500


class Failure(Protocol):
    """A poll that failed, of this run or of this task."""

    @property
    def conn_id(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def error_code(self) -> int | None: ...
    @property
    def error_info(self) -> str | None: ...


class Cause(NamedTuple):
    """What failures have in common: the outcome and the vendor's code, or else our own reason."""

    outcome: str
    error_code: int | None
    reason: str

    def __str__(self) -> str:
        code = "" if self.error_code is None else f" {self.error_code}"
        return f"{self.outcome}{code}: {self.reason}"

    @property
    def advice(self) -> list[str]:
        """What the code means, where there is one, and what to do."""
        code = self.error_code
        meaning = [] if code is None else [f"{code}: {explain(code)}"]
        return [*meaning, OUTCOMES[self.outcome].advice]


def render(run: Run, unpolled: Sequence[str] = ()) -> str:
    """The run as aligned lines: its apps and their names (or counts), changes, failures.

    ``unpolled``: planned connections without a poll, whose task ended before it recorded them.
    """
    failed = [poll for poll in run.polls if poll.failed]
    recorded = sum(poll.recorded for poll in run.polls)
    count = f"{recorded} of {len(run.polls) + len(unpolled)} targets recorded"
    if not run.polls:
        count = "nothing was polled; the logs of its tasks in Airflow show why"
    lines = [f"Run {run.dag_run_id}: {count}", ""]
    many = len(run.polls) > MOST_APPS
    if run.polls:
        lines += _counts(run.polls) if many else _apps(run.polls)
        lines.append("")
    changes = [c for c in run.changes if c.kind != "baseline"]
    if baselines := len(run.changes) - len(changes):
        lines += [f"Baseline: {baselines} names seen for the first time.", ""]
    if changes:
        lines += ["Changes:"]
        lines += _table(
            ("REGION", "APP", "SLOT", "CHANGE", "BETWEEN"),
            [_change(change) for change in changes[:MOST_CHANGES]],
        )
        if len(changes) > MOST_CHANGES:
            lines += [f"  … and {len(changes) - MOST_CHANGES} more: see this run on the page."]
    elif failed or (unpolled and run.polls):
        lines += [
            f"Changes: none in the {_polls(recorded)}. The names of the failed apps are unknown."
        ]
    elif recorded < len(run.polls):
        lines += [
            f"Changes: none in the {_polls(recorded)}. Late polls are superseded by newer ones."
        ]
    elif run.polls:
        lines += ["Changes: none."]
    if failed or unpolled:
        lines += ["", "Failed:"]
    if failed:
        lines += _failures_by_cause(failed) if many else _failures(failed)
    if unpolled:
        lines.append(f"  not polled; the log of their sync task shows why: {few(unpolled)}")
    return "\n".join(lines)


def by_cause(failures: Iterable[Failure]) -> Iterator[tuple[Cause, list[Failure]]]:
    """Failures with the same cause together, the most frequent cause first."""
    found: dict[tuple[str, int | None, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        reason = one_line(failure.error_info or "no reason given")
        # Two connections with the same mistake have one cause, although each is named in its text.
        common = reason.replace(failure.conn_id, "…") if failure.error_code is None else ""
        found[failure.outcome, failure.error_code, common].append(failure)
    for (outcome, code, common), group in sorted(
        found.items(), key=lambda item: (-len(item[1]), str(item[0]))
    ):
        reason = one_line(group[0].error_info or "no reason given")
        yield Cause(outcome, code, common if len(group) > 1 and common else reason), group


def few(words: Sequence[str], most: int = MOST_OF_A_CAUSE) -> str:
    """The words with semicolons between them, and how many are left out."""
    rest = [f"and {len(words) - most} more"] if len(words) > most else []
    return "; ".join([*words[:most], *rest])


def change_text(
    kind: str,
    old: AttrName | None,
    new: AttrName | None,
    quote: Callable[[str], str] | None = None,
) -> str:
    """What happened to a slot, such as ``renamed "city" → "town"``: for the report and alerts.

    ``quote`` makes a name inert where it is shown; `quoted` if not given.
    """
    quote = quote or quoted
    if old is None:
        return f"added {named(new, quote)}"
    if new is None:
        return f"removed {named(old, quote)}"
    return f"{kind} {named(old, quote)} → {named(new, quote)}"


def named(name: AttrName | None, quote: Callable[[str], str]) -> str:
    """A name, and its type where it is known."""
    if name is None:
        return "(none)"
    return quote(name.name) if name.type is None else f"{quote(name.name)} (type {name.type})"


def quoted(name: str) -> str:
    """A name in double quotes, with everything that does not print escaped."""
    return one_line(json.dumps(name, ensure_ascii=False))


def one_line(text: str) -> str:
    """The text with everything that does not print escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _apps(polls: Sequence[RunPoll]) -> list[str]:
    return _table(
        ("REGION", "APP", "OUTCOME", "NAMES"),
        [(p.region or "-", str(p.sdk_app_id or p.conn_id), p.outcome, _names(p)) for p in polls],
    )


def _counts(polls: Sequence[RunPoll]) -> list[str]:
    counted = Counter((poll.region or "-", poll.outcome) for poll in polls)
    return _table(
        ("REGION", "OUTCOME", "APPS"),
        [(region, outcome, str(n)) for (region, outcome), n in sorted(counted.items())],
    )


def _polls(recorded: int) -> str:
    return counted(recorded, "recorded poll")


def _names(poll: RunPoll) -> str:
    if not poll.names:
        return "(none)" if poll.last_ok_at else "(never had a good poll)"
    names = "  ".join(f"{slot} {named(name, quoted)}" for slot, name in sorted(poll.names.items()))
    if poll.failed:
        return f"as of {time_text(poll.last_ok_at)}: {names}"
    return names


def _change(change: RunChange) -> tuple[str, str, str, str, str]:
    what = change_text(change.kind, change.old, change.new)
    between = f"{time_text(change.not_before)} and {time_text(change.seen_at)}"
    return change.region, str(change.sdk_app_id), str(change.slot), what, between


def _failures(failed: Iterable[RunPoll]) -> Iterator[str]:
    for poll in failed:
        reason = one_line(poll.error_info or "")
        who = f"connection {poll.conn_id}"
        if poll.region is not None and poll.sdk_app_id is not None:
            who = f"{AppKey(poll.region, poll.sdk_app_id).address} ({who})"
        yield f"  {who}: {poll.outcome}: {reason}"
        cause = Cause(poll.outcome, poll.error_code, reason)
        yield from (f"      {line}" for line in cause.advice)


def _failures_by_cause(failed: Iterable[RunPoll]) -> Iterator[str]:
    causes = list(by_cause(failed))
    for cause, group in causes[:MOST_CAUSES]:
        yield f"  {len(group)} of {cause}"
        yield from (f"      {line}" for line in cause.advice)
        yield f"      Connections: {few([failure.conn_id for failure in group])}"
    if rest := causes[MOST_CAUSES:]:
        yield f"  {sum(len(group) for _, group in rest)} more, of {len(rest)} other causes"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
