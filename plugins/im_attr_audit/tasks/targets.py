"""From listed connections to targets; what is known of one that cannot be looked up stays known."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from im_attr_audit import settings
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Misconfigured, SecretsUnavailable, Unavailable
from im_attr_audit.hook import TencentImHook
from im_attr_audit.record.runs import read_known_apps
from im_attr_audit.tencent.target import Target, Unresolved

#: How long a task waits for a failing secrets backend in all, in seconds. It is not asked again
#: after that: with many connections the task would end by its time-out and record nothing.
FAILING_AT_MOST = 60.0
#: Apps in one mapped task. A mapping may have 1,024 instances, so this carries 250,000 apps.
APPS_PER_TASK = 250
#: What the first reads of one task may take where every app hangs, in seconds: a second round of
#: them fits into the task's half hour too.
READS_AT_MOST = 600


def resolve(
    conn_ids: Iterable[str], *, masked: bool, monotonic: Callable[[], float] = time.monotonic
) -> dict[str, Target | Unresolved]:
    """Each connection's target, or why it has none."""
    resolved: dict[str, Target | Unresolved] = {}
    waited = 0.0
    for conn_id in dict.fromkeys(conn_ids):
        begun = monotonic()
        try:
            if waited >= FAILING_AT_MOST:
                raise SecretsUnavailable(
                    f"the secrets backend failed for {waited:.0f} s, so the connection {conn_id} "
                    "was not looked up"
                )
            resolved[conn_id] = TencentImHook(conn_id).get_target(masked=masked)
        except Misconfigured as error:
            resolved[conn_id] = Unresolved(conn_id, error, error.region, error.sdk_app_id)
        except SecretsUnavailable as error:
            waited += monotonic() - begun
            resolved[conn_id] = Unresolved(conn_id, Unavailable(str(error), error_info=str(error)))
    return resolved


def with_known_apps(
    engine: Engine, targets: dict[str, Target | Unresolved]
) -> dict[str, Target | Unresolved]:
    """The targets, those without an app with the one that the record knows for the connection."""
    nameless = {
        conn_id: target
        for conn_id, target in targets.items()
        if isinstance(target, Unresolved) and target.app is None
    }
    if not nameless:
        return targets
    known = read_known_apps(engine, nameless)
    return targets | {
        conn_id: replace(nameless[conn_id], **app._asdict()) for conn_id, app in known.items()
    }


def doubly_listed(
    listed: Sequence[str], targets: Mapping[str, Target | Unresolved]
) -> dict[str, str]:
    """Connections that name the same app, or are listed twice, and why neither is polled."""
    by_app: dict[AppKey, list[str]] = defaultdict(list)
    for conn_id in listed:
        if app := targets[conn_id].app:
            by_app[app].append(conn_id)
    return {
        conn_id: f"app {app.address} is listed more than once in {settings.CONN_IDS}: by "
        f"{', '.join(conn_ids)}. Keep one of them."
        for app, conn_ids in by_app.items()
        if len(conn_ids) > 1
        for conn_id in conn_ids
    }


def targets_to_poll(
    engine: Engine,
    conn_ids: Sequence[str],
    misconfigured: Mapping[str, str],
    *,
    masked: bool,
    is_last_try: bool,
) -> tuple[list[Target | Unresolved], dict[str, str]]:
    """What to poll, and why the other connections cannot be polled in this try.

    ``misconfigured``: connections that must not be polled, with the reason.
    """
    targets = resolve(conn_ids, masked=masked)
    for conn_id in misconfigured.keys() & targets.keys():
        app = targets[conn_id].app or (None, None)
        targets[conn_id] = Unresolved(conn_id, Misconfigured(misconfigured[conn_id]), *app)
    targets = with_known_apps(engine, targets)
    # A poll needs an app unless it is misconfigured, and that outcome is final: a connection that
    # never polled waits for the last try.
    unknown = {
        conn_id: str(target.failure)
        for conn_id, target in targets.items()
        if isinstance(target, Unresolved)
        and target.app is None
        and isinstance(target.failure, Unavailable)
    }
    for conn_id, why in unknown.items():
        del targets[conn_id]
        if is_last_try:
            targets[conn_id] = Unresolved(conn_id, Misconfigured(why))
    return [*targets.values()], unknown


def still_misconfigured(
    planned: Iterable[str], listed: Sequence[str], *, masked: bool
) -> dict[str, str]:
    """Why connections that `plan` found doubly listed must not be polled now.

    The Variable and the connections may have been fixed since: then clearing `sync` is enough.
    """
    twice = doubly_listed(listed, resolve(listed, masked=masked))
    gone = f"it is not listed any more in {settings.CONN_IDS}: clear the whole run"
    return {
        conn_id: twice.get(conn_id, gone)
        for conn_id in planned
        if conn_id in twice or conn_id not in listed
    }


def size_of(targets: Sequence[Target | Unresolved]) -> int:
    """How many of these apps one task may have: all of them may hang for their whole time-out."""
    from im_attr_audit.sync import THREADS

    longest = max((getattr(target, "timeout", 0.0) for target in targets), default=0.0)
    return min(APPS_PER_TASK, int(THREADS * READS_AT_MOST / max(longest, 1.0)))


def split(
    region: str, ids: list[str], size: int, misconfigured: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the mapped `sync` instances of a region are given."""
    parts = -(-len(ids) // size)
    size = -(-len(ids) // parts)
    instances = []
    for part in range(parts):
        mine = ids[part * size : (part + 1) * size]
        instances.append(
            {
                "label": region if parts == 1 else f"{region} ({part + 1} of {parts})",
                "conn_ids": mine,
                "problems": {i: misconfigured[i] for i in mine if i in misconfigured},
            }
        )
    return instances
