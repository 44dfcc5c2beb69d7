"""Foreign words and links where something acts on them: messengers, Markdown. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from im_attr_audit.apps import AppKey
from im_attr_audit.messages.report import quoted
from im_attr_audit.tencent.redact import clip

#: Characters of a name, a group or a region in a message. The record has them whole.
MOST_OF_A_WORD = 56

_DANGER = (
    "Affected: push conditions (AttrsAnd, AttrsOr) and everything that sets or reads users' "
    "attributes by the old name{names}. Fix them, but do not delete a condition: a push without "
    "conditions goes to everybody."
)
_SAFE = "No name was removed: conditions that use the other names still work."


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


def plain_word(word: str) -> str:
    """A region or group: bare where it is a plain word, as nearly always, else inert."""
    return word if re.fullmatch(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*", word) else inert_word(word)


def endangered(names: Iterable[str]) -> str:
    """What depends on names that were removed; in plain text, the names inert."""
    old = list(names)
    return _DANGER.format(names=f" ({listed(map(inert_word, old), 240)})") if old else _SAFE


def listed(words: Iterable[str], room: int) -> str:
    """The words, each once, as many as fit into ``room`` bytes; the first one always."""
    all_of_them = list(dict.fromkeys(words))
    shown = [all_of_them[0]]
    for word in all_of_them[1:]:
        if len(", ".join([*shown, word]).encode()) > room:
            return f"{', '.join(shown)} and {len(all_of_them) - len(shown)} more"
        shown.append(word)
    return ", ".join(shown)


def page_address(base_url: str, app: AppKey, seq: int | None, slot: int | None = None) -> str:
    """Where the page shows a change, else a slot's changes, else what is wrong with the app."""
    address = quote(app.address, safe="")
    view = "health?" if slot is None else f"changes?slot={slot}&"
    view = view if seq is None else f"changes?seq={seq}&"
    return f"{base_url}/im-attr-audit/{view}app={address}"
