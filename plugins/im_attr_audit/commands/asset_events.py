"""The heads that Airflow's asset events witnessed: a second place, kept by another database.

For processes that may read Airflow's metadata (the command line, the page), not for tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from im_attr_audit.record.checks.heads import Head, heads_of_event
from im_attr_audit.settings import DAG_ID
from im_attr_audit.text_format import time_text

ASSET = "im-attr-audit/changes"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Every head in the events that are left, and when the oldest of them was emitted."""

    heads: tuple[Head, ...]
    events: int
    since: datetime | None


def read_witnessed_heads() -> Witnessed:
    """The heads in the DAG's asset events, as long as ``airflow db clean`` leaves them.

    Raises SQLAlchemy's errors where Airflow's metadata database cannot be read.
    """
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    statement = (
        select(AssetEvent.id, AssetEvent.timestamp, AssetEvent.extra)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        # Anybody who may create asset events can write some for this asset, too.
        .where(AssetModel.name == ASSET, AssetEvent.source_dag_id == DAG_ID)
        .order_by(AssetEvent.id)
    )
    with create_session() as session:
        events = session.execute(statement).all()

    def heads() -> Iterator[Head]:
        for event in events:
            yield from heads_of_event(
                event.extra, f"asset event {event.id} of {time_text(event.timestamp)}"
            )

    since = min((event.timestamp for event in events), default=None)
    return Witnessed(tuple(heads()), len(events), since)
