"""Alerts as messages: their text, and sending them through Apprise.

A message is plain text in which every foreign word is inert (:func:`inert_word`), and short enough
for the messenger it goes to. Errors of a messenger are not raised: they are a warning in the log,
and the message waits. Apprise is imported only when something is to be sent and the connection
exists; its own log is muted, because it shows addresses, and those hold tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk.configuration import conf

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError, SecretsUnavailable
from im_attr_audit.frames import without_frames
from im_attr_audit.lookup import Backends, find_connection
from im_attr_audit.messages.inert import endangered, inert_word, listed, page_address, plain_word
from im_attr_audit.messages.report import change_text, time_text
from im_attr_audit.outcomes import OUTCOMES
from im_attr_audit.record.notifications import Alert, Delivery, deliver, read_waiting
from im_attr_audit.settings import DAG_ID, REVIEW_DAG_ID, REVIEW_WITHIN, BadSetting
from im_attr_audit.settings import NOTIFY as CONN_ID
from im_attr_audit.tencent.codes import explain

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

#: What one report sends at most; the rest is the next one's. Messengers limit messages a minute.
MOST_MESSAGES = 20
#: Seconds for one destination to take one message; its answer may trickle for ever.
DEADLINE = 30.0
#: Seconds after which one report begins no further message.
BUDGET = 120.0
#: Bytes of one message, title included; less where the messenger takes less (WeCom: 2,048).
MOST_BYTES = 3500
#: Bytes of a link.
MOST_OF_A_LINK = 300

_VIOLATIONS = ("violation", "violation_over")
#: Kinds of alerts that report an end.
_GOOD = ("back", "violation_over")

_MUTED = ("apprise", "urllib3", "urllib3.connectionpool", "requests")

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
_TEST = f"This is a test of the connection {CONN_ID}. No action is needed."
_BACK = "Changes made in the meantime are reported separately, with these bounds."


def send_waiting(engine: Engine) -> None:
    """Send what waits, each message once; what cannot be sent now waits for the next run.

    Raises database errors only.
    """
    waiting = read_waiting(engine, most=MOST_MESSAGES)
    if not waiting:
        return
    with muted() as keep_muted:
        messenger = _messenger(keep_muted)
        if messenger is None:
            return
        begun = time.monotonic()
        unsent = 0
        for message in waiting:
            over = messenger.is_down or time.monotonic() - begun > BUDGET
            unsent += over or not deliver(engine, message, messenger.send)
    if unsent:
        log.warning("%d message(s) wait for the next run.", unsent)


class CannotSend(AttrAuditError):
    """The connection exists, and nothing can be sent with it; the text says why."""


class Messenger:
    """The destinations of the connection. One that fails is left alone until the next report.

    ``keep_muted`` is called where a destination still runs after its deadline.
    """

    def __init__(
        self,
        destinations: Iterable[Any],
        *,
        apprise: Any,
        deadline: float = DEADLINE,
        keep_muted: Callable[[], None] = lambda: None,
        base_url: str = "",
    ) -> None:
        self._apprise = apprise
        self._base_url = base_url
        self._deadline = deadline
        self._keep_muted = keep_muted
        self._destinations: dict[str, Any] = {}
        self._failed: set[str] = set()
        for destination in destinations:
            key = base = _key(destination)
            number = 1
            while key in self._destinations:
                number += 1
                key = f"{base}-{number}"
            self._destinations[key] = destination

    @property
    def is_down(self) -> bool:
        """Whether no destination is left to try."""
        return self._failed.issuperset(self._destinations)

    def send(self, alerts: Sequence[Alert], sent_to: frozenset[str]) -> Delivery:
        """Send one message to every destination that has not got it."""
        for place, (key, destination) in enumerate(self._destinations.items(), 1):
            if key in sent_to or key in self._failed:
                continue
            limit = min(MOST_BYTES, destination.body_maxlen or MOST_BYTES)
            message = compose(alerts, limit=limit, base_url=self._base_url)
            notify_type = "info" if alerts[0].kind in _GOOD else "warning"
            why_not = self._send_one(destination, *message, notify_type)
            if why_not is None:
                sent_to |= {key}
            else:
                self._failed.add(key)
                log.warning(
                    "Destination %d of %d of the connection %s (%s) did not accept a message: %s. "
                    "It waits for the next run.",
                    place,
                    len(self._destinations),
                    CONN_ID,
                    destination.service_name,
                    why_not,
                )
        return Delivery(sent_to, sent_to.issuperset(self._destinations))

    def send_test(self) -> Iterator[tuple[str, str | None]]:
        """Send every destination one test alert: its service, and None or why it was not taken."""
        body = f"{_TEST}\nPage: {self._base_url}/im-attr-audit/" if self._base_url else _TEST
        for destination in self._destinations.values():
            why_not = self._send_one(destination, "Attribute names: test alert", body, "info")
            yield destination.service_name, why_not

    def _send_one(self, destination: Any, title: str, body: str, notify_type: str) -> str | None:
        """None, or why it did not take the message; in words of our own, for it knows secrets."""
        sender = self._apprise.Apprise(asset=destination.asset)
        sender.add(destination)
        outcome: list[str | None] = []

        def send() -> None:
            try:
                taken = sender.notify(
                    body=body,
                    title=title,
                    notify_type=notify_type,
                    body_format=self._apprise.NotifyFormat.TEXT,
                    # Escapes in a message are there to stay escapes.
                    interpret_escapes=False,
                )
                outcome.append(None if taken else "it could not be reached, or refused")
            except Exception as error:
                outcome.append(f"Apprise failed with {type(error).__name__}")

        thread = threading.Thread(target=send, name="im-attr-audit-notify", daemon=True)
        thread.start()
        thread.join(self._deadline)
        if not outcome:
            self._keep_muted()
            return f"it did not answer within {self._deadline:g} s"
        return outcome[0]


def compose(
    alerts: Sequence[Alert], *, limit: int = MOST_BYTES, base_url: str = ""
) -> tuple[str, str]:
    """Title and body of the message of these alerts of one kind, in at most ``limit`` bytes.

    What does not fit is counted. ``base_url`` is that of Airflow's API server; without it there
    are no links.
    """
    title, line, ending = _FORMS[alerts[0].kind]
    title_text = title(alerts)
    closing = f"{ending(alerts)}\n{_runbook(alerts[0].kind)}"
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


def _runbook(kind: str) -> str:
    # Not as a file name: messengers make a link of "runbooks.md", whose domain is somebody else's.
    return f'Runbook: "Alert: {kind}" in the runbooks of im-attr-audit'


def _link(label: str, url: str) -> str:
    """A line with a link; none where a name of the operator's own makes it too long."""
    return f"{label}: {url}" if len(url) <= MOST_OF_A_LINK else ""


def _change_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {_count(alerts, 'change')} in {_regions(alerts)}"


def _change_line(alert: Alert) -> str:
    what = change_text(alert.change or "", alert.old, alert.new, inert_word)
    between = f"between {time_text(alert.not_before)} and {time_text(alert.seen_at)}"
    return f"{_app(alert)}, slot {alert.slot}: {what}, {between}"


def _change_end(alerts: Sequence[Alert]) -> str:
    old = [a.old.name for a in alerts if a.old and (a.new is None or a.new.name != a.old.name)]
    return endangered(old)


def _unreviewed_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {_count(alerts, 'unreviewed change')} in {_regions(alerts)}"


def _stale_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {_count(alerts, 'app')} stale in {_regions(alerts)}"


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
    return f"Attribute names: {_count(alerts, 'app')} no longer stale in {_regions(alerts)}"


def _back_line(alert: Alert) -> str:
    return (
        f"{_app(alert)}: no good poll between {time_text(alert.gap_from)} and "
        f"{time_text(alert.gap_to)}"
    )


def _violation_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {_count(alerts, 'violation')} in {_regions(alerts)}"


def _violation_line(alert: Alert) -> str:
    actual = "no name" if alert.actual_name is None else inert_word(alert.actual_name)
    declared = "to be unused" if alert.declared_name is None else inert_word(alert.declared_name)
    return (
        f"{_app(alert)}, slot {alert.slot}: {actual}, declared {declared}, "
        f"since {time_text(alert.gap_from)}"
    )


def _over_title(alerts: Sequence[Alert]) -> str:
    return f"Attribute names: {_count(alerts, 'violation')} over in {_regions(alerts)}"


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


def _count(alerts: Sequence[Alert], what: str) -> str:
    return f"{len(alerts)} {what}{'s' if len(alerts) > 1 else ''}"


def _regions(alerts: Sequence[Alert]) -> str:
    return listed(sorted({plain_word(alert.region) for alert in alerts}), 80)


def _app(alert: Alert) -> str:
    return f"Group {plain_word(alert.app_group)}, app {plain_word(alert.region)}/{alert.sdk_app_id}"


def _size(text: str) -> int:
    return len(text.encode())


@without_frames
def open_messenger(mute: Callable[[], None], backends: Backends | None = None) -> Messenger | None:
    """What the connection describes; None where it does not exist. Raises CannotSend."""
    try:
        connection = find_connection(CONN_ID, backends)
    except (SecretsUnavailable, BadSetting) as error:
        raise CannotSend(str(error)) from None
    if connection is None:
        return None
    try:
        import apprise
        from airflow.providers.apprise.hooks.apprise import AppriseHook
    except ImportError:
        raise CannotSend("Apprise is missing: install im-attr-audit[notify]") from None
    # Not in threads of Apprise's own: the process would wait for them at its end.
    gathered = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    try:
        AppriseHook(apprise_conn_id=CONN_ID).set_config_from_conn(connection, gathered)
        destinations = list(gathered.find())
    except Exception as error:
        why = f"has no config that Apprise can read ({type(error).__name__})"
        raise CannotSend(f"the connection {CONN_ID} {why}") from None
    if not destinations:
        raise CannotSend(f"the connection {CONN_ID} holds no address that Apprise knows")
    base_url = (conf.get("api", "base_url", fallback=None) or "").rstrip("/")
    return Messenger(destinations, apprise=apprise, keep_muted=mute, base_url=base_url)


@without_frames
def _messenger(keep_muted: Callable[[], None]) -> Messenger | None:
    """As `open_messenger`; what cannot be sent is a line in the log."""
    try:
        messenger = open_messenger(keep_muted)
    except CannotSend as error:
        log.warning("Alerts not sent: %s. They wait for the next run.", error)
        return None
    if messenger is None:  # No alerts are wanted: nothing to report in every run's log.
        log.debug("Alerts not sent: connection %s does not exist.", CONN_ID)
    return messenger


def _key(destination: Any) -> str:
    """What identifies a destination in ``sent_to``: a digest of its address without tokens.

    Apprise itself masks the tokens, so that nothing can be guessed from the digest.
    """
    address = str(destination.url(privacy=True))
    return hashlib.sha256(address.encode()).hexdigest()[:12]


@contextlib.contextmanager
def muted() -> Iterator[Callable[[], None]]:
    """Mute the libraries that log addresses; calling what is given leaves them so for good."""
    loggers = [logging.getLogger(name) for name in _MUTED]
    levels = [logger.level for logger in loggers]
    for_good = threading.Event()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield for_good.set
    finally:
        if not for_good.is_set():
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
