"""The signature, against the vendor's own package and the vectors derived from it."""

from __future__ import annotations

import base64
import json
import random
import string
import zlib
from typing import Any

import pytest
import TLSSigAPIv2  # type: ignore[import-untyped]
from im_attr_audit.tencent.usersig import user_sig

DEMO_KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"


def unpacked(sig: str) -> dict[str, Any]:
    packed = base64.b64decode(sig.translate(str.maketrans("*-_", "+/=")), validate=True)
    document = json.loads(zlib.decompress(packed))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("identifier", "ttl", "expected"),
    [
        ("xiaojun", 15552000, "LvA7d/Iw7gSsnskvVzBDPOCCDbuNCw4GHwTC0bip+B4="),
        ("administrator", 86400, "yLAe+w7WUeUuqbV9h/TX78u21oTGi+i9Zp1u3PpnY60="),
    ],
)
def test_the_published_demo_key_gives_the_known_signature(
    identifier: str, ttl: int, expected: str
) -> None:
    document = unpacked(user_sig(1400000000, DEMO_KEY, identifier, now=1700000000, ttl=ttl))
    assert document == {
        "TLS.ver": "2.0",
        "TLS.identifier": identifier,
        "TLS.sdkappid": 1400000000,
        "TLS.expire": ttl,
        "TLS.time": 1700000000,
        "TLS.sig": expected,
    }


def test_the_vendors_package_signs_the_same_for_a_thousand_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(20261122)
    alphabet = string.printable + "é会員🙂"
    for _ in range(1000):
        app = chance.randrange(1, 2**63)
        key = "".join(chance.choices(alphabet, k=chance.randrange(1, 80)))
        identifier = "".join(chance.choices(alphabet, k=chance.randrange(1, 33)))
        now, ttl = chance.randrange(2**32), chance.randrange(60, 50 * 365 * 86400)
        monkeypatch.setattr(TLSSigAPIv2.time, "time", lambda now=now: float(now))
        theirs = TLSSigAPIv2.TLSSigAPIv2(app, key).gen_sig(identifier, ttl)
        assert unpacked(user_sig(app, key, identifier, now=now, ttl=ttl)) == unpacked(theirs)


def test_the_signature_is_in_the_vendors_alphabet() -> None:
    allowed = set(string.ascii_letters + string.digits + "*-_")
    for now in range(1700000000, 1700000200):
        assert set(user_sig(1, DEMO_KEY, "admin", now=now, ttl=60)) <= allowed
