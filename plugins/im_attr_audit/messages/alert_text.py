"""The text of an alert's message: title and body, inert, in so many bytes.

A message is plain text in which every foreign word is inert (:func:`inert_word`), and short enough
for the messenger it goes to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from im_attr_audit.apps import AppKey
from im_attr_audit.messages.inert import endangered, inert_word, listed, page_address, plain_word
from im_attr_audit.messages.report import change_text
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record.notifications import Alert
from im_attr_audit.settings import DAG_ID, REVIEW_DAG_ID, REVIEW_WITHIN
from im_attr_audit.tencent.codes import explain
from im_attr_audit.text_format import counted, time_text

#: Bytes of one message, title included; less where the messenger takes less (WeCom: 2,048).
MOST_BYTES = 3500
#: Bytes of a link.
MOST_OF_A_LINK = 300

_VIOLATIONS = ("violation", "violation_over")

_STALE = "Changes of names there are not detected until a poll succeeds."
_UNREVIEWED = (
    f"They have waited for a review longer than {REVIEW_WITHIN.name} allows. Answer in Airflow "
    f"under Required Actions of the DAG {REVIEW_DAG_ID}."
)
_VIOLATION = (
    "Restore the declared name at the vendor, or change the declaration: im-attr-audit declare "
    "shows in advance which violations that would end."
)
_OVER = "No action is needed."
_BACK = "Changes made in the meantime are reported separately, with these bounds."


def compose(
    alerts: Sequence[Alert],
    *,
    limit: int = MOST_BYTES,
    base_url: str = "",
    runbooks_url: str = "",
) -> tuple[str, str]:
    """Title and body of the message of these alerts of one kind, in at most ``limit`` bytes.

    What does not fit is counted. ``base_url`` is that of Airflow's API server; without it there
    are no links to it, and without ``runbooks_url`` the runbook's section is named.
    """
    title, line, ending = _FORMS[alerts[0].kind]
    title_text = title(alerts)
    closing = f"{ending(alerts)}\n{_runbook(alerts[0].kind, runbooks_url)}"
    run = f"{base_url}/dags/{DAG_ID}/runs/{quote(alerts[0].dag_run_id or '', safe='')}"
    end = f"{closing}\n{_link('Run', run)}".rstrip() if base_url else closing
    left = limit - _size(title_text) - _size(end) - 80  # a line of how many are left out, and gaps
    lines: list[str] = []
    for alert in alerts:
        text = line(alert)
        if base_url:
            app = AppKey(alert.region, alert.sdk_app_id)
            slot = alert.slot if alert.kind in _VIOLATIONS else None
            page = page_address(base_url, app, alert.seq, slot)
            text = f"{text}\n{_link('Page', page)}".rstrip()
        left -= _size(text) + 2
        if left < 0 and lines:
            break
        lines.append(text)
    if rest := len(alerts) - len(lines):
        lines.append(f"… and {rest} more: see the run's report.")
    return title_text, "\n\n".join([*lines, end])


def _runbook(kind: str, url: str) -> str:
    # Not as a file name: messengers make a link of "runbooks.md", whose domain is somebody else's.
    named = f'Runbook: "Alert: {kind}" in the runbooks of im-attr-audit'
    return (_link("Runbook", f"{url}#alert-{kind}") if url else "") or named


def _link(label: str, url: str) -> str:
    """A line with a link; none where a name of the operator's own makes it too long."""
    return f"{label}: {url}" if len(url) <= MOST_OF_A_LINK else ""


def _change_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'change')} in {_regions(alerts)}"


def _change_line(alert: Alert) -> str:
    what = change_text(alert.change or "", alert.old, alert.new, inert_word)
    between = f"between {time_text(alert.not_before)} and {time_text(alert.seen_at)}"
    return f"{_app(alert)}, slot {alert.slot}: {what}, {between}"


def _change_end(alerts: Sequence[Alert]) -> str:
    old = [a.old.name for a in alerts if a.old and (a.new is None or a.new.name != a.old.name)]
    return endangered(old)


def _unreviewed_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'unreviewed change')} in {_regions(alerts)}"


def _stale_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'app')} stale in {_regions(alerts)}"


def _stale_line(alert: Alert) -> str:
    since = f"last good poll {time_text(alert.gap_from)}"
    if not alert.ever_seen:
        since = f"no good poll since the first poll {time_text(alert.gap_from)}"
    line = f"{_app(alert)} (connection {plain_word(alert.conn_id)}): {since}"
    if alert.outcome is None:
        return f"{line}. Not polled since: check that the DAG runs."
    code = alert.error_code
    result = alert.outcome if code is None else f"{alert.outcome} {code}. {explain(code)}"
    return f"{line}. Newest poll: {result.rstrip('.')}. {OUTCOMES[alert.outcome].advice}"


def _back_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'app')} no longer stale in {_regions(alerts)}"


def _back_line(alert: Alert) -> str:
    return (
        f"{_app(alert)}: no good poll between {time_text(alert.gap_from)} and "
        f"{time_text(alert.gap_to)}"
    )


def _violation_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'violation')} in {_regions(alerts)}"


def _violation_line(alert: Alert) -> str:
    actual = "no name" if alert.actual_name is None else inert_word(alert.actual_name)
    declared = "to be unused" if alert.declared_name is None else inert_word(alert.declared_name)
    return (
        f"{_app(alert)}, slot {alert.slot}: {actual}, declared {declared}, "
        f"since {time_text(alert.gap_from)}"
    )


def _over_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {counted(len(alerts), 'violation')} over in {_regions(alerts)}"


def _over_line(alert: Alert) -> str:
    word = "no name" if alert.actual_name is None else inert_word(alert.actual_name)
    now = f"{word}, {alert.violation}" if alert.violation else "in violation again"
    period = f"from {time_text(alert.gap_from)} to {time_text(alert.gap_to)}"
    return f"{_app(alert)}, slot {alert.slot}: {now}. It was a violation {period}"


def _over_end(alerts: Sequence[Alert]) -> str:
    again = any(alert.violation is None for alert in alerts)
    return "A slot that is in violation again has an alert of its own." if again else _OVER


_Form = tuple[
    Callable[[Sequence[Alert]], str], Callable[[Alert], str], Callable[[Sequence[Alert]], str]
]
_FORMS: Mapping[str, _Form] = {
    "change": (_change_title, _change_line, _change_end),
    "unreviewed": (_unreviewed_title, _change_line, lambda alerts: _UNREVIEWED),
    "stale": (_stale_title, _stale_line, lambda alerts: _STALE),
    "violation": (_violation_title, _violation_line, lambda alerts: _VIOLATION),
    "violation_over": (_over_title, _over_line, _over_end),
    "back": (_back_title, _back_line, lambda alerts: _BACK),
}
#: The kinds of alerts. Each has a section in docs/runbooks.md.
KINDS = tuple(_FORMS)


def _regions(alerts: Sequence[Alert]) -> str:
    return listed(sorted({plain_word(alert.region) for alert in alerts}), 80)


def _app(alert: Alert) -> str:
    return f"Group {plain_word(alert.app_group)}, app {plain_word(alert.region)}/{alert.sdk_app_id}"


def _size(text: str) -> int:
    return len(text.encode())
