"""What is on record of apps: read, and read again under their row locks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, text

from im_attr_audit.apps import AppKey
from im_attr_audit.names import AttrName, Names
from im_attr_audit.record.arrays import Rows
from im_attr_audit.record.rules import Known, Poll

#: Columns of ``attr_audit.app a`` in the order of the fields of `Known`, without the names.
KNOWN_COLUMNS = """a.api, a.ok_api, a.first_ok_at, a.last_ok_at, a.last_polled_at, a.last_outcome,
       a.last_poll_ended_at, a.consecutive_failures, a.emptied_seen_at, a.emptied_dag_run_id,
       a.snapshot_digest"""

AsRead: TypeAlias = Mapping[AppKey, Known | None]
"""What is on record of apps at some moment; None: nothing yet."""

_APPS = Rows("app", "region text, sdk_app_id bigint")

_LOCK = text(f"""
select a.region, a.sdk_app_id, {KNOWN_COLUMNS}
  from ({_APPS.sql}) r
  join attr_audit.app a using (region, sdk_app_id)
 order by a.region, a.sdk_app_id
   for update of a
""")

_READ_NAMES = text(f"""
select r.region, r.sdk_app_id, s.slots, s.names, s.types
  from ({_APPS.sql}) r
 cross join lateral (select array_agg(slot) as slots, array_agg(name) as names,
                            array_agg(attr_type) as types
                       from attr_audit.snapshot s
                      where s.region = r.region and s.sdk_app_id = r.sdk_app_id) s
 where s.slots is not null
""")


def lock_apps(connection: Connection, apps: Collection[AppKey]) -> Sequence[Sequence[Any]]:
    """Lock the apps' rows, in one statement and one order: two tasks cannot block each other.

    Gives rows of region, sdk_app_id and KNOWN_COLUMNS, for `read_known`.
    """
    return connection.execute(_LOCK, _APPS.parameters(apps)).all()


def read_known(
    connection: Connection,
    rows: Iterable[Sequence[Any]],
    polls: Mapping[AppKey, Poll],
    as_read: AsRead,
) -> dict[AppKey, Known]:
    """What these rows say of the apps, with the names of those whose poll has an answer.

    The digest shows whether the names are those of the answer, or those that were read before;
    they are read from the snapshot only where it shows neither.
    """
    known: dict[AppKey, Known] = {}
    to_read: dict[AppKey, dict[int, AttrName]] = {}
    for region, sdk_app_id, *columns, digest in rows:
        app = AppKey(region, sdk_app_id)
        reads, earlier = polls[app].reads, as_read.get(app)
        digest = digest and bytes(digest)  # the driver gives a memoryview
        names: Names = {}
        if digest and reads:
            if digest == reads[-1].digest:
                names = reads[-1].answer.names
            elif earlier and digest == earlier.digest:
                names = earlier.names
            else:
                names = to_read[app] = {}
        fields = [*columns, digest, names]
        known[app] = Known(*fields)
    if to_read:
        for region, sdk_app_id, *found in connection.execute(
            _READ_NAMES, _APPS.parameters(to_read)
        ):
            to_read[AppKey(region, sdk_app_id)].update(
                (slot, AttrName(name, type_)) for slot, name, type_ in zip(*found, strict=True)
            )
    return known
