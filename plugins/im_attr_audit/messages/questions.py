"""What a person is asked about changes, and what the answer means. Pure: values in, text out.

Airflow shows the body as Markdown. Names are code spans of inert words there: no character of a
name ends a span or a table's cell, and nothing in a span is markup, a link or a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.messages.inert import endangered, inert_word, page_address, plain_word
from im_attr_audit.names import AttrName
from im_attr_audit.record.reviews import Answer, UnreviewedChange, Verdict
from im_attr_audit.settings import DAG_ID
from im_attr_audit.tencent.redact import clip
from im_attr_audit.text_format import counted, time_text

EXPECTED: Final = "Expected"
NOT_EXPECTED: Final = "Not expected"
OPTIONS: Final = (EXPECTED, NOT_EXPECTED)
_VERDICTS: Final[Mapping[str, Verdict]] = {EXPECTED: "expected", NOT_EXPECTED: "not_expected"}

#: Characters of a ticket and of a comment; the database has the same limits.
MOST_OF_A_TICKET = 200
MOST_OF_A_COMMENT = 2000
#: Changes that a question lists; the rest is counted.
MOST_CHANGES = 100
#: Bytes of a reviewer's name or id.
_MOST_OF_A_REVIEWER = 256


class NotAnAnswer(AttrAuditError):
    """What Airflow gives as the answer is not one; the text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One human-in-the-loop task: the changes that one run recorded in one region."""

    region: str
    subject: str
    body: str
    changes: Mapping[int, Sequence[int]]
    """``seq`` by SDKAppID: what the answer is recorded for."""


def questions(changes: Iterable[UnreviewedChange], *, base_url: str = "") -> list[Question]:
    """One question for each region and run, the oldest first.

    ``base_url`` is that of Airflow's API server; without it there are no links.
    """

    def of(change: UnreviewedChange) -> tuple[str, str]:
        return change.dag_run_id or "", change.region

    groups = [list(group) for _, group in groupby(sorted(changes, key=of), key=of)]
    groups.sort(key=lambda group: (min(change.seen_at for change in group), group[0].region))
    return [_question(group, base_url) for group in groups]


def _question(changes: Sequence[UnreviewedChange], base_url: str) -> Question:
    region = changes[0].region
    count = counted(len(changes), "change")
    by_app: dict[int, list[int]] = {}
    for change in changes:
        by_app.setdefault(change.sdk_app_id, []).append(change.seq)
    return Question(
        region=region,
        subject=f"{plain_word(region)}: {count} of attribute names. Expected?",
        body=_body(changes, count, base_url),
        changes=by_app,
    )


def _body(changes: Sequence[UnreviewedChange], count: str, base_url: str) -> str:
    run = changes[0].dag_run_id or ""
    shown = f"`{run}`" if re.fullmatch(r"[\w:.+-]+", run, re.ASCII) else _code(run)
    if base_url:
        shown = f"[{shown}]({base_url}/dags/{DAG_ID}/runs/{quote(run, safe='')})"
    lines = [
        f"Run {shown} recorded {count} in region {_word(changes[0].region)}. "
        "Was this expected? The answer is recorded for "
        f"{'all of them' if len(changes) > 1 else 'it'}, with your name.",
        "",
        # Airflow shows it in half of its window, so it has few columns.
        "| App | Slot | Old → new | Happened between | Declared | |",
        "|---|---|---|---|---|---|",
        *(_row(change, base_url) for change in changes[:MOST_CHANGES]),
        "",
    ]
    if rest := len(changes[MOST_CHANGES:]):
        lines += [f"… and {rest} more changes of this run: see the page.", ""]
    gone = [c.old.name for c in changes if c.old and (c.new is None or c.new.name != c.old.name)]
    return "\n".join([*lines, _markdown(endangered(gone))])


_DECLARED: Final[Mapping[bool | None, str]] = {
    None: "nothing declared",
    True: "yes",
    False: "**no**",
}


def _row(change: UnreviewedChange, base_url: str) -> str:
    what = f"{change.kind}: {_name(change.old)} → {_name(change.new)}"
    if change.moved_from_slot is not None:
        what += f" (from slot {change.moved_from_slot})"
    if change.lookalike:
        what += f", look-alike: {change.lookalike}"
    page = ""
    if base_url:
        app = AppKey(change.region, change.sdk_app_id)
        page = f"[page]({page_address(base_url, app, change.seq)})"
    cells = (
        f"{_word(change.app_group)} {change.sdk_app_id}",
        str(change.slot),
        what,
        _between(change.not_before, change.seen_at),
        _DECLARED[change.declared],
        page,
    )
    return f"| {' | '.join(cells)} |"


def _between(not_before: datetime, seen_at: datetime) -> str:
    """Both bounds (UTC), the day once where it is the same. A day is not broken into lines."""
    first, last = time_text(not_before), time_text(seen_at)
    day, _, time = last.partition(" ")
    shown = f"{first} and {time if first.startswith(day) else last}"
    return shown.replace("-", "\N{NON-BREAKING HYPHEN}")


def _name(name: AttrName | None) -> str:
    if name is None:
        return "(none)"
    shown = _code(name.name)
    return shown if name.type is None else f"{shown} (type {name.type})"


def _word(word: str) -> str:
    plain = plain_word(word)
    return plain if plain == word else _code(word)


def _code(word: str) -> str:
    """A code span. An inert word has no backtick and no pipe; braces could begin a template."""
    return f"`{_without_braces(inert_word(word))}`"


def _without_braces(inert: str) -> str:
    return inert.replace("{", "\\u007b").replace("}", "\\u007d")


def _markdown(text: str) -> str:
    """Plain text with inert words as Markdown shows it: a backslash stays a backslash."""
    return _without_braces(text).replace("\\", "\\\\")


def answer_of(response: Mapping[str, Any], *, dag_run_id: str) -> Answer:
    """The answer in what Airflow's human-in-the-loop task returns. Raises NotAnAnswer.

    Ticket and comment are a person's text: what no text in Postgres can hold is replaced.
    """
    chosen = response.get("chosen_options")
    verdict = _VERDICTS.get(chosen[0]) if isinstance(chosen, list) and len(chosen) == 1 else None
    if verdict is None:
        raise NotAnAnswer(f"the chosen option is not one of {', '.join(OPTIONS)}")
    user, at = response.get("responded_by_user"), response.get("responded_at")
    name = user.get("name") or user.get("id") if isinstance(user, Mapping) else None
    if not isinstance(user, Mapping) or not name:
        raise NotAnAnswer("Airflow did not return which user answered")
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    if not isinstance(at, datetime):
        raise NotAnAnswer("Airflow did not return when the user answered")
    form = response.get("params_input") or {}
    return Answer(
        verdict=verdict,
        reviewer=_storable(name, _MOST_OF_A_REVIEWER) or "?",
        reviewer_id=_storable(user.get("id"), _MOST_OF_A_REVIEWER),
        ticket=_storable(form.get("ticket"), MOST_OF_A_TICKET),
        comment=_storable(form.get("comment"), MOST_OF_A_COMMENT),
        reviewed_at=at,
        dag_run_id=dag_run_id,
    )


def _storable(given: object, most: int) -> str | None:
    """Text without what Postgres cannot hold; None where nothing is left."""
    if given is None:
        return None
    whole = str(given).replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clip(whole.strip(), most) or None
