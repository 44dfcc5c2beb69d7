"""What declared names cost: reading the document in `plan`, and asking what is not as declared.

Six regions carry the same names in each group, some apps differ, and some groups have an exception.
The apps and their names are written past the triggers, since recording is not what is measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.tasks.declarations import Place, record_declared_names
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from benchmarks.measure import seconds
from benchmarks.server import fresh, postgres
from benchmarks.world import REGIONS, SLOTS
from launch.postgres import EmbeddedPostgres
from tests.conftest import READER, WRITER

DATABASE = "bench_declared"
#: One app in so many has another name than its group.
DIFFERS = 500
#: One group in so many has an exception for one region.
EXCEPTED = 50

_APPS = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, ok_api, first_polled_at,
                            first_ok_at, last_polled_at, last_ok_at, last_poll_ended_at,
                            last_outcome, conn_id)
select (%(regions)s)[1 + i %% %(in_group)s], 1400000000 + i, 'group ' || i / %(in_group)s,
       'all_member_push', 'all_member_push', now() - interval '30 days', now() - interval '30 days',
       now(), now(), now(), 'ok', 'im_' || i
  from generate_series(0, %(apps)s - 1) i;
insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
select region, sdk_app_id, app_group, '-infinity' from attr_audit.app;
insert into attr_audit.snapshot (region, sdk_app_id, slot, name, seen_at)
select region, sdk_app_id, slot,
       'attribute ' || slot || case when slot = 3 and sdk_app_id %% %(differs)s = 7
                                    then ' of its own' else '' end, first_ok_at
  from attr_audit.app, generate_series(0, %(slots)s - 1) slot;
insert into attr_audit.change (change_id, region, sdk_app_id, seq, slot, new_name, is_baseline,
                               seen_at, poll_id, recorded_at, row_hash) overriding system value
select row_number() over (), region, sdk_app_id, slot + 1, slot, name, true, seen_at, 1, seen_at,
       sha256('')
  from attr_audit.snapshot;
update attr_audit.app a
   set (snapshot_digest, names_digest) = (
       select d.snapshot_digest, d.names_digest
         from attr_audit_internal.digests_of(a.region, a.sdk_app_id) d);
"""
_ALL = "select count(since) from attr_audit.violations"
_QUESTIONS = {
    "all violations": _ALL,
    "violations of one group": f"{_ALL} where app_group = 'group {EXCEPTED}'",
    "violations of one app": f"{_ALL} where region = 'china' and sdk_app_id = 1400000000",
    "all declared names": "select count(name) from attr_audit.declared_names",
}
_QUEUE = "select attr_audit_internal.queue_violations('bench')"


def document(groups: int) -> str:
    """A declaration as a person writes it."""
    names = "".join(f"      {slot}: attribute {slot}\n" for slot in range(SLOTS))
    lines = ["groups:\n"]
    for number in range(groups):
        lines += [f"  group {number}:\n    names:\n{names}"]
        if number % EXCEPTED == 0:
            lines += [
                f"    exceptions:\n      - region: {REGIONS[0]}\n"
                "        names: {3: local name}\n        reason: local wording\n"
            ]
    return "".join(lines)


def _fill(server: EmbeddedPostgres, apps: int) -> None:
    fresh(server, DATABASE)
    server.ensure_role(READER)
    with server.connect(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            _APPS,
            {
                "apps": apps,
                "regions": list(REGIONS),
                "in_group": len(REGIONS),
                "differs": DIFFERS,
                "slots": SLOTS,
            },
        )


def _median(engine: Engine, statement: str, times: int) -> dict[str, float]:
    """Milliseconds, and what the statement counted."""
    taken, counted = [], 0
    for _ in range(times):
        with engine.begin() as connection:
            asked = text(statement)
            began = time.monotonic()
            counted = connection.execute(asked).scalar_one()
            taken.append((time.monotonic() - began) * 1000)
    return {"milliseconds": statistics.median(taken), "counted": counted}


def measure(quick: bool) -> dict[str, Any]:
    """Milliseconds of reading a declaration and of asking about it."""
    apps = 600 if quick else 10_000
    groups = -(-apps // len(REGIONS))
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        _fill(server, apps)
        file = Path(folder) / "declared_names.yaml"
        writer = create_audit_engine(make_url(server.url(DATABASE, WRITER)))
        reader = create_audit_engine(make_url(server.url(DATABASE, READER)))

        def declare() -> None:
            assert record_declared_names(writer, Place(Path(folder)), dag_run_id="bench") is None

        declare()  # connections and plans are warm afterwards
        plan = {"nothing declared": seconds(declare) * 1000}
        file.write_text(document(groups))
        plan["a new document"] = seconds(declare) * 1000
        plan["the same document again"] = seconds(declare) * 1000
        with server.connect(DATABASE) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("vacuum analyze")
        times = 3 if quick else 25
        questions = {what: _median(reader, asked, times) for what, asked in _QUESTIONS.items()}
        questions["queueing their alerts, in a run"] = _median(writer, _QUEUE, times)
        writer.dispose()
        reader.dispose()
    return {"apps": apps, "groups": groups, "plan": plan, "questions": questions}


def render(figures: dict[str, Any]) -> str:
    """The page's section."""
    plan, questions = figures["plan"], figures["questions"]
    return "\n".join(
        [
            f"### Declared names\n\nOf {figures['apps']:,} apps in {figures['groups']:,} groups, "
            "all with declared names. Of `plan`:\n",
            "| with | ms |",
            "|---|---:|",
            *(f"| {what} | {taken:,.0f} |" for what, taken in plan.items()),
            "",
            "| question | rows | ms |",
            "|---|---:|---:|",
            *(
                f"| {what} | {row['counted']:,} | {row['milliseconds']:,.0f} |"
                for what, row in questions.items()
            ),
        ]
    )
