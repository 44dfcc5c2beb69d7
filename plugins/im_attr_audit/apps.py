"""What identifies an audited app, and how it is written. Pure."""

from __future__ import annotations

from typing import NamedTuple


class AppKey(NamedTuple):
    """One SDKAppID in one region. Its address is ``region/sdk_app_id``."""

    region: str
    sdk_app_id: int

    @property
    def address(self) -> str:
        """How the app is written everywhere: in logs, alerts, URLs and on the page."""
        return f"{self.region}/{self.sdk_app_id}"

    @classmethod
    def from_address(cls, address: str) -> AppKey:
        """The app of an address; ValueError where it is not one. A label holds no slash."""
        region, slash, number = address.partition("/")
        if not (region and slash and number.isascii() and number.isdigit()):
            raise ValueError(f"{address!r} is not an app: write region/sdk_app_id")
        return cls(region, int(number))
