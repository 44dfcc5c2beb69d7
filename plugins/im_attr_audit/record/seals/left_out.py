"""Planned targets that a run did not poll, as far as it can still be known.

Retention removes polls: a dropped month has none, and of a folded one `coverage` keeps when an app
had good polls, without their runs. Nothing is stated about a target whose poll may have been among
those.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from im_attr_audit.record.checks.tables import KEPT_SINCE

# A connection that was planned in a run and has no poll in it. The run is over where a later run
# has planned its own targets. Its polls were made after it was planned, in that month or, where a
# task was cleared, in a later one. A folded poll names no run: it may be of any run before it.
# "except": each run's polls are read once. "not exists" looked through all of them for each target.
_LEFT_OUT = f"""
select p.dag_run_id, t.conn_id, t.region, t.sdk_app_id,
       b.planned_at <= (select max(c.to_at) from only attr_audit.coverage as c) as is_folded_since
  from only attr_audit.planned as p
 cross join lateral (select min(f.recorded_at) as planned_at from only attr_audit.planned as f
                      where f.dag_run_id = p.dag_run_id) as b
 cross join lateral (select u.conn_id from unnest(p.conn_ids) as u (conn_id)
                     except
                     select q.conn_id from attr_audit.poll as q
                      where q.dag_run_id = p.dag_run_id) as d
  join lateral unnest(p.conn_ids, p.regions, p.sdk_app_ids)
                    as t (conn_id, region, sdk_app_id) on t.conn_id = d.conn_id
  left join (select c.region, c.sdk_app_id, max(c.to_at) as until_at
               from only attr_audit.coverage as c group by 1, 2) as s
         on s.region = t.region and s.sdk_app_id = t.sdk_app_id
 where b.planned_at >= ({KEPT_SINCE})
   and (s.until_at is null or s.until_at < b.planned_at)
   and (t.region is not null or not exists (select from only attr_audit.coverage as c
                                             where c.to_at >= b.planned_at))
   and exists (select from only attr_audit.planned as l where l.planned_id > p.planned_id
                  and l.dag_run_id <> p.dag_run_id)
 order by p.planned_id desc, t.conn_id
 limit 21
"""  # noqa: S608 - no value is from outside


def notes_of_left_out(connection: Connection) -> list[str]:
    """A note for each of the newest targets that a run left out."""
    notes = []
    for row in connection.execute(text(_LEFT_OUT)):
        what = "recorded no poll of it"
        if row.is_folded_since:
            app = f"{row.region}/{row.sdk_app_id}"
            what = f"has no row of it in poll, and coverage has no poll of {app} since then"
        notes.append(f"run {row.dag_run_id} planned {row.conn_id} and {what}")
    return notes
