"""`make soak`: the proofs of `make test` at length, for SOAK_MINUTES, and a report of the counts.

Each of several processes has a Postgres and a simulator of its own. Seeds differ from run to run; a
history that fails is reported in its smallest form, with the line that repeats it. What a run is
to reach at least is in ``TARGETS``; with too few minutes it does not, and the report says so.
While the file that ``SOAK_PAUSE`` names exists nothing new is begun, and the minutes do not count:
something else may be measured at the same time.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from im_attr_audit.errors import PollFailed
from im_attr_audit.tencent.redact import safe_text

from launch.postgres import THROWAWAY, EmbeddedPostgres
from launch.processes import wait_until
from simulator.control import Simulator
from tests import hostile, test_histories, test_hostile_over_tls, test_kill_points, test_overlap
from tests.children import Children
from tests.conftest import WRITER, fresh_audit_db, make_template
from tests.counts import count, everything, lines, take_over
from tests.rig import Rig, assert_chains_hold

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "soak-report.md"
REGIONS = test_histories.REGIONS
#: What a run is to reach at least: title and line (None: all lines) → number.
TARGETS = {
    ("histories: what they held", "histories"): 50_000,
    (hostile.PARSED, None): 1_000_000,
    ("SIGKILL of a sync at a named site", None): 1_000,
    ("SIGKILL of a sync at a random instant, by the site it had passed last", None): 1_000,
    ("processes that synced the same apps at the same moment", "2 at once"): 500,
    ("hostile answers over TLS, by outcome", None): 5_000,
}
#: Which part of the time each takes; the histories take what is left.
SHARES = {"parser": 0.016, "kills": 0.04, "overlaps": 0.015, "tls": 0.01}


def parse_hostile(number: int, seed: int) -> None:
    """So many made-up answers: each is names or one of three errors, and nothing else."""
    for body in itertools.islice(hostile.bodies(seed), number):
        safe_text(body.decode("utf-8", "backslashreplace"), secrets=["0123456789abcdef" * 4])
        try:
            hostile.parse(body)
        except PollFailed as failure:
            count(hostile.PARSED, failure.outcome)
        else:
            count(hostile.PARSED, "ok")


class Worker:
    """One process: everything in turn until its time is over."""

    def __init__(self, seed: int, minutes: float) -> None:
        self.chance = random.Random(seed)
        self.minutes = minutes
        self.paused = 0.0

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="im-attr-audit-soak-") as folder:
            directory = Path(folder)
            with ExitStack() as stack:
                server = EmbeddedPostgres(directory / "postgres", settings=THROWAWAY)
                stack.callback(server.destroy)
                server.start()
                template = make_template(server)
                simulator = stack.enter_context(
                    Simulator.start(directory / "simulator", regions=REGIONS, lasting=False)
                )
                children = stack.enter_context(Children())
                self._all(server, template, simulator, children)

    def _all(
        self, server: EmbeddedPostgres, template: str, simulator: Simulator, children: Children
    ) -> None:
        @contextmanager
        def rig() -> Iterator[tuple[Rig, str]]:
            simulator.reset()
            with fresh_audit_db(server, template) as db:
                yield Rig(simulator, db.writer), db.url(WRITER)
                assert_chains_hold(db.writer)

        def kills() -> None:
            with rig() as (of, url):
                scene = test_kill_points.Scene(of, url, children)
                test_kill_points.kill_at_named_sites(scene, 1)
                test_kill_points.kill_at_random_instants(scene, 60, seed=self._seed())

        def overlaps() -> None:
            with rig() as (of, url):
                test_overlap.overlap(of, url, 60, processes=2, seed=self._seed())
                test_overlap.overlap(of, url, 20, processes=3, seed=self._seed())

        def tls() -> None:
            with rig() as (of, _):
                test_hostile_over_tls.answers(of, 520, seed=self._seed())

        def histories() -> None:
            test_histories.run_histories(simulator, server, template, 250, of_seed=None)

        began = self._worked()
        for what, share in (
            (lambda: parse_hostile(10_000, self._seed()), SHARES["parser"]),
            (kills, SHARES["kills"]),
            (overlaps, SHARES["overlaps"]),
            (tls, SHARES["tls"]),
        ):
            self._repeat(what, self._worked() + share * self.minutes * 60)
        self._repeat(histories, began + self.minutes * 60)

    def _seed(self) -> int:
        return self.chance.randrange(2**32)

    def _repeat(self, what: Callable[[], None], until: float) -> None:
        what()
        while self._worked() < until:
            what()

    def _worked(self) -> float:
        """Seconds, less those of pauses; returns when no pause is wanted."""
        file, came = os.environ.get("SOAK_PAUSE"), time.monotonic()
        wait_until(lambda: not (file and Path(file).exists()), seconds=math.inf, interval=1)
        now = time.monotonic()
        self.paused += now - came
        return now - self.paused


def work(seed: int, minutes: float, result: Path) -> int:
    """In a process of its own; its counts, and how it failed, go into a file."""
    # The vendor's clock is off on purpose in many histories, and each warns of it.
    logging.getLogger("im_attr_audit").setLevel(logging.ERROR)
    failure = None
    try:
        Worker(seed, minutes).run()
    except BaseException:
        failure = traceback.format_exc()
        # The others run for long; print the failure now instead of in the report only.
        sys.stderr.write(f"seed {seed} failed:\n{failure}")
    result.write_text(json.dumps({"counts": everything(), "failure": failure}))
    return 0 if failure is None else 1


def main() -> int:
    minutes = float(os.environ.get("SOAK_MINUTES", "120"))
    number = int(os.environ.get("SOAK_PROCESSES", str(os.cpu_count() or 1)))
    seed = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(2**32))))
    sys.stderr.write(f"soaking for {minutes:g} minutes in {number} processes, seed {seed}\n")
    began, commit = datetime.now(UTC), _commit()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{place}.json" for place in range(number)]
        crowd = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.soak", "work"),
                    *(str(seed + place), str(minutes), str(result)),
                ],
                cwd=ROOT,
            )
            for place, result in enumerate(results)
        ]
        for place, (process, result) in enumerate(zip(crowd, results, strict=True)):
            process.wait()
            summary = json.loads(result.read_text()) if result.is_file() else {}
            take_over(summary.get("counts", {}))
            if process.returncode != 0:
                why = summary.get("failure") or f"ended with {process.returncode}"
                failures.append(f"seed {seed + place}: {why}")
    short = _short_of_targets()
    report = _report(began, commit, minutes, number, seed, failures, short)
    path = Path(os.environ.get("SOAK_REPORT", REPORT))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    sys.stdout.write(report)
    return 1 if failures else 0


def _short_of_targets() -> list[str]:
    counts = everything()
    short = []
    for (title, line), wanted in TARGETS.items():
        lines_of = counts.get(title, {})
        found = sum(lines_of.values()) if line is None else lines_of.get(line, 0)
        if found < wanted:
            short.append(f"{title}{f', {line}' if line else ''}: {found:,} of {wanted:,}")
    return short


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = " (with changes that are not committed)" if git("status", "--porcelain") else ""
    return git("rev-parse", "HEAD") + changed


def _report(
    began: datetime,
    commit: str,
    minutes: float,
    number: int,
    seed: int,
    failures: list[str],
    short: list[str],
) -> str:
    outcome = "no failure" if not failures else f"{len(failures)} FAILED"
    page = [
        "# Report of the last soak run",
        "",
        "Written by `make soak`; see `tests/soak.py`. Everything against a real Postgres and the",
        "simulator; every property is checked in every case.",
        "",
        f"- result: {outcome}",
        f"- commit: {commit}",
        f"- started: {began:%Y-%m-%d %H:%M} UTC, for {minutes:g} minutes in {number} processes",
        f"- machine: {os.cpu_count()} cores of {platform.machine()}, {_memory()}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"- seed: {seed} (`SOAK_SEED`)",
        "",
        "```",
        *lines(),
        "```",
        "",
    ]
    if short:
        page += [
            "Goals of a full run that this run did not reach:",
            "",
            *(f"- {each}" for each in short),
            "",
        ]
    for failure in failures:
        page += ["```", failure.strip(), "```", ""]
    return "\n".join(page)


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        sys.exit(work(int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
    sys.exit(main())
