"""One app to poll, as its Connection describes it. Pure, but for a look at the CA file.

Airflow's form checks values in the browser only, and connections also come from the environment,
from backends and from the API; so everything is checked here, all faults are told at once, and
each is told by its field and with what to do. No message quotes a password, nor the host as it was
written (people paste URLs with credentials in them).
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlsplit

from im_attr_audit.errors import Misconfigured
from im_attr_audit.tencent.redact import inert, redact
from im_attr_audit.tencent.regions import REGION_HOSTS, default_host

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
# A password as long as this is not part of an ordinary word; the vendor's keys have 64 characters.
_LIKE_A_KEY: Final = 16
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
_HOSTNAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?\.?", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)

T = TypeVar("T")


class BadTarget(Misconfigured):
    """A Connection that describes no app; knows region and SDKAppID where these are readable."""

    def __init__(
        self, message: str, *, region: str | None = None, sdk_app_id: int | None = None
    ) -> None:
        super().__init__(message)
        self.region = region
        self.sdk_app_id = sdk_app_id


@dataclass(frozen=True, slots=True)
class Target:
    """One app, where it is asked and with which key."""

    conn_id: str
    region: str
    sdk_app_id: int
    identifier: str
    secret_key: str = field(repr=False)
    base_url: str
    app_group: str = DEFAULT_APP_GROUP
    api: str = DEFAULT_API
    ca_bundle: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    usersig_ttl: int = DEFAULT_USERSIG_TTL

    @property
    def path(self) -> str:
        """The call's path, by the API family."""
        return API_PATHS[self.api]


@dataclass(frozen=True, slots=True)
class Broken:
    """A connection that gives no target, with what is wrong; the app where it names one."""

    conn_id: str
    problem: Misconfigured
    region: str | None = None
    sdk_app_id: int | None = None


class _FaultError(Exception):
    """One field's fault; its text is what the operator reads."""


def target_from_connection(
    conn_id: str,
    *,
    login: str | None,
    password: str | None,
    host: str | None = None,
    port: int | None = None,
    extra: Mapping[str, object] | str | None = None,
) -> Target:
    """The app that a Connection describes; BadTarget with every fault that it has.

    ``extra`` may be the Connection's raw text. Numbers may be decimal strings, which is all that a
    connection written as a URI can hold. An optional field that is empty or null is not set.
    """
    faults: list[str] = []

    def attempt(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except _FaultError as fault:
            faults.append(str(fault))
            return otherwise

    fields: Mapping[str, object] = attempt(lambda: _extra(extra), {})
    readable = not faults
    identifier = attempt(lambda: _login(login), "")
    secret_key = attempt(lambda: _password(password), "")
    region = attempt(lambda: _region(fields), "") if readable else ""
    sdk_app_id = attempt(lambda: _sdk_app_id(fields), 0) if readable else 0
    app_group = attempt(lambda: _app_group(fields), "")
    api = attempt(lambda: _api(fields), "")
    base_url = attempt(lambda: _base_url(host, port, region), "")
    ca_bundle = attempt(lambda: _ca_bundle(fields), None)
    timeout = attempt(lambda: _timeout(fields), 0.0)
    usersig_ttl = attempt(lambda: _usersig_ttl(fields), 0)
    key = (password or "").strip()
    shown = {
        "login": identifier,
        "extra 'region'": region,
        "extra 'app_group'": app_group,
        "host": base_url,
        "extra 'ca_bundle'": ca_bundle or "",
    }
    if len(key) >= _LIKE_A_KEY:
        # These are recorded, logged and shown: a key pasted into one of them must not be.
        faults += [
            f"{name} holds the password: write the secret key into the password field alone"
            for name, value in shown.items()
            if key.lower() in value.lower()
        ]
    if faults:
        told = "; ".join(faults)
        if len(key) >= 6:
            told = redact(told, secrets=(key,))
            if key in region:
                region = ""
        raise BadTarget(
            f"connection {inert(conn_id)!r} cannot be used: {told}",
            region=region or None,
            sdk_app_id=sdk_app_id or None,
        )
    return Target(
        conn_id=conn_id,
        region=region,
        sdk_app_id=sdk_app_id,
        app_group=app_group,
        api=api,
        identifier=identifier,
        secret_key=secret_key,
        base_url=base_url,
        ca_bundle=ca_bundle,
        timeout=timeout,
        usersig_ttl=usersig_ttl,
    )


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


def _extra(extra: Mapping[str, object] | str | None) -> Mapping[str, object]:
    if extra is None or extra == "":
        return {}
    read: object = extra
    if isinstance(extra, str):
        try:
            read = json.loads(extra)
        except (ValueError, RecursionError):
            read = None
        if read is None:
            raise _FaultError(
                "extra is not readable JSON: write an object with region and sdk_app_id"
            )
    if not isinstance(read, Mapping):
        raise _FaultError("extra is JSON but not an object: write one with region and sdk_app_id")
    return read


def _set(fields: Mapping[str, object], name: str) -> object | None:
    value = fields.get(name)
    return None if value == "" else value


def _required(fields: Mapping[str, object], name: str, what: str) -> object:
    value = _set(fields, name)
    if value is None:
        raise _FaultError(f"extra {name!r} is missing: write {what}{_misspelt(fields, name)}")
    return value


def _misspelt(fields: Mapping[str, object], name: str) -> str:
    """Names an unknown key that may have been meant; unknown keys are ignored otherwise."""
    unknown = {key.lower().replace("_", ""): key for key in fields if key not in _FIELDS}
    near = difflib.get_close_matches(name.replace("_", ""), unknown, n=1, cutoff=0.7)
    if not near:
        return ""
    return f" (there is an unknown {inert(unknown[near[0]])[:64]!r}: is {name!r} meant?)"


def _login(login: str | None) -> str:
    if not login:
        raise _FaultError("login is empty: write the identifier of an administrator of the app")
    if login != login.strip():
        raise _FaultError("login begins or ends with white space: write the identifier alone")
    if not login.isprintable():
        raise _FaultError(
            "login holds characters that cannot be printed: write the identifier alone"
        )
    if len(login.encode("utf-8", "surrogatepass")) > 32:
        raise _FaultError("login is longer than 32 bytes, the vendor's limit for an identifier")
    return login


def _password(password: str | None) -> str:
    if not password:
        raise _FaultError("password is empty: write the app's secret key from the vendor's console")
    if password != password.strip():
        raise _FaultError("password begins or ends with white space: write the secret key alone")
    if not password.isprintable():
        raise _FaultError(
            "password holds characters that cannot be printed: write the secret key alone"
        )
    return password


def _region(fields: Mapping[str, object]) -> str:
    labels = ", ".join(REGION_HOSTS)
    what = f"one of {labels}, or a label of your own with a host"
    value = _required(fields, "region", what)
    fine = isinstance(value, str) and value.isprintable() and "/" not in value
    if not isinstance(value, str) or not fine or value.strip() != value or len(value) > 64:
        raise _FaultError(
            "extra 'region' is no label: write up to 64 printable characters without a slash, "
            f"for instance one of {labels}"
        )
    return value


def _sdk_app_id(fields: Mapping[str, object]) -> int:
    value = _required(fields, "sdk_app_id", "the app's SDKAppID, a whole number")
    number = _whole(value)
    if number is None or number not in SDK_APP_ID:
        raise _FaultError(
            "extra 'sdk_app_id' is not a positive whole number: write the app's SDKAppID"
        )
    return number


def _app_group(fields: Mapping[str, object]) -> str:
    value = _set(fields, "app_group")
    if value is None:
        return DEFAULT_APP_GROUP
    if not isinstance(value, str) or not value.strip() or len(value) > 128:
        raise _FaultError("extra 'app_group' is not a text of 1 to 128 characters")
    if not value.isprintable():
        raise _FaultError("extra 'app_group' holds characters that cannot be printed")
    return value


def _api(fields: Mapping[str, object]) -> str:
    value = _set(fields, "api")
    if value is None:
        return DEFAULT_API
    if not isinstance(value, str) or value not in API_PATHS:
        raise _FaultError(f"extra 'api' has to be one of {', '.join(API_PATHS)}")
    return value


def _base_url(host: str | None, port: int | None, region: str) -> str:
    written = (host or "").strip()
    # Airflow's form sends port 0 where none was written.
    if port is not None and (type(port) is not int or not 0 <= port <= 65535):
        raise _FaultError("port is not a number from 1 to 65535")
    if not written:
        if not region:
            return ""  # told already
        known = default_host(region)
        if known is None:
            raise _FaultError(
                f"region {region!r} is not one we know the host of: write its host into the "
                f"connection, or use one of {', '.join(REGION_HOSTS)}"
            )
        written = known
    if "://" not in written:
        bare_ipv6 = written.count(":") > 1 and not written.startswith("[")
        written = f"https://[{written}]" if bare_ipv6 else f"https://{written}"
    fault = None
    try:
        base_url = check_base_url(written)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise _FaultError(f"host {fault}")
    parts = urlsplit(written)
    if not port or port == parts.port:
        return base_url
    if parts.port is not None:
        raise _FaultError(
            f"host names port {parts.port} and the port field {port}: keep one of them"
        )
    return check_base_url(f"{base_url}:{port}")


def _ca_bundle(fields: Mapping[str, object]) -> str | None:
    value = _set(fields, "ca_bundle")
    if value is None:
        return None
    usable = isinstance(value, str) and "\x00" not in value
    if usable:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(value))
        except (OSError, ValueError):
            usable = False
    if not usable:
        raise _FaultError(
            "extra 'ca_bundle' is not a file of PEM certificates that can be read on this machine"
        )
    return str(value)


def _timeout(fields: Mapping[str, object]) -> float:
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
        raise _FaultError(
            f"extra 'timeout' is not a number of seconds above 0 and up to {MAX_TIMEOUT:g}"
        )
    return seconds


def _usersig_ttl(fields: Mapping[str, object]) -> int:
    value = _set(fields, "usersig_ttl")
    if value is None:
        return DEFAULT_USERSIG_TTL
    number = _whole(value)
    if number is None or number not in USERSIG_TTL:
        raise _FaultError(
            f"extra 'usersig_ttl' is not a whole number of seconds from {USERSIG_TTL.start} to "
            f"{USERSIG_TTL.stop - 1}"
        )
    return number


def _whole(value: object) -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    return value if type(value) is int else None
