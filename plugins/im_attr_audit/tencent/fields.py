"""A Connection's fields, one function a field: the value it holds, or a sentence on what to write.

Pure, except that it reads the CA file. No sentence quotes a password, nor the host as it was
written (people paste URLs with credentials in them).
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from im_attr_audit.tencent.redact import inert
from im_attr_audit.tencent.regions import REGION_HOSTS, default_host
from im_attr_audit.tencent.urls import check_base_url

API_PATHS: Final[Mapping[str, str]] = {
    "all_member_push": "/v4/all_member_push/im_get_attr_name",
    "timpush": "/v4/timpush/get_attr_name",
}
DEFAULT_API: Final = "all_member_push"
DEFAULT_APP_GROUP: Final = "default"
DEFAULT_TIMEOUT: Final = 10.0
DEFAULT_USERSIG_TTL: Final = 86400
MAX_TIMEOUT: Final = 60.0
# The vendor's own bounds for a signature's life end at 50 years.
USERSIG_TTL: Final = range(60, 50 * 365 * 86400 + 1)
SDK_APP_ID: Final = range(1, 2**63)

_FIELDS: Final = (
    "region",
    "sdk_app_id",
    "app_group",
    "api",
    "ca_bundle",
    "timeout",
    "usersig_ttl",
)
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)

_QUOTES: Final = frozenset("\"'`\u2018\u2019\u201c\u201d")

T = TypeVar("T")


class BadField(Exception):
    """One field that cannot be used; the text is what the operator reads."""


class FieldReader:
    """Reads fields one by one, and gathers what is wrong with them."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def read(self, parse: Callable[[], T], otherwise: T) -> T:
        """What ``parse`` returns; ``otherwise`` where it refuses."""
        try:
            return parse()
        except BadField as error:
            self.errors.append(str(error))
            return otherwise


def options_of(extra: Mapping[str, object] | str | None) -> Mapping[str, object]:
    """The extra as an object; empty where there is none."""
    if extra is None or extra == "":
        return {}
    read: object = extra
    if isinstance(extra, str):
        try:
            read = json.loads(extra)
        except (ValueError, RecursionError):
            read = None
        if read is None:
            raise BadField("extra is not readable JSON: write an object with region and sdk_app_id")
    if not isinstance(read, Mapping):
        raise BadField("extra is JSON but not an object: write one with region and sdk_app_id")
    return read


def _set(fields: Mapping[str, object], name: str) -> object | None:
    value = fields.get(name)
    return None if value == "" else value


def _required(fields: Mapping[str, object], name: str, what: str) -> object:
    value = _set(fields, name)
    if value is None:
        raise BadField(f"extra {name!r} is missing: write {what}{_misspelt(fields, name)}")
    return value


def _misspelt(fields: Mapping[str, object], name: str) -> str:
    """Names an unknown key that may have been meant; unknown keys are ignored otherwise."""
    unknown = {key.lower().replace("_", ""): key for key in fields if key not in _FIELDS}
    near = difflib.get_close_matches(name.replace("_", ""), unknown, n=1, cutoff=0.7)
    if not near:
        return ""
    return f" (there is an unknown {inert(unknown[near[0]])[:64]!r}: is {name!r} meant?)"


def login(login: str | None) -> str:
    """The administrator's identifier."""
    if not login:
        raise BadField("login is empty: write the identifier of an administrator of the app")
    if login != login.strip():
        raise BadField("login begins or ends with white space: write the identifier alone")
    if not login.isprintable():
        raise BadField("login holds characters that cannot be printed: write the identifier alone")
    if len(login.encode("utf-8", "surrogatepass")) > 32:
        raise BadField("login is longer than 32 bytes, the vendor's limit for an identifier")
    return login


def password(password: str | None) -> str:
    """The app's secret key."""
    if not password:
        raise BadField("password is empty: write the app's secret key from the vendor's console")
    if password != password.strip():
        raise BadField("password begins or ends with white space: write the secret key alone")
    if not password.isprintable():
        raise BadField(
            "password holds characters that cannot be printed: write the secret key alone"
        )
    # The vendor would count each as a failed signature check, and lock the account out.
    if {password[0], password[-1]} & _QUOTES:
        raise BadField("password is in quotation marks: write the secret key without them")
    if "-----BEGIN" in password:
        raise BadField(
            "password is a PEM file (-----BEGIN …): write the app's secret key from the vendor's "
            "console, which is a plain text"
        )
    return password


def region(fields: Mapping[str, object]) -> str:
    """The label of the region."""
    labels = ", ".join(REGION_HOSTS)
    what = f"one of {labels}, or a label of your own with a host"
    value = _required(fields, "region", what)
    fine = isinstance(value, str) and value.isprintable() and "/" not in value
    if not isinstance(value, str) or not fine or value.strip() != value or len(value) > 64:
        raise BadField(
            "extra 'region' is not a label: write up to 64 printable characters without a slash, "
            f"for instance one of {labels}"
        )
    return value


def sdk_app_id(fields: Mapping[str, object]) -> int:
    """The app's SDKAppID."""
    value = _required(fields, "sdk_app_id", "the app's SDKAppID, a whole number")
    number = _whole(value)
    if number is None or number not in SDK_APP_ID:
        raise BadField(
            "extra 'sdk_app_id' is not a positive whole number: write the app's SDKAppID"
        )
    return number


def app_group(fields: Mapping[str, object]) -> str:
    """The app group, or the default."""
    value = _set(fields, "app_group")
    if value is None:
        return DEFAULT_APP_GROUP
    if not isinstance(value, str) or not value.strip() or len(value) > 128:
        raise BadField("extra 'app_group' is not a text of 1 to 128 characters")
    if not value.isprintable():
        raise BadField("extra 'app_group' holds characters that cannot be printed")
    return value


def api(fields: Mapping[str, object]) -> str:
    """The API family, or the default."""
    value = _set(fields, "api")
    if value is None:
        return DEFAULT_API
    if not isinstance(value, str) or value not in API_PATHS:
        raise BadField(f"extra 'api' has to be one of {', '.join(API_PATHS)}")
    return value


def base_url(host: str | None, port: int | None, region: str) -> str:
    """Where the app is asked; empty where the region is unusable too."""
    _check_port(port)
    written = (host or "").strip()
    if not written and not region:
        return ""  # reported already
    written = written or _known_host(region)
    if "://" not in written:
        bare_ipv6 = written.count(":") > 1 and not written.startswith("[")
        written = f"https://[{written}]" if bare_ipv6 else f"https://{written}"
    reason = ""
    try:
        base_url = check_base_url(written)
    except ValueError as error:
        reason = str(error)
    if reason:
        raise BadField(f"host {reason}")
    parts = urlsplit(written)
    if not port or port == parts.port:
        return base_url
    if parts.port is not None:
        raise BadField(f"host names port {parts.port} and the port field {port}: keep one of them")
    return check_base_url(f"{base_url}:{port}")


def _check_port(port: int | None) -> None:
    # Airflow's form sends port 0 where none was written.
    if port is not None and (type(port) is not int or not 0 <= port <= 65535):
        raise BadField("port is not a number from 1 to 65535")


def _known_host(region: str) -> str:
    known = default_host(region)
    if known is None:
        raise BadField(
            f"region {region!r} is not one we know the host of: write its host into the "
            f"connection, or use one of {', '.join(REGION_HOSTS)}"
        )
    return known


def ca_bundle(fields: Mapping[str, object]) -> str | None:
    """The path of a private CA's certificates."""
    value = _set(fields, "ca_bundle")
    if value is None:
        return None
    usable = False
    if isinstance(value, str):
        try:
            found = Path(value).stat()
            usable = _has_certificates(value, found.st_ino, found.st_mtime_ns, found.st_size)
        except (OSError, ValueError):
            usable = False
    if not usable:
        raise BadField(
            "extra 'ca_bundle' is not a file of PEM certificates that can be read on this machine"
        )
    return str(value)


# Thousands of connections have the same one, and to read it takes longer than all else of them.
@functools.lru_cache(maxsize=16)
def _has_certificates(path: str, *_version: int) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):
        return False
    return True


def timeout(fields: Mapping[str, object]) -> float:
    """Seconds for a whole call, or the default."""
    value = _set(fields, "timeout")
    if value is None:
        return DEFAULT_TIMEOUT
    seconds = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise BadField(
            f"extra 'timeout' is not a number of seconds above 0 and up to {MAX_TIMEOUT:g}"
        )
    return seconds


def usersig_ttl(fields: Mapping[str, object]) -> int:
    """Seconds that a signature is valid for, or the default."""
    value = _set(fields, "usersig_ttl")
    if value is None:
        return DEFAULT_USERSIG_TTL
    number = _whole(value)
    if number is None or number not in USERSIG_TTL:
        raise BadField(
            f"extra 'usersig_ttl' is not a whole number of seconds from {USERSIG_TTL.start} to "
            f"{USERSIG_TTL.stop - 1}"
        )
    return number


def _whole(value: object) -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    return value if type(value) is int else None
