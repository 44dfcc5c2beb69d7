"""Attribute names as values, and how two sets of them differ. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class AttrName(NamedTuple):
    """What one slot is called: the name exactly as the vendor sent it (an empty one too).

    ``type`` is the vendor's AttrTypes value (``timpush`` only: 0 IM UserID, 1 RegistrationID), or
    None where it was never said.
    """

    name: str
    type: int | None = None


Names: TypeAlias = Mapping[int, AttrName]


@dataclass(frozen=True, slots=True)
class Difference:
    """One slot that is not what it was; None on a side means the slot has no name there."""

    slot: int
    old: AttrName | None
    new: AttrName | None

    @property
    def only_a_type_was_learned(self) -> bool:
        """Same name, type unknown before: knowledge grew, nothing is known to have changed."""
        return (
            self.old is not None
            and self.new is not None
            and self.old.name == self.new.name
            and self.old.type is None
        )


def settle(previous: Names, answered: Names) -> dict[int, AttrName]:
    """The names after an answer: a type that the answer does not say stays as it was known."""
    settled = dict(answered)
    for slot, new in answered.items():
        old = previous.get(slot)
        if new.type is None and old is not None and old.type is not None:
            settled[slot] = AttrName(new.name, old.type)
    return settled


def compare(previous: Names, current: Names) -> list[Difference]:
    """Every slot that differs, in the slots' order; total: either side may be empty."""
    if previous == current:
        return []
    return [
        Difference(slot, previous.get(slot), current.get(slot))
        for slot in sorted(previous.keys() | current.keys())
        if previous.get(slot) != current.get(slot)
    ]
