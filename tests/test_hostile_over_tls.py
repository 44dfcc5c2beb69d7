"""Hostile answers through the whole sync, over TLS into Postgres: one documented outcome each."""

from __future__ import annotations

import gzip
import itertools
import random
import zlib
from collections.abc import Iterator
from typing import Any

from im_attr_audit.errors import PollFailed
from im_attr_audit.tencent.redact import redact
from im_attr_audit.tencent.target import Target

from simulator.control import Simulator
from tests import hostile
from tests.conftest import AuditDb
from tests.counts import count
from tests.hostile import parse
from tests.rig import Rig, app_of, assert_chains_hold

ANSWERS = 520
AT_ONCE = 26
REGIONS = ("china", "frankfurt")
_TITLE = "hostile answers over TLS, by outcome"
#: What one read can lead to; the others need a second read, or another poll.
_OUTCOMES = {"ok", "rejected", "unavailable", "invalid"}

#: How a body may be wrapped: what the headers say, and what they do to what is expected.
_STATUSES = [200] * 60 + [204, 206, 301, 302, 304, 400, 403, 404, 407, 418, 429, 500, 502, 503, 599]
_CHARSETS = ["utf-8", "gbk", "utf-16", "latin-1", "nonsense", '"', "\u00e9"]


def _wrapped(chance: random.Random, body: bytes) -> tuple[dict[str, Any], str | None]:
    """The fault that sends it, and the outcome where parsing the body alone shows it."""
    fault: dict[str, Any] = {"kind": "raw", "body": body, "status": chance.choice(_STATUSES)}
    headers = {}
    if chance.random() < 0.5:
        headers["Content-Type"] = f"text/html; charset={chance.choice(_CHARSETS[:-1])}"
    if chance.random() < 0.2:
        headers["Date"] = chance.choice(["", "yesterday", "Thu, 99 Foo 0000", "-1", "9" * 400])
    fault["chunked"] = chance.random() < 0.3
    status = fault["status"]
    expected: str | None
    try:
        names = parse(body, http_status=status)
        # A name that reads like a secret is not recorded: see the client.
        secret = any(redact(name.name, secrets=()) != name.name for name in names.values())
        expected = "invalid" if secret else "ok"
    except PollFailed as failure:
        expected = failure.outcome
    kind = chance.random()
    if kind < 0.08:
        headers["Content-Encoding"], fault["body"] = "gzip", gzip.compress(body)
    elif kind < 0.12:
        headers["Content-Encoding"], fault["body"] = "deflate", zlib.compress(body)
    elif kind < 0.2:
        headers["Content-Encoding"] = chance.choice(
            ["gzip", "br", "zstd", "x-nonsense", "gzip, gzip"]
        )
        expected = None
    elif kind < 0.24:
        fault["seconds"] = 0.001
    if headers:
        fault["headers"] = headers
    if status in (204, 304):  # such an answer has no body: what follows is not looked at
        expected = None
    return fault, expected


def _tricks() -> list[dict[str, Any]]:
    """What the body alone does not decide."""
    return [
        {"kind": "raw", "body": hostile.slots(1_000_000)},
        {"kind": "raw", "body": b'{"AttrNames":{"0":"' + b"a" * 1_000_000 + b'"}}'},
        {"kind": "oversize", "size": 1_200_000, "chunked": True},
        {"kind": "gzip_bomb", "size": 50_000_000},
        {"kind": "half"},
        {"kind": "half", "where": "headers"},
        {"kind": "drop"},
        {"kind": "drop", "reset": True},
        {"kind": "redirect"},
        {"kind": "redirect", "status": 308, "location": "http://127.0.0.1/%0d%0a"},
        {"kind": "raw", "body": b"", "headers": {"Content-Length": "99999999999"}, "status": 200},
    ]


def answers(rig: Rig, number: int, seed: int) -> None:
    """So many, each to an app of its own; some at once."""
    chance = random.Random(seed)
    bodies = itertools.chain(hostile.PIECES.values(), hostile.bodies(seed))
    made: Iterator[tuple[dict[str, Any], str | None]] = itertools.chain(
        ((trick, None) for trick in _tricks()), (_wrapped(chance, body) for body in bodies)
    )
    done = 0
    while done < number:
        faults = list(itertools.islice(made, min(AT_ONCE, number - done)))
        targets = [rig.add_app(chance.choice(REGIONS), {0: "sex", 1: "city"}) for _ in faults]
        old = targets[: len(targets) // 2]  # half of them have been seen before
        assert set(rig.outcomes(*old)) == {"ok"}
        for target, (fault, _) in zip(targets, faults, strict=True):
            rig.fault(target, fault, times=4)
        outcomes = rig.outcomes(*targets, run=rig.new_run())
        rig.simulator.clear_faults()
        _check(rig, targets, faults, outcomes, known=len(old))
        done += len(faults)


def _check(
    rig: Rig,
    targets: list[Target],
    faults: list[tuple[dict[str, Any], str | None]],
    outcomes: list[str],
    known: int,
) -> None:
    record = rig.record(*targets)
    for place, (target, (fault, expected), outcome) in enumerate(
        zip(targets, faults, outcomes, strict=True)
    ):
        poll = record.polls_of(app_of(target))[-1]
        assert poll.outcome == outcome
        names = record.names_of(app_of(target))
        if outcome == "unstable":  # valid, and without any name: that waits for the next run
            assert expected in ("ok", None)
            assert place < known
            assert names == {0: "sex", 1: "city"}
        else:
            assert outcome in _OUTCOMES
            assert expected in (outcome, None), (fault, outcome)
        if outcome not in ("ok", "unstable"):
            assert names == ({0: "sex", 1: "city"} if place < known else {})
            assert len(record.changes_of(app_of(target))) == (2 if place < known else 0)
            assert poll.error_info
        elif outcome == "ok" and expected == "ok":
            assert names == {s: n.name for s, n in parse(_body_of(fault)).items()}
        count(_TITLE, outcome)


def _body_of(fault: dict[str, Any]) -> bytes:
    body: bytes = fault["body"]
    encoding = fault.get("headers", {}).get("Content-Encoding")
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


def test_every_hostile_answer_ends_in_one_documented_outcome_and_records_nothing_false(
    simulator: Simulator, audit_db: AuditDb
) -> None:
    answers(Rig(simulator, audit_db.writer), ANSWERS, seed=5)
    assert_chains_hold(audit_db.writer)
