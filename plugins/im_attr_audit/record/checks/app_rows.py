"""What the stored rows of some apps must be: their chains, their snapshot, its digests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from sqlalchemy import Connection

from im_attr_audit.apps import AppKey
from im_attr_audit.record.checks.canonical import NULL, Chains, State, runs
from im_attr_audit.record.checks.heads import Finding, Head, Watched
from im_attr_audit.record.checks.quick_chains import QuickChains
from im_attr_audit.record.checks.tables import Range, read_rows

Replayed = dict[AppKey, dict[bytes, State]]


@dataclass(frozen=True, slots=True)
class _Digests:
    """As hex, as the columns of app hold them: of slots, names and types; of slots and names."""

    snapshot: bytes
    names: bytes

    @classmethod
    def of(cls, slots: Mapping[bytes, State]) -> _Digests:
        items = sorted(slots.items(), key=lambda item: int(item[0]))
        return cls(
            _hex(b"[%b, %b, %b]" % (slot, state[0], state[1]) for slot, state in items),
            _hex(b"[%b, %b]" % (slot, state[0]) for slot, state in items),
        )


def _hex(items: Iterable[bytes]) -> bytes:
    return sha256(b"[" + b", ".join(items) + b"]").hexdigest().encode()


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in the rows of some apps. ``watched``: those of them that have a witness.

    ``spans_follow``: whether the columns that the database derives for spans were seen to follow.
    """

    rows: int
    heads: tuple[Head, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    watched: dict[AppKey, Watched]
    spans_follow: bool


def check_apps(connection: Connection, apps: Range, watched: Mapping[AppKey, Watched]) -> Part:
    """Check these apps' changes, snapshot and digests, in the transaction that is open."""
    quick = QuickChains("database", watched)
    quick.read(connection, apps)
    rows, heads, replayed = quick.results()
    chains = Chains("database", watched)
    if quick.doubtful != set():
        only = None if quick.doubtful is None else tuple(quick.doubtful)
        doubtful = replace(apps, only=only)
        order = "c.region, c.sdk_app_id, c.seq"
        read_rows(connection, "change", doubtful, order, chains.add_columns)
        chains.end()
    heads |= chains.heads
    replayed |= chains.replayed
    unlike, digests = _compare_snapshot(connection, apps, replayed)
    hidden, notes = _compare_apps(connection, apps, replayed, digests)
    return Part(
        rows + chains.rows,
        tuple(head for _, head in sorted(heads.items())),
        (*chains.findings, *unlike, *hidden),
        notes,
        {app: watched[app] for app in heads if app in watched},
        spans_follow=quick.doubtful == set(),
    )


def _compare_snapshot(
    connection: Connection, apps: Range, replayed: Replayed
) -> tuple[list[Finding], dict[AppKey, _Digests]]:
    """The stored snapshot must be what replaying gives; also its digest for each app."""
    findings: list[Finding] = []
    digests: dict[AppKey, _Digests] = {}
    place: tuple[bytes, bytes] | None = None
    stored: dict[bytes, State] = {}

    def end_app() -> None:
        if place is None:
            return
        app = AppKey(json.loads(place[0]), int(place[1]))
        digests[app] = _Digests.of(stored)
        slots = replayed.get(app, {})
        if slots != stored:
            unlike = {slot for slot in slots.keys() | stored if slots.get(slot) != stored.get(slot)}
            findings.extend(_unlike(app, slot) for slot in sorted(unlike, key=int))

    def take(columns: list[list[bytes]]) -> None:
        nonlocal place, stored
        regions, numbers, slots, names, types, not_before, seen_at = columns
        values = zip(names, types, not_before, seen_at, strict=True)
        states = list(zip(slots, values, strict=True))
        for begin, end in runs(regions, numbers):
            if (regions[begin], numbers[begin]) != place:
                end_app()
                place, stored = (regions[begin], numbers[begin]), {}
            stored.update(states[begin:end])

    read_rows(connection, "snapshot", apps, "c.region, c.sdk_app_id, c.slot", take)
    end_app()
    for app in sorted(app for app, slots in replayed.items() if slots and app not in digests):
        findings += [_unlike(app, slot) for slot in sorted(replayed[app], key=int)]
    return findings, digests


def _unlike(app: AppKey, slot: bytes) -> Finding:
    what = f"snapshot slot {slot.decode()} is not what replaying its changes gives"
    return Finding(*app, None, what, "snapshot")


def _compare_apps(
    connection: Connection,
    apps: Range,
    replayed: Replayed,
    digests: Mapping[AppKey, _Digests],
) -> tuple[list[Finding], tuple[str, ...]]:
    """An app's digest must be that of its snapshot, and no app with changes may be hidden."""
    findings: list[Finding] = []
    notes: list[str] = []
    hidden = set(replayed)

    def take(columns: list[list[bytes]]) -> None:
        for region, number, first_ok_at, snapshot, names in zip(*columns, strict=True):
            app = AppKey(json.loads(region), int(number))
            if app not in replayed and (not _is_label(app.region) or app.sdk_app_id <= 0):
                notes.append(
                    f"attr_audit.app has a row for region {app.region!r}, SDKAppID "
                    f"{app.sdk_app_id}, which cannot be an app and has no changes. It was added "
                    "without polling; the owner can delete it."
                )
                continue
            if first_ok_at == NULL:
                continue
            hidden.discard(app)
            right = digests.get(app) or _Digests.of({})
            if snapshot != right.snapshot:
                what = "app.snapshot_digest is not that of the snapshot"
                findings.append(Finding(*app, None, what, "snapshot"))
            elif names not in (b"", right.names):  # empty: not polled since the column exists
                what = "app.names_digest is not that of the snapshot"
                findings.append(Finding(*app, None, what, "snapshot"))

    read_rows(connection, "app", apps, "c.region, c.sdk_app_id", take)
    findings += [
        Finding(*app, None, "has changes, but no row in app that lets views show them", "app")
        for app in sorted(hidden)
    ]
    return findings, tuple(notes)


def _is_label(region: str) -> bool:
    return bool(re.fullmatch(r"[^/\x00-\x1f\s](?:[^/\x00-\x1f]*[^/\x00-\x1f\s])?", region))
