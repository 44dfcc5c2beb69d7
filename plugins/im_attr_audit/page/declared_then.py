"""Which names of an instant were not as declared then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.judge import AppNow, judge
from im_attr_audit.declared.model import NOTHING, Declaration
from im_attr_audit.declared.parse import parse
from im_attr_audit.page import queries
from im_attr_audit.page.services import key_of

#: The cells of each app, by slot, as model CellThen has them.
Names: TypeAlias = dict[AppKey, dict[int, dict[str, Any]]]
#: The apps of each group.
Members: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class DeclaredThen:
    """The declaration in force at an instant, and the group of each app then."""

    at: datetime
    declaration: Declaration
    groups: Mapping[AppKey, str]

    def judge(
        self, apps: Iterable[Mapping[str, Any]], names: Names, future: Collection[AppKey]
    ) -> dict[str, Any]:
        """As model DeclaredThen has it. What is not certain is not called a violation."""
        then, none = [], {}
        for app in apps:
            key = key_of(app)
            if (group := self.groups.get(key)) is None:
                continue
            cells = names.get(key, {})
            named = {slot: cell["name"] for slot, cell in cells.items() if cell["name"] is not None}
            none[key] = nameless(app, self.at, key in future)
            then.append(AppNow(key, group, named, app["first_ok_at"], is_stale=False))
        violations = [
            {
                "region": each.app.region,
                "sdk_app_id": each.app.sdk_app_id,
                "slot": each.slot,
                "violation": each.violation,
                "declared_name": each.declared_name,
            }
            for each in judge(self.declaration, then, self.at)
            if names.get(each.app, {}).get(each.slot, none[each.app])["certain"]
        ]
        return {"groups": sorted(self.declaration.groups), "violations": violations}


def read_declared_then(connection: Connection, at: datetime) -> DeclaredThen:
    """What was declared at an instant."""
    row = queries.read_one(connection, "declaration_as_of", at=at)
    declaration = (
        parse(row["document"], "the declaration on record").declaration if row else NOTHING
    )
    groups = {
        key_of(each): each["app_group"] for each in queries.read(connection, "groups_as_of", at=at)
    }
    return DeclaredThen(at, declaration, groups)


def nameless(app: Mapping[str, Any], at: datetime, is_future: bool) -> dict[str, Any]:
    """The cell of an app that has no name in a slot at an instant."""
    known = app["first_ok_at"] is not None and app["first_ok_at"] <= at
    certain = known and at <= app["last_ok_at"] and not is_future
    return {"name": None, "attr_type": None, "certain": certain, "known": known}
