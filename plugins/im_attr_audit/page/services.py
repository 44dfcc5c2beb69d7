"""What the routes work with: made once with the application, handed to each route by FastAPI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from im_attr_audit import settings
from im_attr_audit.apps import AppKey
from im_attr_audit.page import models
from im_attr_audit.page.checks import HealthCheck, Verifier
from im_attr_audit.page.downloads import Downloads
from im_attr_audit.page.proofs import Proofs
from im_attr_audit.page.reader import Reader


@dataclass(frozen=True)
class Services:
    """``targets_listed``: whether the Variable names any connection; None where unknown."""

    reader: Reader
    targets_listed: Callable[[], bool | None]
    health_check: HealthCheck
    verifier: Verifier
    downloads: Downloads
    proofs: Proofs


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _reader(request: Request) -> Reader:
    reader: Reader = request.app.state.services.reader
    return reader


async def _stale_after() -> timedelta:
    return settings.stale_after()


ServicesOf = Annotated[Services, Depends(_services)]
ReaderOf = Annotated[Reader, Depends(_reader)]
#: Raises BadSetting, which the application answers with a sentence.
StaleAfter = Annotated[timedelta, Depends(_stale_after)]


def as_json(answer: BaseModel | dict[str, Any]) -> Response:
    """The answer as it is: it was made of rows whose types the database keeps."""
    return Response(to_json(answer), media_type="application/json")


def key_of(row: Mapping[str, Any]) -> AppKey:
    """The app that a row is about."""
    return AppKey(row["region"], row["sdk_app_id"])


def last_certain(apps: Iterable[Mapping[str, Any]]) -> datetime | None:
    """The last instant at which every app that is not stale was still seen."""
    fresh = [app["last_ok_at"] for app in apps if not app["stale"] and not app["retired"]]
    return min((at for at in fresh if at is not None), default=None)


def app_refs(apps: Iterable[Mapping[str, Any]]) -> list[models.AppRef]:
    """The apps as the answers name them."""
    return [models.AppRef.model_construct(**app) for app in apps]
