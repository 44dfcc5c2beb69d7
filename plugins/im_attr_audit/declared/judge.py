"""What a declaration makes a violation, given the names as they are. Pure: the time is an argument.

The answer is the one of the view ``violations``; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.model import Declaration, Deviation, Group, Violation


@dataclass(frozen=True, slots=True)
class AppNow:
    """An app that is not retired, as it is on record.

    ``names``: those last seen. ``last_ok_at``: its newest good poll; None: it never had one.
    ``is_stale``: no good poll for longer than the limit, or never.
    """

    app: AppKey
    app_group: str
    names: Mapping[int, str]
    last_ok_at: datetime | None
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A row of ``violations``; ``violation``: different, missing, undeclared or unknown."""

    app_group: str
    app: AppKey
    slot: int
    violation: str
    declared_name: str | None
    actual_name: str | None

    @property
    def is_known(self) -> bool:
        """Whether the names were seen lately, so that this is so and not only not known."""
        return self.violation != "unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    """What one declaration in place of another begins and ends.

    Only what is known now: what is not known is neither begun nor ended. ``remain``: violations
    under both.
    """

    begins: tuple[Judged, ...]
    ends: tuple[Judged, ...]
    remain: int


def judge(declaration: Declaration, apps: Iterable[AppNow], at: datetime) -> list[Judged]:
    """Every slot that is not as declared or not known, in the order of group, app and slot."""
    terms = {name: _Terms(group, at) for name, group in declaration.groups.items()}
    found = [
        each for app in apps if app.app_group in terms for each in terms[app.app_group].judge(app)
    ]
    return sorted(found, key=lambda each: (each.app_group, each.app, each.slot))


def difference(
    old: Declaration, new: Declaration, apps: Iterable[AppNow], at: datetime
) -> Difference:
    """What changes when ``new`` is declared in place of ``old``."""
    apps = list(apps)
    before = {(e.app, e.slot): e for e in judge(old, apps, at) if e.is_known}
    after = {(e.app, e.slot): e for e in judge(new, apps, at) if e.is_known}
    return Difference(
        tuple(each for key, each in after.items() if key not in before),
        tuple(each for key, each in before.items() if key not in after),
        len(before.keys() & after.keys()),
    )


class _Terms:
    """A group's terms at one time. Its exceptions are found by what they are of: ten thousand apps
    may have one each."""

    def __init__(self, group: Group, at: datetime) -> None:
        self._group = group
        self._exceptions: dict[tuple[str | None, int | None], list[Deviation]] = {}
        for each in group.exceptions:
            if each.holds(at):
                self._exceptions.setdefault((each.region, each.sdk_app_id), []).append(each)

    def judge(self, now: AppNow) -> Iterator[Judged]:
        declared = dict(self._group.names)
        region, sdk_app_id = now.app
        # The more specific, the later.
        for key in ((region, None), (None, sdk_app_id), (region, sdk_app_id)):
            for exception in self._exceptions.get(key, ()):
                declared.update(exception.names)
        others = () if self._group.other_slots_allowed else now.names
        for slot in {*declared, *others}:
            each = Violation(slot, declared.get(slot), now.names.get(slot))
            if now.is_stale or each.declared_name != each.actual_name:
                word = "unknown" if now.is_stale else each.violation
                yield Judged(
                    now.app_group, now.app, slot, word, each.declared_name, each.actual_name
                )
