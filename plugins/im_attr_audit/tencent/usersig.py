"""UserSig (TLSSigAPIv2), the vendor's request signature. Pure: the clock is an argument.

Described at trtc.io/document/34385. The vendor's own package reads the clock inside, has no types
and, in its newest form, prints what it signs; it serves as the oracle of our tests instead.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib


def user_sig(sdk_app_id: int, secret_key: str, identifier: str, *, now: int, ttl: int) -> str:
    """A signature for ``identifier`` that is valid from ``now`` (Unix seconds) for ``ttl`` seconds.

    The key is used as text, not as the bytes its hex digits spell. The last step is the vendor's
    own alphabet (``+`` ``/`` ``=`` become ``*`` ``-`` ``_``, padding kept), not RFC 4648's.
    """
    signed = (
        f"TLS.identifier:{identifier}\n"
        f"TLS.sdkappid:{sdk_app_id}\n"
        f"TLS.time:{now}\n"
        f"TLS.expire:{ttl}\n"
    )
    digest = hmac.new(secret_key.encode(), signed.encode(), hashlib.sha256).digest()
    document = {
        "TLS.ver": "2.0",
        "TLS.identifier": identifier,
        "TLS.sdkappid": sdk_app_id,
        "TLS.expire": ttl,
        "TLS.time": now,
        "TLS.sig": base64.b64encode(digest).decode("ascii"),
    }
    packed = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode("ascii")
    return packed.translate(str.maketrans("+/=", "*-_"))
