"""What a document declares, in the form that is recorded. Pure.

In one group the most specific names count: an exception for an app in a region, else one for the
app, else one for the region, else the group's own. Nothing is declared of a slot that none of them
names, unless the group forbids other slots: then it must be unused. `judge` applies this to apps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import cached_property
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, TypeAlias

DeclaredNames: TypeAlias = Mapping[int, str | None]
"""Slot → name; None: the slot must be unused."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One of a group's exceptions: for the apps of a region, for one app, or for one in a region.

    ``until`` is a UTC date: the exception ends when that day begins. ``line`` is where it stands.
    """

    region: str | None
    sdk_app_id: int | None
    names: DeclaredNames
    reason: str
    until: date | None = None
    line: int = field(default=0, compare=False)

    @property
    def ends_at(self) -> datetime | None:
        """When it ends; None: never."""
        return datetime.combine(self.until, time(), UTC) if self.until else None

    def holds(self, at: datetime) -> bool:
        """Whether it has not ended by then."""
        return self.ends_at is None or at < self.ends_at


@dataclass(frozen=True, slots=True)
class Group:
    """What is declared of one app group. ``line`` is where it stands in the document."""

    names: DeclaredNames
    other_slots_allowed: bool = False
    exceptions: tuple[Deviation, ...] = ()
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Declaration:
    """A whole document. The canonical form of equal declarations is the same text."""

    groups: Mapping[str, Group]

    @cached_property
    def document(self) -> dict[str, Any]:
        """The declaration in its canonical form, as it is recorded."""
        return {"groups": {name: _group_document(group) for name, group in self.groups.items()}}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form, written as Postgres writes jsonb."""
        return sha256(_jsonb_text(self.document).encode()).digest()


@dataclass(frozen=True, slots=True)
class Violation:
    """A slot that is not as declared: the declared and the actual name, None for none."""

    slot: int
    declared_name: str | None
    actual_name: str | None

    @property
    def violation(self) -> str:
        """The contract's word for it."""
        if self.declared_name is None:
            return "undeclared"
        return "missing" if self.actual_name is None else "different"


NOTHING = Declaration({})


def _group_document(group: Group) -> dict[str, Any]:
    exceptions = []
    for each in group.exceptions:
        fields: dict[str, Any] = {"names": _names_document(each.names), "reason": each.reason}
        if each.region is not None:
            fields["region"] = each.region
        if each.sdk_app_id is not None:
            fields["sdk_app_id"] = each.sdk_app_id
        if each.until is not None:
            fields["until"] = each.until.isoformat()
        exceptions.append(fields)
    return {
        "names": _names_document(group.names),
        "other_slots": "allowed" if group.other_slots_allowed else "forbidden",
        # Their order means nothing.
        "exceptions": sorted(exceptions, key=_jsonb_text),
    }


def _names_document(names: DeclaredNames) -> dict[str, str | None]:
    return {str(slot): name for slot, name in sorted(names.items())}


def _jsonb_text(value: object) -> str:
    """JSON as jsonb writes it: an object's keys by their length in bytes, then by their bytes."""
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        by_bytes = sorted((len(key), key, of) for of in value for key in (of.encode(),))
        return (
            "{"
            + ", ".join(f"{encode_basestring(k)}: {_jsonb_text(value[k])}" for *_, k in by_bytes)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_jsonb_text, value)) + "]"
    return json.dumps(value)
