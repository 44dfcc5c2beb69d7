"""What the control port returns, as values: a request in the log, what was true, an app to add."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from simulator.world import SimulatorError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Truth:
    """An app's names (and types) as they truly were from ``since`` on, until the next one."""

    since: datetime
    names: dict[int, str]
    types: dict[int, int]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One request and what was truly answered; see ``journal.Entry`` for the fields' meaning."""

    seq: int
    connection: int
    region: str
    port: int
    method: str
    app_id: int | None
    api: str | None
    arrived_at: datetime
    departed_at: datetime | None
    departure: int | None
    result: str
    names: dict[int, str] | None
    types: dict[int, int] | None
    truth_since: datetime | None
    code: int | None
    info: str | None
    status: int | None
    body_size: int | None
    fault: str | None
    complete: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class NewApp:
    """An app to be added. ``settings``: see ``world.SETTINGS``."""

    region: str
    app_id: int
    names: Mapping[int, str]
    types: Mapping[int, int] | None = None
    key: str | None = None
    admins: Sequence[str] = ("administrator",)
    settings: Mapping[str, Any] | None = None


def moment(microseconds: int) -> datetime:
    """The moment that many microseconds after 1970 UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def slots(answer: Mapping[str, Any]) -> dict[int, Any]:
    """JSON's keys are text; slots are numbers."""
    return {int(slot): value for slot, value in answer.items()}


def fault_as_json(fault: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """The fault as JSON can carry it: a body of bytes in base64."""
    if isinstance(fault, str):
        return fault
    fields = dict(fault)
    if isinstance(fields.get("body"), bytes):
        fields["body_b64"] = base64.b64encode(fields.pop("body")).decode()
    return fields


def log_entries(answer: Mapping[str, Any]) -> list[LogEntry]:
    """The entries of an answer to ``GET /log``; SimulatorError where older ones were dropped."""
    if answer["let_go"]:
        raise SimulatorError(f"the log has dropped {answer['let_go']} entries: use forget_log()")
    entries = []
    for entry in answer["entries"]:
        for ours, theirs in (
            ("arrived_at", "arrived_us"),
            ("departed_at", "departed_us"),
            ("truth_since", "truth_us"),
        ):
            at = entry.pop(theirs)
            entry[ours] = None if at is None else moment(at)
        for field in ("names", "types"):
            entry[field] = None if entry[field] is None else slots(entry[field])
        entries.append(LogEntry(**entry))
    return entries
