"""How fast the page is with a million changes of 200 apps.

Makes such a record, starts Airflow with FAB before it, and measures in one run, in turns: every
API answer over HTTP, an empty one behind the same guard, the same SQL in psql; then the views in a
browser. The record's hashes are random: nothing here checks them.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from im_attr_audit.apps import AppKey
from im_attr_audit.page import filters, queries
from im_attr_audit.page.routes.timeline import APPS_IN_A_TIMELINE
from im_attr_audit.record.migrate import migrate
from im_attr_audit.record.roles import READER
from im_attr_audit.tencent.regions import REGION_HOSTS
from playwright.sync_api import sync_playwright
from psycopg2.extensions import adapt

from launch.postgres import THROWAWAY, EmbeddedPostgres, bundled_binaries
from tests.browser import chromium
from tests.browser.airflow import Airflow, ShownDatabase

APPS = 200
CHANGES = 1_000_000
POLLED_DAYS = 31
ROUNDS = 15
FACTOR, ALLOWANCE_MS = 1.5, 15.0

#: What the API may cost beyond its SQL, and what is measured: name -> address.
QUESTIONS = {
    "overview": "overview",
    "names": "names",
    "search by a rare name": "search?name=needle",
    "now": "now",
    "setup": "setup",
    "changes, newest": "changes",
    "changes, a page deep": "changes?before={deep}",
    "changes of an app": "changes?app=frankfurt/{app}",
    "changes of a group, one kind": "changes?group=group+7&kind=removed",
    "changes by a rare name": "changes?name=needle",
    "change": "change?region=frankfurt&sdk_app_id={app}&seq=100",
    "run": "run?run={run}",
    "timeline, 30 days, 12 apps": "timeline?lanes=all",
    "timeline, an app": "timeline?app=frankfurt/{app}",
    "changes, counted": "changes/count?group=group+7",
    "attest, a month": "attest?group=group+7",
    "as of": "as-of?at={month_ago}",
    "as of, half a year ago": "as-of?at={half_year_ago}",
    "as of, compared": "as-of?at={month_ago}&compare={half_year_ago}",
    "health": "health",
}

RECORD = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, first_polled_at, first_ok_at,
                            last_polled_at, last_ok_at, last_outcome, conn_id, ok_api)
select (%(regions)s::text[])[1 + n %% 6], 1000 + n, 'group ' || n / 6, 'all_member_push',
       %(begin)s, %(begin)s, %(now)s - interval '1 min', %(now)s - interval '1 min', 'ok',
       'im_' || n, 'all_member_push'
  from generate_series(0, %(apps)s - 1) n;

-- Slot after slot in turn; every name has a predecessor ten changes before.
insert into attr_audit.change (region, sdk_app_id, seq, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, answer, poll_id, dag_run_id, recorded_at,
                               prior_ok_at, old_not_before, old_seen_at, prev_hash, row_hash)
select a.region, a.sdk_app_id, i, (i - 1) %% 10,
       case when i > 10 then 'name ' || (i - 1) %% 10 || ' ' || (i - 10) / 10 end,
       case when i = 777 and a.sdk_app_id = 1004 then 'the needle'
            when i > 4000 and i < 4900 and i %% 97 = 0 then null
            else 'name ' || (i - 1) %% 10 || ' ' || i / 10 end,
       i <= 10,
       case when i > 10 then t.at - interval '15 min' end, t.at,
       '{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":"name"}}', i,
       'scheduled__' || to_char(t.at, 'YYYY-MM-DD"T"HH24:MI'), t.at, t.at - interval '15 min',
       case when i > 20 then t.old - interval '15 min' end, case when i > 10 then t.old end,
       sha256(convert_to(a.sdk_app_id || ':' || i - 1, 'UTF8')),
       sha256(convert_to(a.sdk_app_id || ':' || i, 'UTF8'))
  from generate_series(1, %(each)s) i
 cross join attr_audit.app a
 cross join lateral (
       select %(begin)s + i * (%(now)s - interval '1 hour' - %(begin)s) / %(each)s as at,
              %(begin)s + (i - 10) * (%(now)s - interval '1 hour' - %(begin)s) / %(each)s as old) t;

insert into attr_audit.snapshot
select c.region, c.sdk_app_id, c.slot, c.new_name, null, c.not_before, c.seen_at
  from attr_audit.change c
 where c.seq > %(each)s - 10 and c.new_name is not null;

insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_code, error_info)
select a.conn_id, a.region, a.sdk_app_id, a.api,
       'scheduled__' || to_char(t, 'YYYY-MM-DD"T"HH24:MI'), 1, t, t, t + interval '0.1 s',
       case when failed then 'unavailable' else 'ok' end, 1, 200,
       case when failed then 60007 end, case when failed then 'too often' end
  from generate_series(%(now)s - interval '1 min' - %(polled)s * interval '1 day',
                       %(now)s - interval '1 min', interval '15 min') with ordinality s (t, n)
 cross join attr_audit.app a
 cross join lateral (select (n * 7 + a.sdk_app_id) %% 211 = 0 as failed) f
 where t < %(now)s - interval '30 s';
"""


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
            return {"page": _bench(postgres, Path(folder), 2 if quick else ROUNDS)}
        finally:
            postgres.stop()
            postgres.destroy()


def render(figures: dict[str, str]) -> str:
    """The page's section."""
    return figures["page"]


def _bench(postgres: EmbeddedPostgres, folder: Path, rounds: int) -> str:
    _say(f"A record of {CHANGES:,} changes of {APPS} apps …")
    now = make_record(postgres, "big")
    airflow = Airflow(folder, postgres)
    airflow.start()
    try:
        ShownDatabase(postgres).show("big")
        airflow.wait()
        viewer = airflow.token("viewer")
        measured = [
            _measure(airflow, viewer, postgres, name, path, _texts(now), rounds)
            for name, path in QUESTIONS.items()
        ]
        views = _first_views(airflow, viewer)
    finally:
        airflow.stop()
    return _table(measured, views, rounds)


def make_record(postgres: EmbeddedPostgres, database: str) -> datetime:
    """Fill a new database; gives the record's newest instant."""
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {database}")
    migrate(postgres.url(database))
    postgres.ensure_role(READER)
    now = datetime.now(UTC).replace(microsecond=0)
    with postgres.connect(database) as connection, connection.cursor() as cursor:
        for days in range(0, POLLED_DAYS + 31, 28):
            cursor.execute(
                "select attr_audit_internal.create_poll_partition(%s)",
                ((now - timedelta(days=days)).date(),),
            )
        # Past the triggers, which would make the real chain row by row.
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            RECORD,
            {
                "regions": list(REGION_HOSTS)[:6], "apps": APPS, "each": CHANGES // APPS,
                "now": now, "begin": now - timedelta(days=365), "polled": POLLED_DAYS,
            },
        )  # fmt: skip
        cursor.execute("vacuum analyze")
    return now


def _texts(now: datetime) -> dict[str, str]:
    deep = now - timedelta(days=180)
    return {
        "app": "1004",
        "deep": f"{int(deep.timestamp()) * 1_000_000}.1",
        "month_ago": (now - timedelta(days=30)).isoformat().replace("+00:00", "Z"),
        "half_year_ago": (now - timedelta(days=182)).isoformat().replace("+00:00", "Z"),
        "run": (now - timedelta(minutes=1)).strftime("scheduled__%Y-%m-%dT%H:%M"),
    }


# Over HTTP -------------------------------------------------------------------------------------


def _measure(
    airflow: Airflow, token: str, postgres: EmbeddedPostgres, name: str, path: str,
    texts: Mapping[str, str], rounds: int,
) -> Measured:  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", airflow.port)
    path = path.format(**texts)
    script = _script(name, texts)
    api, empty, sql = [], [], []
    size = 0
    for round_ in range(-2, rounds):
        spent, size = _get(connection, f"api/{path}", token)
        nothing, _ = _get(connection, "static/x/theme.js", token)
        bare = _psql(postgres, script)
        if round_ >= 0:
            api.append(spent)
            empty.append(nothing)
            sql.append(bare)
    found = Measured(
        name, statistics.median(api), statistics.median(empty), statistics.median(sql), size
    )
    _say(f"{name}: {found.api:.1f} ms, allowed {found.allowed:.1f}")
    return found


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


def _script(name: str, texts: Mapping[str, str]) -> str:
    """The statements that the endpoint sends, with their values written out."""
    hour = timedelta(hours=1)
    regions = list(REGION_HOSTS)[:6]
    first = sorted(
        (("group " + str(n // 6), n % 6, regions[n % 6], 1000 + n) for n in range(APPS)),
    )[:APPS_IN_A_TIMELINE]
    apps = [AppKey(region, number) for _, _, region, number in first]
    if name.endswith("an app"):
        apps = [AppKey("frankfurt", 1004)]
    until = datetime.now(UTC)
    window = {**queries.arrays(apps), "window_from": until - 30 * timedelta(days=1),
              "window_to": until}  # fmt: skip
    at = [datetime.fromisoformat(texts[key]) for key in ("month_ago", "half_year_ago")]

    def changes(before: str | None = None, **given: Any) -> tuple[str, dict[str, Any]]:
        asked = filters.ChangePage(before=before, **given)
        before_at, before_id = filters.change_of_key(before) if before else (None, None)
        return "changes", {
            **asked.parameters(),
            "before_at": before_at,
            "before_id": before_id,
            "at_most": asked.limit + 1,
        }

    all_apps = ("apps", {"stale_after": hour, "retired": True})
    names = [(each, {"app_group": None}) for each in ("slot_names", "slot_missing")]
    as_of = [("names_as_of", {"at": each}) for each in at]
    timeline = [
        all_apps,
        (
            "lane_changes",
            {
                **window,
                "slot": None,
                "baselines": True,
                "at_most": queries.MAX_LANE_CHANGES + 1,
            },
        ),
        ("open_spans", {**window, "slot": None}),
        ("failed_polls", {**window, "at_most": queries.MAX_FAILED_POLLS + 1}),
        ("gaps", {**window, "longer_than": hour}),
        ("slot_names", {"app_group": None}),
    ]
    half_a_year_ago = filters.page_key(until - timedelta(days=180), 1)
    asked: dict[str, list[tuple[str, Any]]] = {
        "overview": [
            ("health", {"stale_after": hour}),
            *names,
            ("unreadable", {}),
            ("recent_changes", {"period": timedelta(days=7), "at_most": 6}),
        ],
        "names": [all_apps, *names],
        "search by a rare name": [
            (each, {"name": "%needle%", "app_group": None, "at_most": 501})
            for each in ("name_uses", "name_spans")
        ],
        "now": [all_apps, ("current", {"app_group": None, "slot": None}), ("drift", {})],
        "setup": [all_apps, ("unreadable", {})],
        "changes, newest": [changes()],
        "changes, a page deep": [changes(before=half_a_year_ago)],
        "changes of an app": [changes(app="frankfurt/1004")],
        "changes of a group, one kind": [changes(group="group 7", kind="removed")],
        "changes by a rare name": [changes(name="needle")],
        "changes, counted": [("change_count", {**changes(group="group 7")[1], "at_most": 10_001})],
        "attest, a month": [("attest", {"since": at[0], "until": until, "app_group": "group 7"})],
        "change": [("change", {"region": "frankfurt", "sdk_app_id": 1004, "seq": 100})],
        "run": [("run_polls", {"dag_run_id": texts["run"]})],
        "timeline, 30 days, 12 apps": timeline,
        "timeline, an app": timeline,
        "as of": [all_apps, as_of[0]],
        "as of, half a year ago": [all_apps, as_of[1]],
        "as of, compared": [all_apps, *as_of],
        "health": [
            ("health", {"stale_after": hour}),
            ("strips", {"strip_from": until - timedelta(days=1), "seconds": 1800}),
            ("unreadable", {}),
        ],
    }
    return "\\timing on\n\\o /dev/null\n" + "\n".join(
        _written_out(queries.statement(statement).text, {**queries.OUTCOMES, **values}) + ";"
        for statement, values in asked[name]
    )


def _written_out(statement: str, values: Mapping[str, Any]) -> str:
    def literal(match: re.Match[str]) -> str:
        value = values[match[1]]
        if isinstance(value, timedelta):
            return f"interval '{value.total_seconds()} s'"
        if isinstance(value, datetime):
            return f"timestamptz '{value.isoformat()}'"
        return adapt(value).getquoted().decode() if value is not None else "null"

    return re.sub(r"(?<!:):([a-z_]+)", literal, statement)


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


# In the browser --------------------------------------------------------------------------------


def _first_views(airflow: Airflow, token: str) -> dict[str, tuple[float, float]]:
    """Seconds until a view is drawn: with nothing in the browser's cache, and again."""
    views = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.find(), args=list(chromium.ARGUMENTS)
        )
        for view in ("", "names", "timeline", "changes", "as-of", "attest", "health"):
            cold: list[float] = []
            warm: list[float] = []
            for _ in range(5):
                context = browser.new_context(base_url=airflow.address)
                context.add_cookies([{"name": "_token", "value": token, "url": airflow.address}])
                page = context.new_page()
                for times in (cold, warm):
                    page.goto(f"/im-attr-audit/{view}", wait_until="commit")
                    times.append(float(page.evaluate(DRAWN)))
                context.close()
            views[view or "overview"] = (statistics.median(cold), statistics.median(warm))
        browser.close()
    return views


DRAWN = """() => new Promise((resolve) => {
  const look = () => {
    const main = document.querySelector("main");
    const chart = document.querySelector(".timeline");
    if (main?.ariaBusy === "false" && (!chart || chart.dataset.drawn)) {
      requestAnimationFrame(() => setTimeout(() => resolve(performance.now() / 1000)));
    } else requestAnimationFrame(look);
  };
  look();
})"""


def _table(measured: list[Measured], views: Mapping[str, tuple[float, float]], rounds: int) -> str:
    lines = [
        "### The page",
        "",
        f"{CHANGES:,} changes of {APPS} apps, a real Airflow with FAB; medians of {rounds} rounds. "
        f"The limit for an answer is {FACTOR} times its SQL in psql, plus an empty answer behind "
        f"the same access check, plus {ALLOWANCE_MS:.0f} ms.",
        "",
        "| answer | API | empty answer | SQL in psql | limit | bytes |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {m.name} | {m.api:.1f} ms | {m.empty:.1f} ms | {m.sql:.1f} ms | {m.allowed:.1f} ms"
        f"{'' if m.api <= m.allowed else ' **exceeded**'} | {m.size:,} |"
        for m in measured
    ]
    lines += ["", "| view in the browser | first time | again |", "|---|--:|--:|"]
    lines += [f"| {name} | {a:.2f} s | {b:.2f} s |" for name, (a, b) in views.items()]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
