"""What is usual in each slot of a group and which apps differ: a row for each slot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from im_attr_audit.page import queries
from im_attr_audit.page.order import group_order
from im_attr_audit.page.queries import Row, Rows


def read_groups(connection: Connection, apps: Rows, group: str | None = None) -> Rows:
    """Every group of the apps with its slots, as model GroupNames has them."""
    variants: dict[tuple[str, int], Rows] = defaultdict(list)
    for row in queries.read(connection, "slot_names", app_group=group):
        variants[row["app_group"], row["slot"]].append(row)
    for row in queries.read(connection, "slot_missing", app_group=group):
        variants[row["app_group"], row["slot"]].append({**row, "name": None})
    listed, known, stale = (Counter(map(_group, each)) for each in (
        apps,
        [app for app in apps if app["first_ok_at"] is not None],
        [app for app in apps if app["stale"]],
    ))  # fmt: skip
    slots: dict[str, Rows] = defaultdict(list)
    for (name, slot), found in sorted(variants.items()):
        slots[name].append(_slot(slot, found, known[name]))
    return [
        {
            "app_group": name,
            "apps": listed[name],
            "known": known[name],
            "stale": stale[name],
            "is_declared": False,
            "slots": slots.get(name, []),
        }
        for name in sorted(listed, key=group_order)
        if group is None or name == group
    ]


def mark_declared(connection: Connection, groups: Rows, group: str | None = None) -> None:
    """Add to the groups what is declared, and how many apps are not as declared.

    A slot that is declared and that no app has gets its row.
    """
    [said] = queries.read(connection, "declared_groups")
    declared: dict[tuple[str, int], Rows] = defaultdict(list)
    for row in queries.read(connection, "declared_slots", app_group=group):
        declared[row["app_group"], row["slot"]].append({"name": row["name"], "apps": row["apps"]})
    violating = {
        (row["app_group"], row["slot"], row["name"]): row["apps"]
        for row in queries.read(connection, "violating_names", app_group=group)
    }
    for each in groups:
        name = each["app_group"]
        each["is_declared"] = name in said["groups"]
        slots = {slot["slot"]: slot for slot in each["slots"]}
        for of, number in declared:
            if of == name and number not in slots:
                nobody = {"name": None, "apps": each["known"], "some": [], "set_at": None}
                slots[number] = _slot(number, [nobody], each["known"])
        each["slots"] = [slots[number] for number in sorted(slots)]
        for slot in each["slots"]:
            slot["declared"] = declared.get((name, slot["slot"]), [])
            for variant in (slot["usual"], *slot["others"]):
                key = name, slot["slot"], variant["name"]
                variant["violations"] = violating.get(key, 0)


def _group(app: Mapping[str, Any]) -> str:
    return str(app["app_group"])


def _slot(slot: int, found: Rows, known: int) -> Row:
    """The variants of a slot, the usual one first. Of two with as many apps a name is usual."""
    ordered = sorted(found, key=lambda each: (-each["apps"], each["name"] is None))
    times = [each["set_at"] for each in ordered if each["set_at"] is not None]
    usual, *others = [_variant(each) for each in ordered]
    return {
        "slot": slot,
        "declared": [],
        "usual": usual,
        "others": others,
        "apps": known,
        "newest_change_at": max(times, default=None),
    }


def _variant(row: Row) -> Row:
    some: Sequence[Sequence[str]] = row["some"]
    return {
        "name": row["name"],
        "apps": row["apps"],
        "violations": 0,
        "some": [{"region": region, "sdk_app_id": int(number)} for region, number in some],
    }
