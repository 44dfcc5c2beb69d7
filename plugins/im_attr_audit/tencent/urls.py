"""Which URLs may be sent to: https anywhere, http on this machine only. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_HOSTNAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?\.?", re.ASCII)


def check_base_url(url: str) -> str:
    """The URL as scheme://host[:port]; a ValueError that does not quote it where it is not one.

    The client asks this again for itself: nothing is ever sent in the clear beyond this machine.
    """
    try:
        parts = urlsplit(url) if url.isprintable() else None  # it would drop newlines in silence
        host, port = (parts.hostname, parts.port) if parts else (None, None)
    except ValueError:
        parts = None
    if parts is None:
        raise ValueError("is not a URL")
    if parts.scheme not in ("https", "http"):
        raise ValueError("has to begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError("must end after host and port: no path, query or fragment")
    if not host or port == 0 or not (_HOSTNAME.fullmatch(host) or _is_ip(host)):
        raise ValueError("holds no usable host name (write an international one in its xn-- form)")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("has to begin with https://; http:// is for loopback addresses only")
    shown = f"[{host}]" if ":" in host else host
    default_port = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in (None, default_port) else "")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: 127.0.0.0/8, ::1 or localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
