"""Health: every app's last good poll and the outcomes of its polls; the check of the chains."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit import settings
from im_attr_audit.evidence.targets import shown_target
from im_attr_audit.outcomes import FAILED, GOOD
from im_attr_audit.page import queries
from im_attr_audit.page.advice import advice
from im_attr_audit.page.filters import NOTHING_ASKED, Recheck
from im_attr_audit.page.models import Misconfigured, UnreadableSeal
from im_attr_audit.page.models import health as models
from im_attr_audit.page.order import app_order
from im_attr_audit.page.queries import Row
from im_attr_audit.page.seals import read_seal
from im_attr_audit.page.services import (
    ReaderOf,
    ServicesOf,
    StaleAfter,
    as_json,
    key_of,
)
from im_attr_audit.page.threads import ViewRoute

router = APIRouter(route_class=ViewRoute)

_STRIP = timedelta(hours=24)
_BUCKET = timedelta(minutes=30)


@router.get("/health", response_model=models.Health, dependencies=NOTHING_ASKED)
def health(reader: ReaderOf, limit: StaleAfter) -> Response:
    """Every app that is not retired, with a strip of its polls."""
    seconds = int(_BUCKET.total_seconds())
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        begin = int((at - _STRIP).timestamp()) // seconds * seconds + seconds
        strip_from = datetime.fromtimestamp(begin, at.tzinfo)
        apps = queries.read(connection, "health", stale_after=limit)
        buckets = queries.read(connection, "strips", strip_from=strip_from, seconds=seconds)
        misconfigured = queries.read(connection, "misconfigured")
        seal, unreadable = read_seal(connection, "seal_in_full")
        if seal:
            of = {"origin": seal["origin"], "n": seal["n"]}
            seal["witnesses"] = [
                {**row, "target": shown_target(row["target"])}
                for row in queries.read(connection, "witnesses", **of)
            ]
    strips = {key_of(row): row for row in buckets}
    return as_json(
        models.Health.model_construct(
            at=at,
            stale_after_seconds=int(limit.total_seconds()),
            strip_from=strip_from,
            strip_bucket_seconds=seconds,
            apps=[_app_health(app, strips.get(key_of(app))) for app in sorted(apps, key=app_order)],
            misconfigured=[Misconfigured(**row) for row in misconfigured],
            seal=models.SealDetail(**seal) if seal else None,
            unreadable_seals=[UnreadableSeal(**row) for row in unreadable],
            runbooks_url=_runbooks_url(),
        )
    )


def _runbooks_url() -> str | None:
    """Health is shown without a link where that setting is wrong; tasks log what is wrong."""
    with contextlib.suppress(settings.BadSetting):
        return settings.runbooks_url()
    return None


def _app_health(app: Row, strip: Row | None) -> models.AppHealth:
    return models.AppHealth.model_construct(
        **{
            **app,
            **_strip(strip),
            "age_seconds": float(app["age_seconds"]),
            "advice": advice(app["last_outcome"], app["error_code"]),
            "is_good": app["last_outcome"] in GOOD,
            "last_poll_failed": app["last_outcome"] in FAILED,
        }
    )


def _strip(row: Row | None) -> dict[str, list[int]]:
    """The strip's polls by bucket."""
    length = _STRIP // _BUCKET
    strip = {"good": [0] * length, "failed": [0] * length}
    if row is not None:
        counts = zip(row["buckets"], row["ok"], row["failed"], strict=True)
        for bucket, ok, failed in counts:
            if 0 <= bucket < length:
                strip["good"][bucket], strip["failed"][bucket] = ok, failed
    return strip


@router.get("/heads/download", response_class=Response, dependencies=NOTHING_ASKED)
def heads(reader: ReaderOf) -> Response:
    """The heads of all chains, as `im-attr-audit verify --heads FILE` reads them."""
    with reader.transaction() as connection:
        at = queries.read_now(connection)
        rows = queries.read(connection, "heads")
    answer = as_json({"saved_at": at, "heads": rows})
    answer.headers["Content-Disposition"] = 'attachment; filename="chain-heads.json"'
    return answer


@router.get("/checkpoint/download", response_class=Response, dependencies=NOTHING_ASKED)
def checkpoint(reader: ReaderOf) -> Response:
    """The newest seal's signed checkpoint, as it was written; 404 where nothing is sealed.

    409 where a newer row of the seals is not one of a seal: nobody gets an older one for it.
    """
    with reader.transaction() as connection:
        seal, unreadable = read_seal(connection, "seal_in_full")
    if unreadable:
        raise HTTPException(
            409, "A row of attr_audit.seal is unreadable. Take the checkpoint from a witness."
        )
    if seal is None:
        raise HTTPException(404, "The record is not sealed.")
    return Response(
        seal["note"],
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="checkpoint-{seal["n"]}.txt"'},
    )


@router.get("/verification", response_model=models.Verification)
async def verification(services: ServicesOf, asked: Annotated[Recheck, Query()]) -> Response:
    """Recompute the chains; the last result serves for ten minutes unless asked again."""
    return as_json(await services.verifier.verify(again=asked.again))
