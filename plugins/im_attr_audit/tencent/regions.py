"""The vendor's data centres that we know by label, and their hosts. Pure.

An app belongs to the data centre it was created in and cannot move (cloud.tencent.com/document/
product/269/81906); asked elsewhere the vendor answers 60026, 70016 or 70020. The vendor's pages
disagree on the list, so every label takes a host of the operator's own instead, and a label that
is not here needs one. A request is never fanned out over hosts: each miss is a failed signature
check, and the vendor locks out after too many (70050).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Source unless said otherwise: the REST API overview, tencentcloud.com/document/product/1047/34620,
# and the page of the call itself, trtc.io/document/37168.
REGION_HOSTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # In every version of both pages; also cloud.tencent.com/document/product/269/1519.
        "china": "console.tim.qq.com",
        # In every version of both pages.
        "singapore": "adminapisgp.im.qcloud.com",
        # In every version of both pages.
        "seoul": "adminapikr.im.qcloud.com",
        # Absent in 2024, named by trtc.io/document/37168 and 1047/67815 of 2025-10-23.
        "tokyo": "adminapijpn.im.qcloud.com",
        # In every version of both pages.
        "frankfurt": "adminapiger.im.qcloud.com",
        # Named until 2024-02; gone since 2024-07 without a shutdown notice: existing apps only.
        "mumbai": "adminapiind.im.qcloud.com",
        # In every version of both pages.
        "silicon_valley": "adminapiusa.im.qcloud.com",
        # Named since 2024-02.
        "jakarta": "adminapiidn.im.qcloud.com",
    }
)


def default_host(region: str) -> str | None:
    """The vendor's host for a region label; None for a label that we do not know."""
    return REGION_HOSTS.get(region)
