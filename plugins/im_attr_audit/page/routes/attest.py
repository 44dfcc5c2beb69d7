"""Attest: whether anything changed in a period, as an auditor is handed it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit.page import models_attest as models
from im_attr_audit.page import queries
from im_attr_audit.page.downloads import csv_file
from im_attr_audit.page.filters import Period
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.services import ReaderOf, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)


@router.get("/attest", response_model=models.Attest)
def attest(reader: ReaderOf, asked: Annotated[Period, Query()]) -> Response:
    """A row for each app of the group; without a period, for the last whole month in UTC."""
    return as_json(_attested(reader, asked))


@router.get("/attest/download", response_class=Response)
def download(reader: ReaderOf, asked: Annotated[Period, Query()]) -> Response:
    """The same as CSV, with the period and the seal that covers it in each row."""
    said = _attested(reader, asked)
    of_all = {"since": said["since"], "until": said["until"], "read_at": said["at"]}
    seal = said["seal"] or {"n": None, "sealed_at": None}
    of_all |= {"seal": seal["n"], "sealed_at": seal["sealed_at"]}
    columns = (*("since", "until"), *models.Attested.model_fields, "seal", "sealed_at", "read_at")
    return csv_file(({**app, **of_all} for app in said["apps"]), columns, "attested")


def _attested(reader: Reader, asked: Period) -> dict[str, Any]:
    """As model Attest has it; 422 where the period ends before it begins."""
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
    return {"at": at, "since": since, "until": until, "seal": seal, "apps": apps}


def _last_month(at: datetime) -> tuple[datetime, datetime]:
    end = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (end - timedelta(days=1)).replace(day=1), end
