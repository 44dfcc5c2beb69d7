"""Changes: pages of them, one of them, all of them as a file, and the run that recorded them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response, StreamingResponse

from im_attr_audit.outcomes import FAILED, GOOD
from im_attr_audit.page import queries
from im_attr_audit.page.advice import advice
from im_attr_audit.page.filters import (
    ChangeDownload,
    ChangeFilters,
    ChangePage,
    OneChange,
    OneRun,
    change_of_key,
    page_key,
)
from im_attr_audit.page.models import Seal
from im_attr_audit.page.models import changes as models
from im_attr_audit.page.seals import read_seal
from im_attr_audit.page.services import ReaderOf, ServicesOf, as_json
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

#: More than so many changes are not counted: it would take as long as reading them.
COUNTED = 10_000


@router.get("/changes", response_model=models.Changes)
def changes(reader: ReaderOf, asked: Annotated[ChangePage, Query()]) -> Response:
    """One page of changes, newest first."""
    before_at, before_id = change_of_key(asked.before) if asked.before else (None, None)
    parameters = {**asked.parameters(), "before_at": before_at, "before_id": before_id}
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        narrowed = queries.narrow_to_name(connection, parameters)
        rows = queries.read(connection, "changes", **narrowed, at_most=asked.limit + 1)
        marks = queries.read_marks(connection, rows[: asked.limit])
    shown = [
        models.Change.model_construct(**row, **mark) for row, mark in zip(rows, marks, strict=False)
    ]
    following = None
    if len(rows) > asked.limit:
        following = page_key(shown[-1].seen_at, shown[-1].change_id)
    return as_json(models.Changes.model_construct(at=at, changes=shown, before=following))


@router.get("/changes/count", response_model=models.ChangeCount)
def count(reader: ReaderOf, asked: Annotated[ChangeFilters, Query()]) -> Response:
    """How many changes match the filters, and how many of them are baselines."""
    with reader.transaction() as connection:
        narrowed = queries.narrow_to_name(connection, asked.parameters())
        row = queries.read_one(connection, "change_count", **narrowed, at_most=COUNTED + 1)
    found, baselines = (row["changes"], row["baselines"]) if row else (0, 0)
    more = found > COUNTED
    return as_json(
        models.ChangeCount(
            changes=min(found, COUNTED), baselines=None if more else baselines, more=more
        )
    )


@router.get("/changes/download", response_class=StreamingResponse)
def download(services: ServicesOf, asked: Annotated[ChangeDownload, Query()]) -> Response:
    """All changes that match the filters, for reading."""
    return services.downloads.start(asked)


@router.get("/change", response_model=models.ChangeDetail)
def change(reader: ReaderOf, asked: Annotated[OneChange, Query()]) -> Response:
    """One change with everything known about how it was seen."""
    with reader.transaction() as connection:
        row = queries.read_one(connection, "change", **asked.model_dump())
        if row is None:
            raise HTTPException(404, "There is no such change.")
        [mark] = queries.read_marks(connection, [row])
        seal, _ = read_seal(connection, "seal_of_change", change_id=row["change_id"])
    return as_json(models.ChangeDetail(**row, **mark, seal=Seal(**seal) if seal else None))


@router.get("/run", response_model=models.Run)
def run(reader: ReaderOf, asked: Annotated[OneRun, Query()]) -> Response:
    """The newest poll of every connection in one run."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        rows = queries.read(connection, "run_polls", dag_run_id=asked.run)
        [folded] = queries.read(connection, "run_folded", dag_run_id=asked.run)
    polls = [
        models.RunPoll(
            **row,
            advice=advice(row["outcome"], row["error_code"]),
            is_good=row["outcome"] in GOOD,
            is_failed=row["outcome"] in FAILED,
        )
        for row in rows
    ]
    return as_json(models.Run(dag_run_id=asked.run, at=at, polls=polls, **folded))
