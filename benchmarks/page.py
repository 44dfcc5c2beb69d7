"""How fast the page is: its answers, its views in a browser, and how a matrix of all apps scrolls.

Makes a record for each size, starts Airflow with FAB before it, and measures in one run, in turns
every API answer over HTTP, an empty one behind the same guard, the same SQL in psql; then views.
"""

from __future__ import annotations

import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from im_attr_audit.page.app import make_app
from im_attr_audit.page.reader import Reader
from im_attr_audit.record.upkeep.migrate import migrate
from im_attr_audit.record.upkeep.roles import READER
from sqlalchemy import Engine, event

from benchmarks.page_views import (
    Framed,
    Scrolling,
    View,
    measure_framed,
    measure_scrolling,
    measure_views,
    opened_browser,
)
from launch.postgres import THROWAWAY, EmbeddedPostgres, bundled_binaries
from tests.browser.airflow import SHOWN, Airflow, ShownDatabase
from tests.browser.large import APP, NEEDLE, REGION, Size, fill_record, regroup

#: The views are measured at every size, the answers at the middle one.
SIZES = (Size(6, 12_000, 31), Size(200, 1_000_000, 31), Size(2_000, 200_000, 1))
QUICK = (Size(6, 600, 1), Size(200, 20_000, 1), Size(2_000, 40_000, 1, 240))
ANSWERED = 200
ROUNDS, VIEW_ROUNDS = 15, 9
FACTOR, ALLOWANCE_MS = 1.5, 15.0
#: Seconds until a view is complete, by number of apps: the first time, and again.
LIMITS = {6: (0.5, 0.2), 200: (0.5, 0.2), 2_000: (1.0, 1.0)}
MAX_NODES = 3_000

#: What the API may cost beyond its SQL, and what is measured: name -> address.
QUESTIONS = {
    "overview": "overview",
    "names": "names",
    "search by a rare name": "search?name={needle}",
    "now": "now",
    "now, a group": "now?group=group+7",
    "setup": "setup",
    "changes, newest": "changes",
    "changes, a page deep": "changes?before={deep}",
    "changes of an app": "changes?app={region}/{app}",
    "changes of a group, one kind": "changes?group=group+7&kind=removed",
    "changes by a rare name": "changes?name={needle}",
    "changes, unreviewed": "changes?review=unreviewed",
    "changes, counted": "changes/count?group=group+7",
    "change": "change?region={region}&sdk_app_id={app}&seq=100",
    "run": "run?run={run}",
    "timeline, 30 days, 12 apps": "timeline?lanes=all",
    "timeline, what changed": "timeline",
    "timeline, an app": "timeline?app={region}/{app}",
    "as of": "as-of?at={month_ago}",
    "as of, half a year ago": "as-of?at={half_year_ago}",
    "as of, compared": "as-of?at={month_ago}&compare={half_year_ago}",
    "attest, a month": "attest?group=group+7",
    "attest, a month, all apps": "attest",
    "health": "health",
}


@dataclass
class Measured:
    """Medians in milliseconds."""

    name: str
    api: float
    empty: float
    sql: float
    size: int

    @property
    def allowed(self) -> float:
        return FACTOR * self.sql + self.empty + ALLOWANCE_MS


def measure(quick: bool) -> dict[str, str]:
    """Every answer and every view; what is shown of it."""
    with tempfile.TemporaryDirectory(prefix="im-attr-audit-bench-") as folder:
        postgres = EmbeddedPostgres(
            Path(folder) / "postgres", settings={**THROWAWAY, "shared_buffers": "512MB"}
        )
        postgres.start()
        try:
            return {"page": _bench(postgres, Path(folder), quick)}
        finally:
            postgres.stop()
            postgres.destroy()


def render(figures: dict[str, str]) -> str:
    """The page's section."""
    return figures["page"]


def _bench(postgres: EmbeddedPostgres, folder: Path, quick: bool) -> str:
    sizes = QUICK if quick else SIZES
    # As Airflow has it where nobody sets it; the tests' stage forgets users sooner.
    airflow = Airflow(folder, postgres, environment={"AIRFLOW__FAB__CACHE_TTL": "30"})
    airflow.start()
    try:
        shown = ShownDatabase(postgres)
        made = {}
        for size in sizes:
            _say(f"A record of {size.changes:,} changes of {size.apps:,} apps …")
            made[size.apps] = _make_record(postgres, size)
        airflow.wait()
        viewer, admin = airflow.token("viewer"), airflow.token("admin")
        answers: list[Measured] = []
        views: dict[int, dict[str, View]] = {}
        with opened_browser() as browser:
            for apps, now in made.items():
                shown.show(f"apps_{apps}")
                texts = _texts(now)
                rounds = 1 if quick else VIEW_ROUNDS
                if apps == ANSWERED:
                    answers = _answers(airflow, viewer, postgres, texts, 2 if quick else ROUNDS)
                    framed = measure_framed(browser, airflow, admin, rounds)
                views[apps] = measure_views(browser, airflow, viewer, texts, rounds)
                _say(f"{apps} apps: {views[apps]}")
            scrolling = measure_scrolling(browser, airflow, viewer, regroup(postgres, SHOWN))
            _say(f"{scrolling}")
    finally:
        airflow.stop()
    return _section(sizes, answers, views, framed, scrolling)


def _make_record(postgres: EmbeddedPostgres, size: Size) -> datetime:
    database = f"apps_{size.apps}"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {database}")
    migrate(postgres.url(database))
    return fill_record(postgres, database, size)


def _texts(now: datetime) -> dict[str, str]:
    deep = now - timedelta(days=180)
    return {
        "app": str(APP),
        "region": REGION,
        "needle": NEEDLE,
        "deep": f"{int(deep.timestamp()) * 1_000_000}.1",
        "month_ago": (now - timedelta(days=30)).isoformat().replace("+00:00", "Z"),
        "half_year_ago": (now - timedelta(days=182)).isoformat().replace("+00:00", "Z"),
        "run": (now - timedelta(minutes=1)).strftime("scheduled__%Y-%m-%dT%H:%M"),
    }


# Over HTTP -------------------------------------------------------------------------------------


def _answers(
    airflow: Airflow,
    token: str,
    postgres: EmbeddedPostgres,
    texts: Mapping[str, str],
    rounds: int,
) -> list[Measured]:
    paths = {name: f"api/{path.format(**texts)}" for name, path in QUESTIONS.items()}
    scripts = _scripts(postgres, paths)
    connection = http.client.HTTPConnection("127.0.0.1", airflow.port)
    answers = []
    for name, path in paths.items():
        api, empty, sql = [], [], []
        size = 0
        for round_ in range(-2, rounds):
            spent, size = _get(connection, path, token)
            nothing, _ = _get(connection, "static/x/theme.js", token)
            bare = _psql(postgres, scripts[name])
            if round_ >= 0:
                api.append(spent)
                empty.append(nothing)
                sql.append(bare)
        found = Measured(
            name, statistics.median(api), statistics.median(empty), statistics.median(sql), size
        )
        _say(f"{name}: {found.api:.1f} ms, allowed {found.allowed:.1f}")
        answers.append(found)
    return answers


def _get(connection: http.client.HTTPConnection, path: str, token: str) -> tuple[float, int]:
    begun = time.perf_counter()
    # As a browser asks: it takes compressed answers.
    connection.request(
        "GET", f"/im-attr-audit/{path}",
        headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip"},
    )  # fmt: skip
    answer = connection.getresponse()
    body = answer.read()
    spent = (time.perf_counter() - begun) * 1000
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")
    return spent, len(body)


# In psql ---------------------------------------------------------------------------------------


class _Connection:
    """As much of an Airflow Connection as is read."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.host: str | None = "127.0.0.1"
        self.port: int | None = postgres.port
        self.schema: str | None = SHOWN
        self.login: str | None = READER
        self.password: str | None = postgres.password(READER)
        self.extra_dejson: dict[str, object] = {}


def _scripts(postgres: EmbeddedPostgres, paths: Mapping[str, str]) -> dict[str, str]:
    """The statements that each answer sends, as they are sent, with their values written out."""
    sent: list[str] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        # Settings count as nothing.
        text = cursor.mogrify(statement, parameters or None).decode()
        is_setting = text.startswith("set ")
        sent.append(f"\\timing off\n{text};\n\\timing on" if is_setting else f"{text};")

    scripts = {}
    reader = Reader(lambda: _Connection(postgres))
    app = make_app(reader, lambda: None, lambda: True)
    event.listen(Engine, "before_cursor_execute", note)
    try:
        client = TestClient(app)
        for name, path in paths.items():
            sent.clear()
            answer = client.get(f"/{path}")
            if answer.status_code != 200:
                raise SystemExit(f"{path}: {answer.status_code} {answer.text[:300]}")
            scripts[name] = "\\o /dev/null\nbegin;\n\\timing on\n" + "\n".join(sent) + "\n"
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        reader.dispose()
    return scripts


def _psql(postgres: EmbeddedPostgres, script: str) -> float:
    done = subprocess.run(
        [bundled_binaries() / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=script, capture_output=True, text=True, check=False,
        env={
            "PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": READER,
            "PGDATABASE": "page_shown", "PGPASSWORD": postgres.password(READER),
        },
    )  # fmt: skip
    times = re.findall(r"^Time: ([0-9.]+) ms", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not times:
        raise SystemExit(f"psql: {done.stderr or done.stdout}\n{script[:2000]}")
    return sum(map(float, times))


# What is shown ---------------------------------------------------------------------------------


def _section(
    sizes: tuple[Size, ...],
    answers: list[Measured],
    views: Mapping[int, Mapping[str, View]],
    framed: Framed,
    scrolling: Mapping[str, Scrolling],
) -> str:
    of = next(size for size in sizes if size.apps == ANSWERED)
    lines = [
        "### The page",
        "",
        f"{of.changes:,} changes of {of.apps} apps, half of their groups with declared names, a "
        f"real Airflow with FAB; medians of {ROUNDS} rounds. The limit for an answer is {FACTOR} "
        "times its SQL in psql, plus an empty answer behind the same access check, plus "
        f"{ALLOWANCE_MS:.0f} ms.",
        "",
        "| answer | API | empty answer | SQL in psql | limit | bytes |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {m.name} | {m.api:.1f} ms | {m.empty:.1f} ms | {m.sql:.1f} ms | {m.allowed:.1f} ms"
        f"{'' if m.api <= m.allowed else ' **exceeded**'} | {m.size:,} |"
        for m in answers
    ]
    records = "; ".join(
        f"{size.apps:,} apps with {size.changes:,} changes and {size.days} days of polls"
        for size in sizes
    )
    columns = "first, again, at once, elements"
    limits = "; ".join(
        f"{apps:,} apps {first} s and {again} s" for apps, (first, again) in LIMITS.items()
    )
    lines += [
        "",
        "The views in headless Chromium, from the start of the navigation until the frame in "
        "which they are complete, the first time (nothing cached), again after a pause, and again "
        "at once, while the browser is still busy with what it put off of the view before; and the "
        f"elements of the document; medians of {VIEW_ROUNDS}. {records}. The goals for the first "
        f"time and again: {limits}; {MAX_NODES:,} elements. Health "
        "is complete without the recomputed chain, which follows. The *empty document* is an icon "
        "from the same server behind the same check: what browser and server take before there is "
        "anything to show. It is part of every figure.",
        "",
        f"| view | {' | '.join(f'{apps:,} apps: {columns}' for apps in views)} |",
        "|---|" + "--:|" * len(views),
    ]
    names = next(iter(views.values()))
    lines += [
        f"| {name} | " + " | ".join(_cell(apps, each[name]) for apps, each in views.items()) + " |"
        for name in names
    ]
    lines += ["", _framed(of.apps, framed), "", *_scrolled(sizes[-1].apps, scrolling)]
    return "\n".join(lines)


def _cell(apps: int, view: View) -> str:
    first, again = LIMITS[apps]
    shown = [
        (f"{view.first:.2f} s", view.first > first),
        (f"{view.again:.2f} s", view.again > again),
        (f"{view.at_once:.2f} s", False),
        (f"{view.nodes:,}", view.nodes > MAX_NODES),
    ]
    return ", ".join(f"**{text}**" if missed else text for text, missed in shown)


def _framed(apps: int, framed: Framed) -> str:
    return (
        f"In Airflow's menu the view is a frame of Airflow's own page. With {apps} apps Airflow "
        f"took {framed.airflow_first:.2f} s until it began to load the Overview (again "
        f"{framed.airflow_again:.2f} s), which was complete {framed.view_first:.2f} s later (again "
        f"{framed.view_again:.2f} s). In the table the views are opened at their own addresses."
    )


def _scrolled(apps: int, scrolling: Mapping[str, Scrolling]) -> list[str]:
    rows = [
        f"| {what} | {each.speed:,.0f} | {each.frames / each.seconds:.1f} | "
        f"{each.late} of {each.frames} | {each.nodes:,} |"
        for what, each in scrolling.items()
    ]
    return [
        f"The matrix of {apps:,} apps and 10 slots, scrolled for five seconds; and what headless "
        "Chromium without a GPU can do with a table of that size that has nothing in it. Counted "
        "by requestAnimationFrame, which draws at most 60 frames a second; a frame is late when "
        "it takes more than 1.5 times the usual time.",
        "",
        "| scrolled | px a second | frames a second | late | elements |",
        "|---|--:|--:|--:|--:|",
        *rows,
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
