"""From a document's text to what it declares, or to what is wrong with it, line by line. Pure.

A document with an error is refused whole. A warning is about something that is valid and looks like
a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.model import Declaration, Deviation, Group
from im_attr_audit.declared.nodes import Entries, Items, Node, Scalar, Unreadable, compose, shown
from im_attr_audit.errors import AttrAuditError

#: Characters of a document; ten thousand apps with an exception each take about two million.
LONGEST = 16_000_000
#: Bytes of a file: more are not a document.
MOST_BYTES = 4 * LONGEST
#: Errors that are reported; the others are counted.
SHOWN = 20
#: What the vendor documents: more is recorded where it sends more.
DOCUMENTED_SLOTS, DOCUMENTED_BYTES = 10, 50


_SLOT = re.compile(r"0|[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning: what is wrong in which line, and in which group and slot."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class InvalidDeclaration(AttrAuditError):
    """A document that cannot be used; ``errors`` are in the order of their lines."""

    def __init__(self, source: str, errors: Collection[Problem]) -> None:
        self.errors = tuple(sorted(errors, key=lambda each: each.line))
        lines = [f"{source}, {error}" for error in self.errors[:SHOWN]]
        if rest := len(self.errors) - SHOWN:
            lines += [f"{source}: and {rest} more errors"] if rest > 0 else []
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a document declares, and the warnings that its text alone gives."""

    declaration: Declaration
    warnings: tuple[Problem, ...]


def decode(content: bytes, source: str) -> str:
    """A file's text. Raises InvalidDeclaration where it is not UTF-8 or too long."""
    if len(content) > MOST_BYTES:
        raise InvalidDeclaration(source, [Problem(1, "the file is too long")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidDeclaration(source, [Problem(line, "the text is not UTF-8")]) from None


def parse(text: str, source: str) -> Parsed:
    """Read a document. ``source`` names it in errors. Raises InvalidDeclaration.

    An empty document declares nothing.
    """
    if len(text) > LONGEST:
        raise InvalidDeclaration(source, [Problem(1, f"longer than {LONGEST:,} characters")])
    try:
        node = compose(text)
    except Unreadable as error:
        raise InvalidDeclaration(source, [Problem(error.line, error.reason)]) from None
    reader = _Reader()
    declaration = reader.document(node)
    if reader.errors:
        raise InvalidDeclaration(source, reader.errors)
    return Parsed(declaration, tuple(sorted(reader.warnings, key=lambda each: each.line)))


def look_over(
    declaration: Declaration, apps: Collection[tuple[str, AppKey]], at: datetime
) -> list[Problem]:
    """Warnings that depend on the time and on which apps are polled, in which groups."""
    warnings = []
    # Each app as an exception can select it: both may be ten thousand.
    by_group: dict[str, set[tuple[str | None, int | None]]] = {}
    for app_group, (region, sdk_app_id) in apps:
        selectors = {(region, None), (None, sdk_app_id), (region, sdk_app_id)}
        by_group.setdefault(app_group, set()).update(selectors)
    for name, group in declaration.groups.items():
        polled = by_group.get(name)
        if polled is None:
            warnings.append(Problem(group.line, f"group {shown(name)}: none of its apps is polled"))
        for each in group.exceptions:
            where = f"group {shown(name)}, {_selector(each)}"
            if not each.holds(at):
                warnings.append(Problem(each.line, f"{where}: the exception ended on {each.until}"))
            elif polled is not None and (each.region, each.sdk_app_id) not in polled:
                warnings.append(Problem(each.line, f"{where}: no such app is polled"))
    return sorted(warnings, key=lambda each: each.line)


def _selector(exception: Deviation) -> str:
    """How an exception says which apps it is for."""
    words = [] if exception.region is None else [f"region {shown(exception.region)}"]
    words += [] if exception.sdk_app_id is None else [f"app {exception.sdk_app_id}"]
    return ", ".join(words)


class _Reader:
    """Walks the nodes of one document and gathers what is wrong with it."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def document(self, node: Node) -> Declaration:
        if isinstance(node, Scalar) and node.kind == "null":
            return Declaration({})
        top = self._fields(node, "the document", required=("groups",))
        groups = {}
        for key, value in self._entries(top.get("groups"), "groups"):
            name = self._text(key, "groups", "the name of a group")
            if name is not None:
                groups[name] = self._group(value, key.line, name)
        return Declaration(groups)

    def _group(self, node: Node, line: int, name: str) -> Group:
        where = f"group {shown(name)}"
        fields = self._fields(node, where, ("other_slots", "exceptions"), required=("names",))
        names = self._names(fields.get("names"), where)
        allowed = fields.get("other_slots")
        if allowed is not None and not (
            isinstance(allowed, Scalar) and allowed.text in ("allowed", "forbidden")
        ):
            self._error(allowed, where, "other_slots must be forbidden or allowed")
        exceptions = []
        items = fields.get("exceptions")
        if isinstance(items, Items):
            exceptions = [e for item in items.items if (e := self._exception(item, where))]
        elif items is not None:
            self._error(items, where, "exceptions must be a list")
        self._check_exceptions(names, exceptions, where)
        is_allowed = isinstance(allowed, Scalar) and allowed.text == "allowed"
        return Group(names, is_allowed, tuple(exceptions), line)

    def _exception(self, node: Node, where: str) -> Deviation | None:
        before = len(self.errors)
        where = f"{where}, exception"
        fields = self._fields(
            node, where, ("region", "sdk_app_id", "until"), required=("names", "reason")
        )
        region = sdk_app_id = until = None
        if (given := fields.get("region")) is not None:
            region = self._text(given, where, "region")
        if (given := fields.get("sdk_app_id")) is not None:
            sdk_app_id = self._number(given, where)
        if not {"region", "sdk_app_id"} & fields.keys() and isinstance(node, Entries):
            self._error(node, where, "a region or an sdk_app_id is missing")
        if (given := fields.get("until")) is not None:
            until = self._date(given, where)
        reason = None
        if (given := fields.get("reason")) is not None:
            reason = self._text(given, where, "reason", longest=1000)
        names = self._names(fields.get("names"), where)
        if len(self.errors) > before or reason is None:
            return None
        return Deviation(region, sdk_app_id, names, reason, until, node.line)

    def _names(self, node: Node | None, where: str) -> dict[int, str | None]:
        names: dict[int, str | None] = {}
        lines: dict[str, int] = {}
        for key, value in self._entries(node, f"{where}, names"):
            if not _SLOT.fullmatch(key.text) or key.kind not in ("int", "text"):
                self._error(key, where, f"slot {shown(key.text)} is not a number from 0 to 999")
                continue
            slot = int(key.text)
            place = f"{where}, slot {slot}"
            if slot >= DOCUMENTED_SLOTS:
                self._warn(key, place, "the vendor documents slots 0 to 9 only")
            if isinstance(value, Scalar) and value.kind == "null":
                names[slot] = None
                continue
            name = self._name(value, place)
            if name is None:
                continue
            names[slot] = name
            if name in lines:
                self._error(
                    value, place, f"{shown(name)} is declared twice, first in line {lines[name]}"
                )
            lines.setdefault(name, value.line)
        return names

    def _name(self, node: Node, where: str) -> str | None:
        if not isinstance(node, Scalar) or node.kind != "text":
            self._error(node, where, f"the name {_misread(node)}")
            return None
        size = len(node.text.encode(errors="surrogatepass"))
        if size > 1024:
            self._error(node, where, "the name is longer than 1,024 bytes")
            return None
        if not _is_storable(node.text):
            self._error(node, where, "the name has a NUL or half of a character")
            return None
        if size > DOCUMENTED_BYTES:
            self._warn(node, where, f"the vendor documents {DOCUMENTED_BYTES} bytes for a name")
        return node.text

    def _check_exceptions(
        self, names: dict[int, str | None], exceptions: list[Deviation], where: str
    ) -> None:
        """Errors where two exceptions decide the same slot, or one repeats a name of the group."""
        decided: dict[tuple[str | None, int | None, int], Deviation] = {}
        for each in exceptions:
            place = f"{where}, {_selector(each)}"
            for slot in each.names:
                first = decided.setdefault((each.region, each.sdk_app_id, slot), each)
                if first is not each:
                    text = (
                        f"slot {slot} is already set for the same apps by the exception in line "
                        f"{first.line}"
                    )
                    self.errors.append(Problem(each.line, f"{place}: {text}"))
            theirs: dict[str, int] = {}
            for slot, name in sorted({**names, **each.names}.items()):
                if name is not None and theirs.setdefault(name, slot) != slot:
                    text = f"{shown(name)} would be in slots {theirs[name]} and {slot}"
                    self.errors.append(Problem(each.line, f"{place}: {text}"))

    def _fields(
        self, node: Node, where: str, optional: tuple[str, ...] = (), *, required: tuple[str, ...]
    ) -> dict[str, Node]:
        known = (*required, *optional)
        fields = {}
        for key, value in self._entries(node, where):
            if key.text not in known:
                self._error(key, where, f"unknown key {shown(key.text)}; allowed: {_listed(known)}")
            fields[key.text] = value
        for name in required:
            if name not in fields and isinstance(node, Entries):
                self._error(node, where, f"{name} is missing")
        return fields

    def _entries(self, node: Node | None, where: str) -> Iterator[tuple[Scalar, Node]]:
        """The entries of a mapping; each key once."""
        if node is None:
            return
        if not isinstance(node, Entries):
            self._error(node, where, "a mapping (key: value) is expected here")
            return
        lines: dict[str, int] = {}
        for key, value in node.entries:
            if key.text in lines:
                text = f"{shown(key.text)} appears twice, first in line {lines[key.text]}"
                self._error(key, where, text)
                continue
            lines[key.text] = key.line
            yield key, value

    def _text(self, node: Node, where: str, what: str, *, longest: int = 200) -> str | None:
        if what == "the name of a group" and isinstance(node, Scalar):
            node = Scalar(node.line, node.text, "text")  # a key is a text, whatever it looks like
        if not isinstance(node, Scalar) or node.kind not in ("text", "null"):
            self._error(node, where, f"{what} {_misread(node)}")
        elif not node.text.strip() or node.kind == "null":
            self._error(node, where, f"{what} is empty")
        elif len(node.text) > longest:
            self._error(node, where, f"{what} is longer than {longest} characters")
        elif not _is_storable(node.text):
            self._error(node, where, f"{what} has a NUL or half of a character")
        else:
            return node.text
        return None

    def _number(self, node: Node, where: str) -> int | None:
        if (
            isinstance(node, Scalar)
            and node.kind == "int"
            and re.fullmatch(r"[1-9][0-9]{0,18}", node.text)
            and int(node.text) < 2**63
        ):
            return int(node.text)
        self._error(node, where, "sdk_app_id is not a positive whole number")
        return None

    def _date(self, node: Node, where: str) -> date | None:
        if isinstance(node, Scalar) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", node.text):
            try:
                return date.fromisoformat(node.text)
            except ValueError:
                pass
        self._error(node, where, "until is not a date such as 2027-01-31")
        return None

    def _error(self, node: Node, where: str, text: str) -> None:
        self.errors.append(Problem(node.line, f"{where}: {text}"))

    def _warn(self, node: Node, where: str, text: str) -> None:
        self.warnings.append(Problem(node.line, f"{where}: {text}"))


def _misread(node: Node) -> str:
    if not isinstance(node, Scalar):
        return "is not a text"
    kind = {"int": "a number", "null": "nothing"}.get(node.kind, node.kind)
    return f"is read as {kind}: put it in quotes" if kind != "not a text" else "is not a text"


_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


def _is_storable(text: str) -> bool:
    return _NOT_STORABLE.search(text) is None


def _listed(words: Collection[str]) -> str:
    return ("are " if len(words) > 1 else "is ") + ", ".join(words)
