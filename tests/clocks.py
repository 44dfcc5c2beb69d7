"""A clock of the database that jumps, for tests: `jump`.

Only the difference between recorded times and the present counts. So a clock that jumps ahead by
two days is the same as a record that becomes two days older, and that is what happens here: every
recorded time moves back, the hashes are made again, and the server's own clock stays untouched.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from im_attr_audit.apps import AppKey

from tests.conftest import AuditDb

_EPOCH = "'1970-01-01 00:00:00+00'"
_TIMES = {
    "app": (
        *("first_polled_at", "first_ok_at", "last_polled_at", "last_ok_at", "last_poll_ended_at"),
        *("emptied_seen_at", "retired_at"),
    ),
    "poll": (
        *("requested_at", "last_requested_at", "responded_at", "first_responded_at"),
        "recorded_at",
    ),
    "snapshot": ("not_before", "seen_at"),
    "change": (
        *("not_before", "seen_at", "recorded_at", "prior_ok_at", "old_not_before", "old_seen_at"),
    ),
    "membership": ("from_at",),
    "clock_correction": ("found_at", "ok_at", "recorded_at"),
    "notification": ("gap_from", "gap_to", "created_at", "sent_at"),
}
_REHASH = """
do $$
declare
    c    attr_audit.change;
    last attr_audit.change;
begin
    for c in select * from attr_audit.change where {where} order by region, sdk_app_id, seq loop
        c.prev_hash := case when (last.region, last.sdk_app_id) = (c.region, c.sdk_app_id)
                            then last.row_hash end;
        c.row_hash := sha256(convert_to(attr_audit_internal.change_canonical(c), 'UTF8'));
        update attr_audit.change set prev_hash = c.prev_hash, row_hash = c.row_hash
         where change_id = c.change_id;
        last := c;
    end loop;
end $$
"""


def jump(db: AuditDb, by: timedelta, apps: Collection[AppKey]) -> None:
    """Let the database's clock jump by so much, as far as these apps' record is concerned."""
    keys = ", ".join(f"('{region}', {number})" for region, number in apps)
    where = f"(region, sdk_app_id) in ({keys})"
    with db.server.connect(db.name) as connection, connection.cursor() as cursor:
        cursor.execute("begin")
        cursor.execute("set local session_replication_role = replica")
        cursor.execute(
            "select attr_audit_internal.create_poll_partition(m::date) from generate_series("
            "date_trunc('month', now() - interval '2 months'), now() + interval '2 months', "
            "interval '1 month') m"
        )
        for table, columns in _TIMES.items():
            moved = ", ".join(
                f"{c} = case when {c} = {_EPOCH} then {c} else {c} - %(by)s end" for c in columns
            )
            if table == "clock_correction":
                moved += ", wrong_seen_at = array(select t - %(by)s from unnest(wrong_seen_at) t)"
                moved += ", wrong_from_at = array(select t - %(by)s from unnest(wrong_from_at) t)"
            cursor.execute(f"update attr_audit.{table} set {moved} where {where}", {"by": by})
        cursor.execute(
            "update attr_audit_internal.noted_gap set gap_from = gap_from - %(by)s, "
            f"gap_to = gap_to - %(by)s where {where}",
            {"by": by},
        )
        cursor.execute(_REHASH.format(where=where))
        cursor.execute("commit")
