"""Records of any size for the page to show: so many apps, with a year of changes and days of polls.

Written past the triggers, which would make the real chain row by row: its hashes are random, and
nothing here checks them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from im_attr_audit.declared.parse import parse
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.upkeep.roles import READER, WRITER
from im_attr_audit.tencent.regions import REGION_HOSTS
from sqlalchemy.engine import make_url

from launch.postgres import EmbeddedPostgres

#: The app whose answers are asked for, in the region of its number.
APP, REGION = 1004, list(REGION_HOSTS)[4]
#: One name that no other app has, in one old change.
NEEDLE = "needle"
_GROUP = 6


@dataclass(frozen=True)
class Size:
    """``changes`` in all; a poll every so many ``minutes`` in the last ``days``."""

    apps: int
    changes: int
    days: int
    minutes: int = 15


_RECORD = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, first_polled_at, first_ok_at,
                            last_polled_at, last_ok_at, last_outcome, conn_id, ok_api)
select (%(regions)s::text[])[1 + n %% 6], 1000 + n, 'group ' || n / %(in_group)s, 'all_member_push',
       %(begin)s, %(begin)s, %(now)s - interval '1 min', %(now)s - interval '1 min', 'ok',
       'im_' || n, 'all_member_push'
  from generate_series(0, %(apps)s - 1) n;
insert into attr_audit.membership (region, sdk_app_id, app_group, from_at)
select region, sdk_app_id, app_group, first_polled_at from attr_audit.app;

-- Slot after slot in turn; every name has a predecessor ten changes before. One app in twenty has
-- names of its own in a slot.
insert into attr_audit.change (region, sdk_app_id, seq, slot, old_name, new_name, is_baseline,
                               not_before, seen_at, answer, poll_id, dag_run_id, recorded_at,
                               prior_ok_at, old_not_before, old_seen_at, prev_hash, row_hash)
select a.region, a.sdk_app_id, i, (i - 1) %% 10,
       case when i > 10 then 'name ' || (i - 1) %% 10 || ' ' || (i - 10) / 10 end,
       case when i = 333 and a.sdk_app_id = %(app)s then 'the ' || %(needle)s
            when i > 400 and i %% 97 = 0 and i <= %(each)s - 10 then null
            else 'name ' || (i - 1) %% 10 || ' ' || i / 10 end
            || case when a.sdk_app_id %% 20 = 3 and (i - 1) %% 10 = 3 then ' local' else '' end,
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
update attr_audit.app a
   set (snapshot_digest, names_digest) = (
       select d.snapshot_digest, d.names_digest
         from attr_audit_internal.digests_of(a.region, a.sdk_app_id) d);

insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             error_code, error_info)
select a.conn_id, a.region, a.sdk_app_id, a.api,
       'scheduled__' || to_char(t, 'YYYY-MM-DD"T"HH24:MI'), 1, t, t, t + interval '0.1 s',
       case when failed then 'unavailable' else 'ok' end, 1, 200,
       case when failed then 60007 end, case when failed then 'too often' end
  from generate_series(%(now)s - interval '1 min' - %(days)s * interval '1 day',
                       %(now)s - interval '1 min', %(minutes)s * interval '1 min')
       with ordinality s (t, n)
 cross join attr_audit.app a
 cross join lateral (select (n * 7 + a.sdk_app_id) %% 211 = 0 as failed) f
 where t < %(now)s - interval '30 s';
"""


def fill_record(postgres: EmbeddedPostgres, database: str, size: Size) -> datetime:
    """Fill a database that has the schema; gives the record's newest instant.

    Every second group is declared.
    """
    for role in (READER, WRITER):
        postgres.ensure_role(role)
    now = datetime.now(UTC).replace(microsecond=0)
    with postgres.connect(database) as connection, connection.cursor() as cursor:
        for days in range(0, size.days + 31, 28):
            cursor.execute(
                "select attr_audit_internal.create_poll_partition(%s)",
                ((now - timedelta(days=days)).date(),),
            )
        cursor.execute("set session_replication_role = replica")
        cursor.execute(
            _RECORD,
            {
                "regions": list(REGION_HOSTS)[:_GROUP], "apps": size.apps, "in_group": _GROUP,
                "each": size.changes // size.apps, "now": now, "begin": now - timedelta(days=365),
                "days": size.days, "minutes": size.minutes, "app": APP, "needle": NEEDLE,
            },
        )  # fmt: skip
        cursor.execute("set session_replication_role = default")
        cursor.execute("select slot, name from attr_audit.snapshot where sdk_app_id = %s", (APP,))
        names = {str(slot): name for slot, name in cursor.fetchall()}
        cursor.execute("vacuum analyze")
    _declare(postgres, database, names, range(0, -(-size.apps // _GROUP), 2))
    return now


def _declare(
    postgres: EmbeddedPostgres, database: str, names: dict[str, str], groups: range
) -> None:
    document = {"groups": {f"group {n}": {"names": names} for n in groups}}
    engine = create_audit_engine(make_url(postgres.url(database, WRITER)))
    try:
        record_declaration(
            engine, parse(json.dumps(document), "bench").declaration, source="bench",
            revision=None, text_digest=None, dag_run_id="bench",
        )  # fmt: skip
    finally:
        engine.dispose()


def regroup(postgres: EmbeddedPostgres, database: str) -> str:
    """Put every app into one group, for the matrix of all of them; gives its name."""
    with postgres.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("update attr_audit.app set app_group = 'everything'")
    return "everything"
