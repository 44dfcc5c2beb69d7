"""A time-stamp authority that issues real RFC 3161 tokens, for tests.

`cryptography` makes the certificates and signatures; the token's DER is written here, by RFC 3161
(TSTInfo), RFC 5652 (SignedData) and RFC 5035 (signing-certificate-v2), and independently of the
library that the product verifies it with.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SEQUENCE, SET, INTEGER, OCTETS, OID, NULL, TIME = 0x30, 0x31, 0x02, 0x04, 0x06, 0x05, 0x18


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    return der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def oid(dotted: str) -> bytes:
    first, second, *arcs = map(int, dotted.split("."))
    encoded = bytearray([40 * first + second])
    for arc in arcs:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        encoded += bytes(reversed(groups))
    return der(OID, bytes(encoded))


def elements(content: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    found = []
    while content:
        tag, size, head = content[0], content[1], 2
        if size & 0x80:
            head += size & 0x7F
            size = int.from_bytes(content[2:head])
        found.append((tag, content[head : head + size]))
        content = content[head + size :]
    return found


SHA256 = der(SEQUENCE, oid("2.16.840.1.101.3.4.2.1"))
ECDSA_SHA256 = der(SEQUENCE, oid("1.2.840.10045.4.3.2"))
SIGNED_DATA, TST_INFO = oid("1.2.840.113549.1.7.2"), oid("1.2.840.113549.1.9.16.1.4")
CONTENT_TYPE, DIGEST = oid("1.2.840.113549.1.9.3"), oid("1.2.840.113549.1.9.4")
SIGNING_CERTIFICATE = oid("1.2.840.113549.1.9.16.2.47")


class TimestampAuthority:
    """One root and one signing certificate under it."""

    def __init__(self) -> None:
        self._serial = itertools.count(1)
        root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root, name = self._name("Test root"), self._name("Test authority")
        authority = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        self.root = (
            self._certificate(root, root, root_key).add_extension(authority, critical=True)
        ).sign(root_key, hashes.SHA256())
        self.certificate = (
            self._certificate(name, root, self._key).add_extension(usage, critical=True)
        ).sign(root_key, hashes.SHA256())

    @staticmethod
    def _name(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    @staticmethod
    def _certificate(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def respond(self, query: bytes, at: datetime) -> bytes:
        """The response to a request in DER, stamped with this time."""
        _, imprint, *others = elements(elements(query)[0][1])
        nonces = [value for tag, value in others if tag == INTEGER]
        time = der(TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())
        serial = integer(next(self._serial))
        parts = [integer(1), oid("1.2.3.4"), der(SEQUENCE, imprint[1]), serial, time]
        info = der(SEQUENCE, *parts, *(der(INTEGER, nonce) for nonce in nonces))
        granted = der(SEQUENCE, integer(0))
        return der(SEQUENCE, granted, self._token(info))

    def _token(self, info: bytes) -> bytes:
        certificate = self.certificate.public_bytes(Encoding.DER)
        by_hash = der(SEQUENCE, der(OCTETS, sha256(certificate).digest()))
        attributes = [
            der(SEQUENCE, CONTENT_TYPE, der(SET, TST_INFO)),
            der(SEQUENCE, DIGEST, der(SET, der(OCTETS, sha256(info).digest()))),
            der(SEQUENCE, SIGNING_CERTIFICATE, der(SET, der(SEQUENCE, der(SEQUENCE, by_hash)))),
        ]
        # A SET in DER is sorted; it is signed as a SET and sent under an implicit tag.
        signed = b"".join(sorted(attributes))
        signature = self._key.sign(der(SET, signed), ec.ECDSA(hashes.SHA256()))
        issuer = self.certificate.issuer.public_bytes()
        signer = der(
            SEQUENCE,
            integer(1),
            der(SEQUENCE, issuer, integer(self.certificate.serial_number)),
            SHA256,
            der(0xA0, signed),
            ECDSA_SHA256,
            der(OCTETS, signature),
        )
        content = der(SEQUENCE, TST_INFO, der(0xA0, der(OCTETS, info)))
        data = der(
            SEQUENCE,
            integer(3),
            der(SET, SHA256),
            content,
            der(0xA0, certificate),
            der(SET, signer),
        )
        return der(SEQUENCE, SIGNED_DATA, der(0xA0, data))
