"""One app to poll, as its Connection describes it.

Airflow's form checks values in the browser only, and connections also come from the environment,
from backends and from the API. So everything is checked here, everything that is wrong is reported
at once, by its field and with what to do. No error quotes a password, nor the host as it was
written (people paste URLs with credentials in them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from im_attr_audit.apps import AppKey
from im_attr_audit.errors import Misconfigured, Unavailable
from im_attr_audit.tencent import fields
from im_attr_audit.tencent.redact import inert, redact

# A password as long as this is not part of an ordinary word; the vendor's keys have 64 characters.
_LIKE_A_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class Target:
    """One app, where it is asked and with which key."""

    conn_id: str
    region: str
    sdk_app_id: int
    identifier: str
    secret_key: str = field(repr=False)
    base_url: str
    app_group: str = fields.DEFAULT_APP_GROUP
    api: str = fields.DEFAULT_API
    ca_bundle: str | None = None
    timeout: float = fields.DEFAULT_TIMEOUT
    usersig_ttl: int = fields.DEFAULT_USERSIG_TTL

    @property
    def app(self) -> AppKey:
        """What identifies the app."""
        return AppKey(self.region, self.sdk_app_id)

    @property
    def path(self) -> str:
        """The call's path, by the API family."""
        return fields.API_PATHS[self.api]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A listed connection that cannot be polled now, and why; the app where it is known.

    ``failure`` is Misconfigured where somebody has to fix the connection, and Unavailable where it
    could not be looked up.
    """

    conn_id: str
    failure: Misconfigured | Unavailable
    region: str | None = None
    sdk_app_id: int | None = None
    app_group: str | None = None
    api: str | None = None

    @property
    def app(self) -> AppKey | None:
        """The app, where both parts of its address are known."""
        if self.region is None or self.sdk_app_id is None:
            return None
        return AppKey(self.region, self.sdk_app_id)


def target_from_connection(
    conn_id: str,
    *,
    login: str | None,
    password: str | None,
    host: str | None = None,
    port: int | None = None,
    extra: Mapping[str, object] | str | None = None,
) -> Target:
    """The app that a Connection describes; Misconfigured with everything that is wrong with it.

    ``extra`` may be the Connection's raw text. Numbers may be decimal strings, which is all that a
    connection written as a URI can hold. An optional field that is empty or null is not set.
    """
    found = fields.FieldReader()
    options: Mapping[str, object] = found.read(lambda: fields.options_of(extra), {})
    readable = not found.errors
    identifier = found.read(lambda: fields.login(login), "")
    secret_key = found.read(lambda: fields.password(password), "")
    region = found.read(lambda: fields.region(options), "") if readable else ""
    sdk_app_id = found.read(lambda: fields.sdk_app_id(options), 0) if readable else 0
    target = Target(
        conn_id=conn_id,
        region=region,
        sdk_app_id=sdk_app_id,
        identifier=identifier,
        secret_key=secret_key,
        app_group=found.read(lambda: fields.app_group(options), ""),
        api=found.read(lambda: fields.api(options), ""),
        base_url=found.read(lambda: fields.base_url(host, port, region), ""),
        ca_bundle=found.read(lambda: fields.ca_bundle(options), None),
        timeout=found.read(lambda: fields.timeout(options), 0.0),
        usersig_ttl=found.read(lambda: fields.usersig_ttl(options), 0),
    )
    key = (password or "").strip()
    errors = found.errors + _misplaced_key(target, key)
    if errors:
        raise _misconfigured(target, key, "; ".join(errors))
    return target


def _misplaced_key(target: Target, key: str) -> list[str]:
    """Fields that hold the key: they are recorded, logged and shown."""
    shown = {
        "login": target.identifier,
        "extra 'region'": target.region,
        "extra 'app_group'": target.app_group,
        "host": target.base_url,
        "extra 'ca_bundle'": target.ca_bundle or "",
    }
    if len(key) < _LIKE_A_KEY:
        return []
    return [
        f"{name} holds the password: write the secret key into the password field only"
        for name, value in shown.items()
        if key.lower() in value.lower()
    ]


def _misconfigured(target: Target, key: str, text: str) -> Misconfigured:
    region = target.region
    if len(key) >= 6:
        text = redact(text, secrets=(key,))
        if key in region:
            region = ""
    return Misconfigured(
        f"connection {inert(target.conn_id)!r} cannot be used: {text}",
        region=region or None,
        sdk_app_id=target.sdk_app_id or None,
    )
