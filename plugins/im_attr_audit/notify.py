"""The messages: what they say, and sending them through Apprise.

A message is plain text in which every foreign word is inert (:func:`inert_word`), and short enough
for the messenger it goes to. Nothing that goes wrong here is raised: a messenger that is down is a
warning in the log, and the message waits. Apprise is imported only when something is to be sent
and the connection exists; its own log is muted, for it shows addresses, and those hold tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from im_attr_audit.errors import SecretsUnavailable
from im_attr_audit.lookup import find_connection
from im_attr_audit.names import AttrName
from im_attr_audit.record.notifications import Delivery, Fact, deliver, read_waiting
from im_attr_audit.report import quoted
from im_attr_audit.settings import BadSetting
from im_attr_audit.tencent.redact import clip

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

CONN_ID = "im_attr_audit_notify"

#: What one report sends at most; the rest is the next one's. Messengers limit messages a minute.
MOST_MESSAGES = 20
#: Seconds for one destination to take one message; its answer may trickle for ever.
DEADLINE = 30.0
#: Seconds after which one report begins no further message.
BUDGET = 120.0
#: Bytes of one message, title included; less where the messenger takes less (WeCom: 2,048).
MOST_BYTES = 3500
#: Characters of a name, a group or a region in a message. The record has them whole.
MOST_OF_A_WORD = 56

_MUTED = ("apprise", "urllib3", "urllib3.connectionpool", "requests")

_DANGER = (
    "In danger: push conditions (AttrsAnd, AttrsOr) and whatever sets or reads users' attributes "
    "by the old name{names}. Mend them; do not drop a condition: a push without one goes to "
    "everybody."
)
_UNSEEN = "A change of names there goes unnoticed meanwhile. The run's report says what is wrong."
_SEEN = "What changed meanwhile, if anything, is told by itself, with these bounds."


def send_waiting(engine: Engine) -> None:
    """Send what waits, each message once; what cannot be sent now goes on waiting.

    Raises database errors only.
    """
    waiting = read_waiting(engine, most=MOST_MESSAGES)
    if not waiting:
        return
    with _muted() as unmute_never:
        messenger = _messenger(unmute_never)
        if messenger is None:
            return
        begun = time.monotonic()
        unsent = 0
        for message in waiting:
            over = messenger.is_down or time.monotonic() - begun > BUDGET
            unsent += over or not deliver(engine, message, messenger.send)
    if unsent:
        log.warning("%d message(s) wait for the next run.", unsent)


class Messenger:
    """The destinations of the connection. One that fails is left alone until the next report.

    ``unmute_never`` is called where a destination goes on after its deadline.
    """

    def __init__(
        self,
        destinations: Iterable[Any],
        *,
        apprise: Any,
        deadline: float = DEADLINE,
        unmute_never: Callable[[], None] = lambda: None,
    ) -> None:
        self._apprise = apprise
        self._deadline = deadline
        self._unmute_never = unmute_never
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

    def send(self, facts: Sequence[Fact], sent_to: frozenset[str]) -> Delivery:
        """Send one message to every destination that has not got it."""
        for place, (key, destination) in enumerate(self._destinations.items(), 1):
            if key in sent_to or key in self._failed:
                continue
            why_not = self._send_one(destination, facts)
            if why_not is None:
                sent_to |= {key}
            else:
                self._failed.add(key)
                log.warning(
                    "Destination %d of %d of the connection %s (%s) did not take a message: %s. "
                    "It waits for the next run.",
                    place,
                    len(self._destinations),
                    CONN_ID,
                    destination.service_name,
                    why_not,
                )
        return Delivery(sent_to, sent_to.issuperset(self._destinations))

    def _send_one(self, destination: Any, facts: Sequence[Fact]) -> str | None:
        """None, or why it did not take the message; in words of our own, for it knows secrets."""
        limit = min(MOST_BYTES, destination.body_maxlen or MOST_BYTES)
        title, body = compose(facts, limit=limit)
        sender = self._apprise.Apprise(asset=destination.asset)
        sender.add(destination)
        outcome: list[str | None] = []

        def send() -> None:
            try:
                taken = sender.notify(
                    body=body,
                    title=title,
                    notify_type="info" if facts[0].kind == "back" else "warning",
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
            self._unmute_never()
            return f"it did not answer within {self._deadline:g} s"
        return outcome[0]


def compose(facts: Sequence[Fact], *, limit: int = MOST_BYTES) -> tuple[str, str]:
    """Title and body of the message that tells these facts of one kind, in at most ``limit`` bytes.

    What does not fit is counted.
    """
    title, line, ending = _FORMS[facts[0].kind]
    title_text = title(facts)
    end = ending(facts)
    left = limit - _size(title_text) - _size(end) - 80  # a line of how many are left out, and gaps
    told: list[str] = []
    for fact in facts:
        text = line(fact)
        left -= _size(text) + 2
        if left < 0 and told:
            break
        told.append(text)
    if rest := len(facts) - len(told):
        told.append(f"… and {rest} more: see the run's report.")
    return title_text, "\n\n".join([*told, end])


def inert_word(word: str) -> str:
    """A foreign word in double quotes in which nothing acts on a messenger.

    What Markdown, HTML, a messenger's mentions or its links live on is shown as an escape, as in
    JSON; clipped to what a message has room for.
    """
    inner = _LIVE.sub(
        lambda found: "".join(f"\\u{ord(char):04x}" for char in found[0]), quoted(word)[1:-1]
    )
    return f'"{clip(inner, MOST_OF_A_WORD)}"'


# Markup and mentions; then what makes an address of plain words: a dot before a letter, a scheme's
# colon; underscores that could begin or end emphasis; an entity's ampersand.
_LIVE = re.compile(
    r"[<>@*`\[\]~|\uff20\uff1c\uff1e]|\.(?=[^\W\d])|:(?=//)|(?<!\w)_|_(?!\w)|__+|&(?=#?\w{1,32};)"
)


def _plain(word: str) -> str:
    """A region or group: bare where it is a plain word, as nearly always, else inert."""
    return word if re.fullmatch(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*", word) else inert_word(word)


def _change_title(facts: Sequence[Fact]) -> str:
    return f"Attribute names: {_count(facts, 'change')} in {_regions(facts)}"


def _change_line(fact: Fact) -> str:
    if fact.old is None:
        what = f"added {_named(fact.new)}"
    elif fact.new is None:
        what = f"removed {_named(fact.old)}"
    else:
        what = f"{fact.change} {_named(fact.old)} → {_named(fact.new)}"
    between = f"between {_time(fact.not_before)} and {_time(fact.seen_at)}"
    return f"{_app(fact)}, slot {fact.slot}: {what}, {between}"


def _change_end(facts: Sequence[Fact]) -> str:
    old = [f.old.name for f in facts if f.old and (f.new is None or f.new.name != f.old.name)]
    if not old:
        return "No name was taken away: conditions that use the other names still hold."
    return _DANGER.format(names=f" ({_listed(map(inert_word, old), 240)})")


def _stale_title(facts: Sequence[Fact]) -> str:
    return f"Attribute names: {_count(facts, 'app')} not seen any more in {_regions(facts)}"


def _stale_line(fact: Fact) -> str:
    seen = f"last seen {_time(fact.gap_from)}"
    if not fact.ever_seen:
        seen = f"never seen, asked since {_time(fact.gap_from)}"
    return f"{_app(fact)} (connection {_plain(fact.conn_id)}): {seen}"


def _back_title(facts: Sequence[Fact]) -> str:
    return f"Attribute names: {_count(facts, 'app')} seen again in {_regions(facts)}"


def _back_line(fact: Fact) -> str:
    return f"{_app(fact)}: not seen between {_time(fact.gap_from)} and {_time(fact.gap_to)}"


_Form = tuple[
    Callable[[Sequence[Fact]], str], Callable[[Fact], str], Callable[[Sequence[Fact]], str]
]
_FORMS: Mapping[str, _Form] = {
    "change": (_change_title, _change_line, _change_end),
    "stale": (_stale_title, _stale_line, lambda facts: _UNSEEN),
    "back": (_back_title, _back_line, lambda facts: _SEEN),
}


def _count(facts: Sequence[Fact], what: str) -> str:
    return f"{len(facts)} {what}{'s' if len(facts) > 1 else ''}"


def _regions(facts: Sequence[Fact]) -> str:
    return _listed(sorted({_plain(fact.region) for fact in facts}), 80)


def _listed(words: Iterable[str], room: int) -> str:
    """The words, each once, as many as there is room for; the first one always."""
    all_of_them = list(dict.fromkeys(words))
    shown = [all_of_them[0]]
    for word in all_of_them[1:]:
        if _size(", ".join([*shown, word])) > room:
            return f"{', '.join(shown)} and {len(all_of_them) - len(shown)} more"
        shown.append(word)
    return ", ".join(shown)


def _app(fact: Fact) -> str:
    return f"Group {_plain(fact.app_group)}, app {_plain(fact.region)}/{fact.sdk_app_id}"


def _named(name: AttrName | None) -> str:
    if name is None:
        return "(none)"
    word = inert_word(name.name)
    return word if name.type is None else f"{word} (type {name.type})"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z" if at else "?"


def _size(text: str) -> int:
    return len(text.encode())


def _messenger(unmute_never: Callable[[], None]) -> Messenger | None:
    """What the connection describes; None, with a line in the log, where nothing can be sent."""
    try:
        connection = find_connection(CONN_ID)
    except (SecretsUnavailable, BadSetting) as error:
        log.warning("Alerts not sent: %s. They wait for the next run.", error)
        return None
    if connection is None:
        log.info("Alerts not sent: connection %s does not exist.", CONN_ID)
        return None
    try:
        import apprise
        from airflow.providers.apprise.hooks.apprise import AppriseHook
    except ImportError:
        log.warning(
            "The connection %s exists, but Apprise does not: install im-attr-audit[notify].",
            CONN_ID,
        )
        return None
    # Not in threads of Apprise's own: the process would wait for them at its end.
    gathered = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    try:
        AppriseHook(apprise_conn_id=CONN_ID).set_config_from_conn(connection, gathered)
        destinations = list(gathered.find())
    except Exception as error:
        log.warning(
            "The connection %s has no config that Apprise can read (%s).",
            CONN_ID,
            type(error).__name__,
        )
        return None
    if not destinations:
        log.warning("The connection %s holds no address that Apprise knows.", CONN_ID)
        return None
    return Messenger(destinations, apprise=apprise, unmute_never=unmute_never)


def _key(destination: Any) -> str:
    """What tells a destination from others in ``sent_to``: a digest of its address without tokens.

    Apprise itself masks the tokens, so that nothing can be guessed from the digest.
    """
    address = str(destination.url(privacy=True))
    return hashlib.sha256(address.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _muted() -> Iterator[Callable[[], None]]:
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
