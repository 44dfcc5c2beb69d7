"""The floor: what the same poll costs in SQL written by hand for nothing else.

COPY of the whole state into a temporary table, and one statement that compares it with the snapshot
and inserts the changes; into the same tables, the database's triggers included, and with the poll
and app rows that we write. It has no retries, no order of polls, no confirmation, no outcome but
"ok" and no digest to keep.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from im_attr_audit.record.rules import Poll
from psycopg2.extensions import connection as Connection  # noqa: N812

_BEGIN = """
create temporary table asked (
    conn_id text, region text, sdk_app_id bigint, app_group text, api text,
    requested_at timestamptz, responded_at timestamptz) on commit drop;
create temporary table answered (
    region text, sdk_app_id bigint, slot smallint, name text, attr_type smallint) on commit drop;
"""

_APPS = """
insert into attr_audit.app (region, sdk_app_id, app_group, api, conn_id, first_polled_at,
                            last_polled_at, last_outcome)
select region, sdk_app_id, app_group, api, conn_id, requested_at, requested_at, 'ok'
  from asked on conflict do nothing
"""

_POLLS = """
insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, try_number, requested_at,
                             last_requested_at, responded_at, outcome, reads, http_status,
                             vendor_date, head_seq)
select conn_id, region, sdk_app_id, api, %(run)s, 1, requested_at,
       requested_at, responded_at, 'ok', 1, 200, requested_at,
       (select c.seq from attr_audit.change c
         where c.region = a.region and c.sdk_app_id = a.sdk_app_id
         order by c.seq desc limit 1)
  from asked a
"""

_CHANGES = """
with compared as (
    select coalesce(n.region, s.region) as region, coalesce(n.sdk_app_id, s.sdk_app_id) as app,
           coalesce(n.slot, s.slot) as slot, s.name as old_name, n.name as new_name,
           s.attr_type as old_type, coalesce(n.attr_type, s.attr_type) as new_type
      from answered n
      full join attr_audit.snapshot s
        on s.region = n.region and s.sdk_app_id = n.sdk_app_id and s.slot = n.slot
     where (s.name, s.attr_type) is distinct from (n.name, coalesce(n.attr_type, s.attr_type))
)
insert into attr_audit.change (region, sdk_app_id, slot, old_name, new_name, old_type, new_type,
                               is_baseline, not_before, seen_at, answer, poll_id, dag_run_id)
select c.region, c.app, c.slot, c.old_name, c.new_name, c.old_type, c.new_type,
       a.last_ok_at is null, a.last_ok_at, k.responded_at, '{…}', p.poll_id, %(run)s
  from compared c
  join attr_audit.app a on a.region = c.region and a.sdk_app_id = c.app
  join asked k on k.region = c.region and k.sdk_app_id = c.app
  join attr_audit.poll p on p.region = c.region and p.sdk_app_id = c.app
   and p.requested_at = k.requested_at
 order by c.region, c.app, c.slot
"""

_UPDATE_APPS = """
update attr_audit.app a
   set app_group = k.app_group, api = k.api, conn_id = k.conn_id, ok_api = k.api,
       first_ok_at = coalesce(a.first_ok_at, k.responded_at), last_ok_at = k.requested_at,
       last_polled_at = k.requested_at, last_outcome = 'ok', last_poll_ended_at = k.responded_at,
       consecutive_failures = 0
  from asked k
 where a.region = k.region and a.sdk_app_id = k.sdk_app_id
"""


def record(connection: Connection, polls: Sequence[Poll], run: str) -> None:
    """One poll of all the apps, in one transaction."""
    asked, answered = io.StringIO(), io.StringIO()
    for a in polls:
        asked.write(
            f"{a.conn_id}\t{a.region}\t{a.sdk_app_id}\t{a.app_group}\t{a.api}\t{a.requested_at}\t"
            f"{a.responded_at}\n"
        )
        app = f"{a.region}\t{a.sdk_app_id}\t"
        for slot, name in a.reads[-1].answer.names.items():
            text = name.name
            if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
                for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
                    text = text.replace(plain, escaped)
            kind = "\\N" if name.type is None else name.type
            answered.write(f"{app}{slot}\t{text}\t{kind}\n")
    asked.seek(0)
    answered.seek(0)
    with connection, connection.cursor() as cursor:
        cursor.execute(_BEGIN)
        cursor.copy_expert("copy asked from stdin", asked)
        cursor.copy_expert("copy answered from stdin", answered)
        cursor.execute("analyze asked; analyze answered")
        cursor.execute(_APPS)
        cursor.execute(_POLLS, {"run": run})
        cursor.execute(_CHANGES, {"run": run})
        cursor.execute(_UPDATE_APPS)
