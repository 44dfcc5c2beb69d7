"""Verifies a UserSig (TLSSigAPIv2) as the vendor does; written apart from the product's signer.

The checks come in the order of the vendor's own verifiers: shape, account, app, expiry, HMAC.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_JSON = 16 * 1024
_FROM_VENDOR_ALPHABET = str.maketrans({"*": "+", "-": "/", "_": "="})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The vendor's "no": its code and its text."""

    code: int
    info: str


MALFORMED = Refusal(70003, "UserSig is illegal or truncated, please regenerate it")


def refusal_of(
    usersig: str, *, app_id: int, identifier: str, keys: Iterable[str], now: float
) -> Refusal | None:
    """Why this UserSig does not let ``identifier`` into ``app_id`` at ``now``; None if it does."""
    if not usersig:
        return Refusal(70002, "UserSig is empty")
    fields = _decode(usersig)
    if fields is None:
        return MALFORMED
    signed_for, signed_app = fields.get("TLS.identifier"), fields.get("TLS.sdkappid")
    at, lasts, sig = fields.get("TLS.time"), fields.get("TLS.expire"), fields.get("TLS.sig")
    userbuf = fields.get("TLS.userbuf")
    if (
        fields.get("TLS.ver") != "2.0"
        or not isinstance(signed_for, str)
        or not isinstance(sig, str)
        or type(signed_app) is not int
        or type(at) is not int
        or type(lasts) is not int
        or not (userbuf is None or isinstance(userbuf, str))
    ):
        return MALFORMED
    if signed_for != identifier:
        return Refusal(70013, "Identifier in the request differs from the one in the UserSig")
    if signed_app != app_id:
        return Refusal(70014, "SDKAppID in the request differs from the one in the UserSig")
    if now > at + lasts:
        return Refusal(70001, "UserSig expired, please regenerate it")
    text = f"TLS.identifier:{signed_for}\nTLS.sdkappid:{signed_app}\n"
    text += f"TLS.time:{at}\nTLS.expire:{lasts}\n"
    if userbuf is not None:
        text += f"TLS.userbuf:{userbuf}\n"
    given = sig.encode("utf-8", "replace")
    for key in keys:
        digest = hmac.digest(key.encode(), text.encode("utf-8", "replace"), hashlib.sha256)
        if hmac.compare_digest(base64.b64encode(digest), given):
            return None
    return Refusal(70009, "UserSig check failed: it was not made with this app's key")


def _decode(usersig: str) -> dict[str, object] | None:
    """The signed JSON object, or None where the text is not one."""
    if set("+/=") & set(usersig):
        return None
    try:
        packed = base64.b64decode(usersig.translate(_FROM_VENDOR_ALPHABET), validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_JSON)
        if not unpacker.eof:
            return None
        fields = json.loads(text)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
