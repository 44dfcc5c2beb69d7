"""One bounded HTTPS request: no redirect is followed, no more than asked for is read.

``HTTPS_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` are honoured as ``requests`` does;
``.netrc`` is not read. There is no ``Session``: it would read a redirect's body without a limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3
from requests.adapters import HTTPAdapter

from im_attr_audit.errors import AttrAuditError

_PIECE = 64 * 1024
_SECONDS = 30.0


class HttpFailed(AttrAuditError):
    """A request without a usable answer; the text names the host and never the path or query."""


class BadUrl(AttrAuditError):
    """A URL that is not sent to."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and body of an answer that was read to its end."""

    status: int
    body: bytes


def check_url(url: str, *, plain: bool = False) -> None:
    """Raises BadUrl unless this is https without a password.

    Plain http is accepted to this machine itself, and anywhere with ``plain``.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise BadUrl("the URL cannot be read") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadUrl("write a URL of the form https://host/path")
    if parts.scheme == "http" and not plain and not _is_loopback(host):
        raise BadUrl(f"plain http is refused: use https for {host}")
    if parts.username is not None or parts.fragment:
        raise BadUrl(f"the URL of {host} must not contain a user, a password or a fragment")
    if re.search(r"[\x00-\x20\x7f]", url):
        raise BadUrl(f"the URL of {host} contains a space or control character")


def request(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str],
    most: int,
    plain: bool = False,
) -> Reply:
    """Send one request and read at most ``most`` bytes of its answer.

    Raises BadUrl as `check_url`, and HttpFailed for a network error, a redirect or a longer answer.
    """
    check_url(url, plain=plain)
    host = urlsplit(url).hostname
    deadline = time.monotonic() + _SECONDS
    prepared = requests.Request(
        method, url, data=body, headers={"User-Agent": "im-attr-audit", **headers}
    ).prepare()
    proxies = requests.utils.get_environ_proxies(url)
    try:
        with contextlib.closing(HTTPAdapter(max_retries=0)) as adapter:
            response = adapter.send(
                prepared,
                stream=True,
                timeout=10,
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or True,
                proxies=proxies,
            )
            if 300 <= response.status_code < 400:
                raise HttpFailed(f"{host} redirects, which is not followed")
            pieces, length = [], 0
            while piece := response.raw.read1(_PIECE, decode_content=False):
                pieces.append(piece)
                length += len(piece)
                if length > most:
                    raise HttpFailed(f"{host} answered with more than {most} bytes")
                if time.monotonic() > deadline:
                    raise HttpFailed(f"{host} did not answer within {_SECONDS:.0f} s")
            return Reply(response.status_code, b"".join(pieces))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        # Its text can quote the URL.
        raise HttpFailed(f"{host} could not be asked: {type(error).__name__}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
