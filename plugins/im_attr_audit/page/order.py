"""The order in which the page shows groups and their apps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from im_attr_audit.tencent.regions import REGION_HOSTS

_REGION_ORDER = {region: place for place, region in enumerate(REGION_HOSTS)}
# int() refuses more than 4,300 digits.
_NUMBER = re.compile("([0-9]{1,18})")


def group_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Names as people order them: "group 2" comes before "group 10"."""
    parts = _NUMBER.split(name)
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), name


def app_order(app: Mapping[str, Any]) -> tuple[Any, int, str, int]:
    """By group, then the vendor's regions in its order, then other regions by name."""
    region = app["region"]
    place = _REGION_ORDER.get(region, len(_REGION_ORDER))
    return group_order(app["app_group"]), place, region, app["sdk_app_id"]


def by_group(apps: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The apps of each group, in their order."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for app in apps:
        groups[app["app_group"]].append(app)
    return groups
