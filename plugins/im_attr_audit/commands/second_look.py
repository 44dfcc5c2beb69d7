"""A second pair of eyes: ask the vendor with connections of its own, and remember the answers.

Nothing here comes from Airflow or from the deployment: the connections are in a file that only its
owner may read. An answer is compared once the record has a good poll after it, so answers that wait
are kept in a file beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError, Misconfigured, PollFailed
from im_attr_audit.record.looks import Look
from im_attr_audit.tencent.client import TencentImClient
from im_attr_audit.tencent.target import Target, target_from_connection


class BadConnections(AttrAuditError):
    """The file of connections, or of answers that wait, cannot be used; the text says why."""


def read_targets(path: Path) -> list[Target]:
    """The apps of a file: a JSON object of conn_id to a connection's login, password and extra.

    Raises BadConnections, also where others than its owner may read the file, and Misconfigured.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadConnections(f"{path} is readable by others: run chmod 600 on it")
            found = json.load(file)
        connections = [(str(conn_id), dict(given)) for conn_id, given in found.items()]
    except OSError as error:
        raise BadConnections(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError):
        # Not the reason: it would quote the file, which has keys in it.
        raise BadConnections(f"{path} is not a JSON object of connections") from None
    if not connections:
        raise BadConnections(f"{path} has no connection: nothing would be compared")
    fields = ("login", "password", "host", "port", "extra")
    return [
        target_from_connection(conn_id, **{name: given.get(name) for name in fields})
        for conn_id, given in connections
    ]


def in_turn(targets: Sequence[Target], run: int, most: int) -> list[Target]:
    """The apps that run number ``run`` asks: at most so many, each of them in its turn."""
    count = min(most, len(targets))
    return [targets[(run * count + place) % len(targets)] for place in range(count)]


def look(
    targets: Sequence[Target],
    *,
    pause: Callable[[], None],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[list[Look], list[str]]:
    """Ask the vendor for each app, with a pause between two; the answers, and what failed."""
    looks, failed = [], []
    for place, target in enumerate(targets):
        if place:
            pause()
        asked_at = now()
        try:
            answer = TencentImClient(target).get_attr_names()
        except (PollFailed, Misconfigured) as error:
            failed.append(f"{target.app.address}: {error}")
            continue
        names = {slot: name.name for slot, name in answer.names.items()}
        looks.append(Look(target.app, target.api, asked_at, now(), names))
    return looks, failed


def read_waiting(path: Path) -> list[Look]:
    """The answers that wait to be compared; none where there is no file. Raises BadConnections."""
    try:
        return [_read(each) for each in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadConnections(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadConnections(f"{path} does not hold answers that wait to be compared") from None


def write_waiting(path: Path, looks: Sequence[Look]) -> None:
    """Replace the file as a whole. Raises BadConnections."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(json.dumps([_written(each) for each in looks]), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BadConnections(f"{path} cannot be written: {error.strerror}") from None


def _written(each: Look) -> dict[str, Any]:
    return {
        "region": each.app.region,
        "sdk_app_id": each.app.sdk_app_id,
        "api": each.api,
        "asked_at": each.asked_at.isoformat(),
        "answered_at": each.answered_at.isoformat(),
        "names": {str(slot): name for slot, name in each.names.items()},
    }


def _read(given: Mapping[str, Any]) -> Look:
    return Look(
        AppKey(given["region"], given["sdk_app_id"]),
        given["api"],
        datetime.fromisoformat(given["asked_at"]),
        datetime.fromisoformat(given["answered_at"]),
        {int(slot): name for slot, name in given["names"].items()},
    )
