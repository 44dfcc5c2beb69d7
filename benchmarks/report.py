"""The figures of compare-and-record, chain, calls and peers as docs/performance.md shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RECORD = """### Compare and record

A poll of all apps with ten names each, from the answers in memory to the commit. Our store is
compared with SQL written by hand for this case (COPY of the whole state, one statement that
compares it). Both write the same poll and app rows into the same tables with the same triggers, in
turn, on the same Postgres with fsync. Times are medians; the ratio is the median of the rounds'
ratios.
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def record(figures: Any) -> str:
    rows = [
        [
            f"{size['apps']:,}",
            f"{size['rounds']}",
            *(
                cell
                for what in ("changed", "nothing", "first")
                for cell in (
                    _ms(size[what]["seconds"]["ours"]),
                    _ms(size[what]["seconds"]["floor"]),
                    f"**{size[what]['ratio']:.2f}**",
                )
            ),
            f"{size['nothing_to_changed_floor']:.2f}",
        ]
        for size in figures["sizes"]
    ]
    head = ["apps", "rounds", "1 % of slots changed", "by hand", "ratio"]
    head += ["nothing changed", "by hand", "ratio", "baseline (once)", "by hand", "ratio"]
    head += ["nothing changed, to 1 % by hand"]
    few, many = (size["changed"]["seconds"]["ours"] for size in figures["same_changes"])
    return "\n\n".join(
        [
            _RECORD.strip(),
            _table(head, rows),
            f"With 100 changes each, 10,000 apps take {many / few:.1f} times what 1,000 "
            "take. The number of statements is the same for any number of apps: one where nothing "
            "changed, six where something did.",
        ]
    )


def chain(figures: Any) -> str:
    rows = [[name, f"{us:.1f} µs"] for name, us in figures.items()]
    return (
        "### What the chain costs\n\nThe time per change when one statement inserts 100,000 "
        "changes, with more and more of the database's work switched off:\n\n"
        + _table(["", "a change"], rows)
    )


def verify(figures: Any) -> str:
    return (
        f"### Checking the chain\n\nOf {figures['changes']:,} changes of {figures['apps']:,} apps, "
        f"`verify_chain()` checks {figures['verify_chain']:,.0f} a second; `im-attr-audit verify`, "
        f"which recomputes everything outside the database in {figures['processes']} processes, "
        f"replays the changes and compares every digest, **{figures['command']:,.0f}**. The server "
        f"alone writes {figures['read']:,.0f} a second to one connection that checks nothing: no "
        "checker outside the database is faster with that part of a processor."
    )


def calls(figures: Any) -> str:
    rates = figures["calls_per_second"]
    return (
        f"### Calls to the vendor\n\n{figures['apps']:,} apps of one region, "
        f"{figures['threads']} threads, a "
        f"simulator that answers after {figures['latency'] * 1000:.0f} ms: {rates['ours']:.0f} "
        f"calls a second; a bare `requests.Session` in as many threads {rates['bare']:.0f} "
        f"(**{figures['ratio']:.2f}**). TLS handshakes: {figures['handshakes']['ours']}. Most "
        f"calls for one app within a second: {figures['busiest_second_of_an_app']}. A signature "
        f"takes {figures['signature_us']:.0f} µs; each app was signed "
        f"{figures['signatures_per_app']} time(s) in all rounds."
    )


def peers(figures: Any) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    names = list(figures["sizes"][0]["sides"])
    rows = [
        [
            f"{size['apps']:,}",
            *(_cell(name, size["sides"][name]) for name in names),
        ]
        for size in figures["sizes"]
    ]
    return (
        "### Compared with other tools\n\nAn incremental poll with 1 % of the slots changed: the "
        "whole process / its compare-and-record step. All but the floor are multiples of "
        "hand-written SQL into our tables; the other tools' tables hold no polls, no bounds and no "
        "chain. A tool's times count only after its rows were compared with the expected ones. "
        f"{versions}.\n\n" + _table(["apps", *names], rows)
    )


def _cell(name: str, side: Mapping[str, float]) -> str:
    if name == "floor":
        return f"{_ms(side['whole'])} / {_ms(side['step'])}"
    return f"{side['whole_ratio']:.1f}x / {side['step_ratio']:.1f}x"
