"""The JSON API's routes, one module a view: GET only, typed, plain functions.

They run in Airflow's thread pool, because the driver blocks.
"""

from __future__ import annotations

from fastapi import APIRouter

from im_attr_audit.page.routes import (
    as_of,
    attest,
    changes,
    health,
    names,
    now,
    overview,
    proof,
    timeline,
)


def api() -> APIRouter:
    """Every route below ``/api``."""
    router = APIRouter()
    for view in (overview, names, now, changes, proof, timeline, as_of, attest, health):
        router.include_router(view.router)
    return router
