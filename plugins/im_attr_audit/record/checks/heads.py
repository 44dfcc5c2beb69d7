"""Heads of the chains: where each app's record ended when something outside witnessed it.

A head is an app's newest ``seq`` and that row's hash. Airflow's asset events and heads files keep
them outside the audit database. A consistent rewrite, a cut tail or a dropped app is found only
against them.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import AttrAuditError


class NotAnExport(AttrAuditError):
    """A file is not of the expected form; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of an app's chain as ``witness`` saw it: ``seq`` and the row's hash in hex."""

    region: str
    sdk_app_id: int
    seq: int
    hash: str
    witness: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was recorded; ``seq`` is the first bad row, where known.

    ``category`` groups findings of one sort: at most 20 of each are shown.
    """

    region: str
    sdk_app_id: int
    seq: int | None
    text: str
    category: str = "chain"

    def __str__(self) -> str:
        at = f" seq {self.seq}" if self.seq is not None else ""
        return f"{AppKey(self.region, self.sdk_app_id).address}{at}: {self.text}"


@dataclass(slots=True)
class Watched:
    """What a chain has where its witnesses look: hashes by seq, ranges of missing rows, its end."""

    wanted: frozenset[int]
    hashes: dict[int, str] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    last: int = 0

    def note(self, first: int, hashes: Sequence[bytes]) -> None:
        """The rows from ``first`` on, by their hashes in hex."""
        for seq, row_hash in enumerate(hashes, first):
            if seq in self.wanted:
                self.hashes[seq] = row_hash.decode(errors="replace")
        self.last = first + len(hashes) - 1

    def first_missing(self, since: int) -> int:
        """The first seq from ``since`` on that the chain lacks."""
        for first, last in self.gaps:
            if last >= since:
                return max(first, since)
        return max(self.last + 1, since)


def watch(witnessed: Iterable[Head]) -> dict[AppKey, Watched]:
    """What to note of each witnessed app while its chain is read."""
    seqs: dict[AppKey, set[int]] = {}
    for head in witnessed:
        seqs.setdefault(AppKey(head.region, head.sdk_app_id), set()).add(head.seq)
    return {app: Watched(frozenset(wanted)) for app, wanted in seqs.items()}


def check_heads(
    witnessed: Iterable[Head], watched: Mapping[AppKey, Watched]
) -> tuple[Finding, ...]:
    """Compare heads witnessed earlier with the chains as they are now.

    Rows newer than an app's newest witness are fine: they are not witnessed yet. A finding names
    the first witnessed row that is missing or different, and the last that still agrees.
    """
    by_app: dict[AppKey, list[Head]] = {}
    for head in witnessed:
        by_app.setdefault(AppKey(head.region, head.sdk_app_id), []).append(head)
    findings = []
    for app, heads in sorted(by_app.items()):
        agreed = 0
        for head in sorted(heads, key=lambda head: head.seq):
            now = watched[app].hashes.get(head.seq)
            if now == head.hash:
                agreed = head.seq
                continue
            first = agreed + 1
            if now is None:
                first = min(watched[app].first_missing(first), head.seq)
                what = f"rows from here to seq {head.seq}, witnessed by {head.witness}, are gone"
            else:
                what = (
                    f"rewritten: seq {head.seq} had another hash when witnessed by "
                    f"{head.witness}; the edit is in seq {first} to {head.seq}"
                )
            findings.append(Finding(*app, first, what, "witness"))
            break
    return tuple(findings)


def save_heads(heads: Iterable[Head], path: Path, at: datetime) -> None:
    """Write heads to a file that `read_heads` reads, whole or not at all.

    The caller has compared an existing file with the record before (`check_heads`).
    """
    document = {
        "saved_at": at.isoformat(),
        "heads": [
            {"region": h.region, "sdk_app_id": h.sdk_app_id, "seq": h.seq, "hash": h.hash}
            for h in sorted(heads, key=lambda h: (h.region, h.sdk_app_id))
        ],
    }
    path = path.resolve()  # a link stays, and its target is replaced
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_heads(path: Path) -> list[Head]:
    """Heads from a file that was saved earlier. Raises NotAnExport."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [
            Head(str(h["region"]), int(h["sdk_app_id"]), int(h["seq"]), str(h["hash"]), str(path))
            for h in document["heads"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnExport(
            f"{path} is not a file of `im-attr-audit verify --save-heads`: {error}"
        ) from None


def heads_of_event(extra: Any, witness: str) -> Iterator[Head]:
    """The heads in the ``extra`` of one asset event of im-attr-audit/changes, and nothing else."""
    if not isinstance(extra, Mapping):
        return
    heads = extra.get("chain_heads")
    if not isinstance(heads, Mapping):
        return
    for sdk_app_id, head in heads.items():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield Head(
                str(extra["region"]), int(sdk_app_id), int(head["seq"]), str(head["hash"]), witness
            )
