"""Sending alerts through Apprise, each to every destination of the connection.

Errors of a messenger are not raised: they are a warning in the log, and the message waits for that
destination. Apprise is imported only when something is to be sent and the connection exists; its
own log is muted, because it shows addresses, and those hold tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf

from im_attr_audit.errors import AttrAuditError, SecretsUnavailable
from im_attr_audit.frames import without_frames
from im_attr_audit.lookup import Backends, find_connection
from im_attr_audit.messages.alert_text import KINDS as KINDS
from im_attr_audit.messages.alert_text import MOST_BYTES
from im_attr_audit.messages.alert_text import compose as compose
from im_attr_audit.record.notifications import Alert, Delivery, deliver, read_waiting
from im_attr_audit.settings import NOTIFY as CONN_ID
from im_attr_audit.settings import BadSetting, runbooks_url

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

#: What one report sends to a destination at most; the rest is the next one's. Messengers limit
#: messages a minute.
MOST_MESSAGES = 20
#: Seconds for the destinations to take one message; an answer may trickle for ever.
DEADLINE = 30.0
#: Seconds after which one report begins no further message.
BUDGET = 120.0

#: Kinds of alerts that report an end.
_GOOD = ("back", "violation_over")

_MUTED = ("apprise", "urllib3", "urllib3.connectionpool", "requests")

_TEST = f"This is a test of the connection {CONN_ID}. No action is needed."


def send_waiting(engine: Engine) -> None:
    """Send what waits, each message once; what cannot be sent now waits for the next run.

    What waits for one destination does not delay another one's. Raises database errors only.
    """
    if not read_waiting(engine, most=1):
        return
    with muted() as keep_muted:
        messenger = _messenger(keep_muted)
        if messenger is None:
            return
        begun = time.monotonic()
        unsent = 0
        keys = messenger.keys
        for message in read_waiting(engine, most=MOST_MESSAGES, destinations=keys):
            over = not messenger.can_send(message.sent_to) or time.monotonic() - begun > BUDGET
            unsent += over or not deliver(engine, message, messenger.send)
    if unsent:
        log.warning("%d message(s) wait for the next run.", unsent)


class CannotSend(AttrAuditError):
    """The connection exists, and nothing can be sent with it; the text says why."""


class Messenger:
    """The destinations of the connection, for one report. One that fails is left alone after that.

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
        runbooks_url: str = "",
    ) -> None:
        self._apprise = apprise
        self._links = {"base_url": base_url, "runbooks_url": runbooks_url}
        self._deadline = deadline
        self._keep_muted = keep_muted
        self._destinations: dict[str, Any] = {}
        for destination in destinations:
            key = base = _key(destination)
            number = 1
            while key in self._destinations:
                number += 1
                key = f"{base}-{number}"
            self._destinations[key] = destination

        #: How many messages each may still be sent.
        self._left = dict.fromkeys(self._destinations, MOST_MESSAGES)

    @property
    def keys(self) -> frozenset[str]:
        """What identifies the destinations in ``sent_to``."""
        return frozenset(self._destinations)

    def can_send(self, sent_to: frozenset[str]) -> bool:
        """Whether a destination that has not got the message can be tried, or all have got it."""
        lacking = self.keys - sent_to
        return not lacking or any(self._left[key] for key in lacking)

    def send(self, alerts: Sequence[Alert], sent_to: frozenset[str]) -> Delivery:
        """Send one message to every destination that has not got it."""
        tried = [
            (place, key, destination)
            for place, (key, destination) in enumerate(self._destinations.items(), 1)
            if key not in sent_to and self._left[key]
        ]
        messages = []
        for _, _, destination in tried:
            limit = min(MOST_BYTES, destination.body_maxlen or MOST_BYTES)
            message = compose(alerts, limit=limit, **self._links)
            messages.append((destination, *message))
        notify_type = "info" if alerts[0].kind in _GOOD else "warning"
        outcomes = self._send_each(messages, notify_type)
        for (place, key, destination), why_not in zip(tried, outcomes, strict=True):
            if why_not is None:
                sent_to |= {key}
                self._left[key] -= 1
            else:
                self._left[key] = 0
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
        base_url = self._links["base_url"]
        body = f"{_TEST}\nPage: {base_url}/im-attr-audit/" if base_url else _TEST
        destinations = self._destinations.values()
        messages = [(each, "Attribute names: test alert", body) for each in destinations]
        for each, why_not in zip(destinations, self._send_each(messages, "info"), strict=True):
            yield each.service_name, why_not

    def _send_each(
        self, messages: Sequence[tuple[Any, str, str]], notify_type: str
    ) -> list[str | None]:
        """For each destination with its title and body: None, or why it did not take them.

        They are sent at the same time, so that several dead destinations take as long as one.
        """
        outcomes: list[list[str | None]] = [[] for _ in messages]
        threads = []
        for message, outcome in zip(messages, outcomes, strict=True):
            thread = threading.Thread(
                target=self._send_one,
                args=(*message, notify_type, outcome),
                name="im-attr-audit-notify",
                daemon=True,
            )
            thread.start()
            threads.append(thread)
        until = time.monotonic() + self._deadline
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        why_not = []
        for outcome in outcomes:
            if not outcome:
                self._keep_muted()
            late = f"it did not answer within {self._deadline:g} s"
            why_not.append(outcome[0] if outcome else late)
        return why_not

    def _send_one(
        self, destination: Any, title: str, body: str, notify_type: str, outcome: list[str | None]
    ) -> None:
        """Add what came of it, in words of our own, for it knows secrets."""
        try:
            sender = self._apprise.Apprise(asset=destination.asset)
            sender.add(destination)
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
    return Messenger(
        destinations,
        apprise=apprise,
        keep_muted=mute,
        base_url=base_url,
        runbooks_url=_runbooks_url(),
    )


def _runbooks_url() -> str:
    """An alert without a link is better than none."""
    try:
        return runbooks_url() or ""
    except BadSetting as error:
        log.warning("Alerts do not link to the runbooks. %s", error)
        return ""


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
