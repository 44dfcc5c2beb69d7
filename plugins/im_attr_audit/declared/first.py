"""A first declaration, written from the names as they are. Pure.

A slot's usual name is the one that most apps of the group have. An app that differs is an
exception, for which a person has yet to give the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from im_attr_audit.declared.judge import AppNow
from im_attr_audit.declared.model import DeclaredNames

REASON = "to be explained"

_HEAD = """\
# Written from the names on record. Give every exception its reason: why is the app meant to differ?
# If it is not, delete the exception. Its names are then a violation.
"""


def first_declaration(apps: Iterable[AppNow]) -> str:
    """The YAML text. Apps that were never polled successfully are a comment only."""
    by_group: dict[str, list[AppNow]] = {}
    for app in sorted(apps, key=lambda each: (each.app_group, each.app)):
        by_group.setdefault(app.app_group, []).append(app)
    lines = ["groups:" if by_group else "groups: {}"]
    for name, members in by_group.items():
        lines += [f"  {_text(name)}:", *(f"    {line}" for line in _group(members))]
    return _HEAD + "\n".join(lines) + "\n"


def _group(members: Sequence[AppNow]) -> Iterator[str]:
    seen = [each for each in members if each.last_ok_at is not None]
    for each in members:
        if each.last_ok_at is None:
            yield f"# {_comment(each)} has never had a good poll: its names are not known."
        elif each.is_stale:
            yield f"# {_comment(each)} is stale: its names are those last seen."
    usual = _usual(seen)
    if usual:
        yield "names:"
        yield from (f"  {slot}: {_text(name)}" for slot, name in usual.items())
    else:
        yield "names: {}"
    yield "other_slots: forbidden"
    exceptions = [
        line
        for selector, names, notes in _exceptions(seen, usual)
        for line in _exception(selector, names, notes)
    ]
    if exceptions:
        yield "exceptions:"
        yield from exceptions


def _usual(seen: Sequence[AppNow]) -> dict[int, str]:
    """Slot → the name that most apps have; no name is in two slots."""
    counts: dict[int, Counter[str | None]] = {
        slot: Counter(each.names.get(slot) for each in seen)
        for slot in sorted({slot for each in seen for slot in each.names})
    }
    ranked = sorted(
        (
            (-number, name is None, slot, name or "", name)
            for slot, count in counts.items()
            for name, number in count.items()
        ),
        key=lambda each: each[:4],
    )
    usual: dict[int, str | None] = {}
    for _, _, slot, _, name in ranked:
        if slot not in usual and (name is None or name not in usual.values()):
            usual[slot] = name
    return {slot: name for slot, name in sorted(usual.items()) if name is not None}


def _exceptions(
    seen: Sequence[AppNow], usual: Mapping[int, str]
) -> Iterator[tuple[list[str], DeclaredNames, list[str]]]:
    """Selector, names and comments of each; one for a region whose apps all differ alike."""
    by_region: dict[str, list[AppNow]] = {}
    for each in seen:
        by_region.setdefault(each.app.region, []).append(each)
    for region, members in by_region.items():
        deviations = [_deviation(each, usual) for each in members]
        if all(each == deviations[0] for each in deviations):
            members, deviations = [], deviations[:1]
            if deviations[0][0]:
                yield [f"region: {_text(region)}"], *deviations[0]
        for each, (names, notes) in zip(members, deviations, strict=False):
            if names:
                selector = [f"region: {_text(region)}", f"sdk_app_id: {each.app.sdk_app_id}"]
                yield selector, names, notes


def _deviation(now: AppNow, usual: Mapping[int, str]) -> tuple[DeclaredNames, list[str]]:
    """Where an app differs, and what cannot be declared: one name in two slots."""
    meant: dict[int, str] = {}
    notes = []
    for slot, name in sorted(now.names.items()):
        if name in meant.values():
            notes.append(f"Slot {slot} repeats {_quoted(name)}, which cannot be declared.")
        else:
            meant[slot] = name
    differing = {
        slot: meant.get(slot)
        for slot in sorted({*usual, *meant})
        if usual.get(slot) != meant.get(slot)
    }
    return differing, notes


def _exception(selector: list[str], names: DeclaredNames, notes: list[str]) -> Iterator[str]:
    written = ", ".join(
        f"{slot}: {'null' if name is None else _text(name)}" for slot, name in names.items()
    )
    first, *rest = [*selector, f"names: {{{written}}}", f"reason: {REASON}"]
    yield from (f"  # {note}" for note in notes)
    yield f"  - {first}"
    yield from (f"    {line}" for line in rest)


def _comment(now: AppNow) -> str:
    return f"{_quoted(now.app.region)}, app {now.app.sdk_app_id}"


_PLAIN = re.compile(r"[^\W\d_]\w*(?: \w+)*")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def _text(word: str) -> str:
    """A text as YAML reads it back: as it is where nothing in it means anything, else quoted."""
    is_plain = _PLAIN.fullmatch(word) and word.isprintable() and word.lower() not in _WORDS
    return word if is_plain and len(word) < 100 else _quoted(word)


def _quoted(word: str) -> str:
    return '"' + "".join(map(_escaped, word)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"
