"""Proof: one file by which an outsider can check that a change or a poll was sealed."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from im_attr_audit.page.filters import ProofOf
from im_attr_audit.page.services import ServicesOf

router = APIRouter()


@router.get("/proof", response_class=Response)
async def proof(services: ServicesOf, asked: Annotated[ProofOf, Query()]) -> Response:
    """The proof of a change, or of the newest poll at or before an instant."""
    if (asked.seq is None) == (asked.at is None):
        raise HTTPException(422, "Ask for a change by seq, or for a poll by at.")
    content = await services.proofs.prove(asked)
    what = f"change-{asked.seq}" if asked.at is None else f"poll-{asked.at:%Y-%m-%dT%H%M%SZ}"
    region = re.sub(r"[^A-Za-z0-9_-]", "_", asked.region)[:60]
    name = f"proof-{region}-{asked.sdk_app_id}-{what}.json"
    return Response(
        content,
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
