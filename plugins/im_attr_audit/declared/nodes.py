"""A document's text as nodes that know their lines: YAML or JSON. Pure.

Neither is loaded by a library's own loader: those lose lines and repeated keys, and YAML reads the
name `no` as false and the slot `010` as 8. The parsers' events and tokens are used instead.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from yaml.resolver import Resolver

#: The form is five levels deep. Text that is nested deeper is not read to its end.
DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it is written. ``kind``: text, null, int, or what YAML reads it as."""

    line: int
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping, its keys in the order and as often as they are written."""

    line: int
    entries: tuple[tuple[Scalar, Node], ...]


Node: TypeAlias = Scalar | Items | Entries


class Unreadable(Exception):
    """The text is neither YAML nor JSON; ``line`` is where reading it ended."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def compose(text: str) -> Node:
    """The document's node; Scalar of kind null for an empty document. Raises Unreadable.

    A text that begins like a JSON object is read as JSON; if it is not JSON, as YAML.
    """
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith("{"):
        try:
            return _Json(text).document()
        except ValueError:
            pass  # a YAML flow mapping, whose keys need no quotes
    return _yaml(text)


# YAML ------------------------------------------------------------------------------------------

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {
    "tag:yaml.org,2002:str": "text",
    "!": "text",
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:int": "int",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:timestamp": "a date",
}


def _yaml(text: str) -> Node:
    try:
        return _yaml_document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Unreadable(line, error.problem or "this is not YAML") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if _LOADER is yaml.SafeLoader else 1
        raise Unreadable(line, "the text has a character that YAML does not allow") from None


def _yaml_document(events: Iterator[yaml.Event]) -> Node:
    kind_of = _Kinds()
    documents: list[Node] = []
    # A mapping that is open holds its keys and values in turn.
    open_nodes: list[tuple[yaml.Event, list[Node]]] = []
    for event in events:
        line = _line(event)
        node: Node
        # Nearly all are scalars: ten thousand apps have forty thousand.
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(line, event.value, kind_of(event))
        elif isinstance(event, _STARTS):
            if len(open_nodes) >= DEEPEST:
                raise Unreadable(line, "the text is nested too deeply")
            if event.tag not in (None, "!"):
                raise Unreadable(line, "tags are not supported")
            open_nodes.append((event, []))
            continue
        elif isinstance(event, _ENDS):
            begun, children = open_nodes.pop()
            line = _line(begun)
            if isinstance(event, yaml.SequenceEndEvent):
                node = Items(line, tuple(children))
            else:
                node = Entries(line, tuple(zip(_keys(children), children[1::2], strict=True)))
        elif isinstance(event, yaml.AliasEvent):
            raise Unreadable(line, "aliases (*name) are not supported: write the names out")
        else:
            continue
        if open_nodes:
            open_nodes[-1][1].append(node)
        elif documents:
            raise Unreadable(line, "there is more than one document (---)")
        else:
            documents.append(node)
    return documents[0] if documents else Scalar(1, "", "null")


_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


class _Kinds:
    """The kind of a scalar; YAML's rules are asked once for each word."""

    def __init__(self) -> None:
        self._resolver: Any = Resolver()
        self._known: dict[tuple[str, bool], str] = {}

    def __call__(self, event: yaml.ScalarEvent) -> str:
        if event.tag:
            return _KINDS.get(event.tag, "not a text")
        # The second of implicit is of a word in quotes: a text.
        word = (event.value, event.implicit[0])
        if (kind := self._known.get(word)) is None:
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
            kind = self._known[word] = _KINDS.get(tag, "not a text")
        return kind


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _keys(children: list[Node]) -> list[Scalar]:
    keys = []
    for key in children[::2]:
        if not isinstance(key, Scalar):
            raise Unreadable(key.line, "a key must be a single value")
        keys.append(key)
    return keys


# JSON ------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<mark>[{}\[\],:])|(?P<string>\")|(?P<int>-?(?:0|[1-9]\d*)(?![\d.eE]))"
    r"|(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<word>true|false|null)"
    r"|(?P<end>\Z))",
    re.ASCII,
)


_DECODER = json.JSONDecoder()


class _Json:
    """Reads one JSON text; every method raises ValueError where it is not JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [found.end() for found in re.finditer("\n", text)]
        self._kind = self._value = ""
        self._line = 1

    def document(self) -> Node:
        self._next()
        node = self._node(0)
        self._next()
        if self._kind != "end":
            raise ValueError("more than one value")
        return node

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise ValueError("not JSON")
        self._kind, self._value = found.lastgroup, found[found.lastgroup]
        self._line = bisect_right(self._lines, found.start(found.lastgroup)) + 1
        self._at = found.end()
        if self._kind == "string":
            self._value, self._at = _DECODER.raw_decode(self._text, self._at - 1)

    def _node(self, depth: int) -> Node:
        line = self._line
        if depth > DEEPEST:
            raise Unreadable(line, "the text is nested too deeply")
        if self._value == "{" and self._kind == "mark":
            return Entries(line, tuple(self._entries(depth)))
        if self._value == "[" and self._kind == "mark":
            return Items(line, tuple(self._items(depth)))
        if self._kind in ("mark", "end"):
            raise ValueError("a value is missing")
        kinds = {"string": "text", "number": "a number", "word": "true or false"}
        kind = "null" if self._value == "null" and self._kind == "word" else self._kind
        return Scalar(line, self._value, kinds.get(kind, kind))

    def _entries(self, depth: int) -> Iterator[tuple[Scalar, Node]]:
        self._next()
        while self._value != "}" or self._kind != "mark":
            if self._kind != "string":
                raise ValueError("a key is missing")
            key = Scalar(self._line, self._value, "text")
            self._next()
            self._expect(":")
            self._next()
            yield key, self._node(depth + 1)
            if not self._continues("}"):
                return

    def _items(self, depth: int) -> Iterator[Node]:
        self._next()
        while self._value != "]" or self._kind != "mark":
            yield self._node(depth + 1)
            if not self._continues("]"):
                return

    def _continues(self, end: str) -> bool:
        """Whether a comma and another element follow, not the end."""
        self._next()
        if self._kind == "mark" and self._value == end:
            return False
        self._expect(",")
        self._next()
        if self._kind == "mark" and self._value == end:
            raise ValueError("a comma before the end")
        return True

    def _expect(self, mark: str) -> None:
        if self._kind != "mark" or self._value != mark:
            raise ValueError(f"{mark} is missing")


def shown(word: str) -> str:
    """A foreign word for an error's text: quoted, clipped, unprintable characters escaped."""
    clipped = word if len(word) <= 60 else f"{word[:59]}…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in json.dumps(clipped, ensure_ascii=False)
    )
