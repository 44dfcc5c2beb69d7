"""Attest: whether anything changed in a period, as an auditor is handed it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit.page import models, queries
from im_attr_audit.page.filters import Period
from im_attr_audit.page.services import ReaderOf, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)


@router.get("/attest", response_model=models.Attest)
def attest(reader: ReaderOf, asked: Annotated[Period, Query()]) -> Response:
    """A row for each app of the group; without a period, for the last whole month in UTC."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        begin, end = _last_month(at)
        since, until = asked.since or begin, asked.until or end
        if since >= until:
            raise HTTPException(422, "The period must begin before it ends.")
        apps = queries.read(
            connection, "attest", since=since, until=until, app_group=asked.group or None
        )
        seal = queries.read_one(connection, "seal_of_period", until=until)
    return as_json({"at": at, "since": since, "until": until, "seal": seal, "apps": apps})


def _last_month(at: datetime) -> tuple[datetime, datetime]:
    end = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (end - timedelta(days=1)).replace(day=1), end
