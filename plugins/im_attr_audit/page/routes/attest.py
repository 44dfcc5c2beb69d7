"""Attest: whether anything changed in a period, as an auditor is handed it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit.page import queries
from im_attr_audit.page.downloads import csv_file
from im_attr_audit.page.filters import AttestedPeriod, Period
from im_attr_audit.page.models import Seal
from im_attr_audit.page.models import attest as models
from im_attr_audit.page.order import app_order, group_order
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.seals import read_seal
from im_attr_audit.page.services import ReaderOf, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: Of more apps a brief answer is about one group: each app takes as long as the next one.
MANY_APPS = 100


@router.get("/attest", response_model=models.Attest)
def attest(reader: ReaderOf, asked: Annotated[AttestedPeriod, Query()]) -> Response:
    """A row for each app of the group; without a period, for the last whole month in UTC."""
    return as_json(_attested(reader, asked, brief=asked.brief))


@router.get("/attest/download", response_class=Response)
def download(reader: ReaderOf, asked: Annotated[Period, Query()]) -> Response:
    """The same as CSV, with the period and the seal that covers it in each row."""
    said = _attested(reader, asked)
    of_all = {"since": said["since"], "until": said["until"], "read_at": said["at"]}
    seal = said["seal"] or {"n": None, "sealed_at": None}
    of_all |= {"seal": seal["n"], "sealed_at": seal["sealed_at"]}
    columns = (*("since", "until"), *models.Attested.model_fields, "seal", "sealed_at", "read_at")
    return csv_file(({**app, **of_all} for app in said["apps"]), columns, "attested")


def _attested(reader: Reader, asked: Period, *, brief: bool = False) -> dict[str, Any]:
    """As model Attest has it; 422 where the period ends before it begins."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        begin, end = _last_month(at)
        since, until = asked.since or begin, asked.until or end
        if since >= until:
            raise HTTPException(422, "The period must begin before it ends.")
        group = asked.group or None
        if brief and group is None:
            listed = queries.read_one(connection, "listed_groups")
            if listed and listed["apps"] > MANY_APPS:
                group = min(listed["app_groups"], key=group_order)
        apps = queries.read(connection, "attest", since=since, until=until, app_group=group)
        apps = sorted(apps, key=app_order)
        seal, unreadable = read_seal(connection, "seal_of_period", until=until)
    period = {"at": at, "since": since, "until": until, "group": group}
    seal = seal and {name: seal[name] for name in Seal.model_fields}
    return {**period, "seal": seal, "unreadable_seals": unreadable, "apps": apps}


def _last_month(at: datetime) -> tuple[datetime, datetime]:
    end = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (end - timedelta(days=1)).replace(day=1), end
