"""A private CA and the simulator's server certificate, made on the spot and renewed in time.

The CA's key is never written: a new CA is made with every new certificate.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.files import read_json, write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_LIFETIME = timedelta(days=5 * 365)
_CA = "im-attr-audit simulator, private CA"
_RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the files lie: the CA for clients, the certificate and its key for the server."""

    ca: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, as the vendor announces."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context


def ensure_certificates(state_dir: Path, hosts: Sequence[str] = ()) -> Certificates:
    """The certificates in ``state_dir``; new ones where there are none or they soon expire.

    They are for loopback, and for those of ``hosts`` that are names.
    """
    paths = Certificates(
        state_dir / "ca.pem", state_dir / "server.pem", state_dir / "server-key.pem"
    )
    # The expiry is kept beside them, so that an ordinary start needs no X.509 library.
    note = state_dir / "certificates.json"
    noted = read_json(note) or {}
    valid_until = noted.get("valid_until", 0)
    names = sorted({host for host in hosts if not host[:1].isdigit()})
    complete = all(path.exists() for path in (paths.ca, paths.certificate, paths.key))
    soon = valid_until - time.time() < _RENEW_BEFORE.total_seconds()
    if not complete or soon or noted.get("names", []) != names:
        expires = _make(paths, names)
        noted_now = {"valid_until": int(expires.timestamp()), "names": names}
        write_private(note, json.dumps(noted_now))
    return paths


def _make(paths: Certificates, names: Sequence[str]) -> datetime:
    """A new CA and a certificate signed by it, in their files; when both expire."""
    # An X.509 library takes long to import: an ordinary start does without.
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    # An hour back: a client in a container may have a clock a little behind.
    begins = datetime.now(UTC) - timedelta(hours=1)
    expires = begins + _LIFETIME
    ca_key, server_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    builder = partial(_builder, ca_key.public_key(), begins, expires)
    ca = (
        builder(_CA, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    addresses = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
        *(x509.DNSName(name) for name in names),
    ]
    server = (
        builder("im-attr-audit simulator", server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
    write_private(paths.key, key)
    write_private(paths.certificate, server.public_bytes(pem))
    write_private(paths.ca, ca.public_bytes(pem), mode=0o644)
    return expires


def _builder(
    ca_key: ec.EllipticCurvePublicKey,
    begins: datetime,
    expires: datetime,
    subject: str,
    key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """What the CA's certificate and the server's have in common."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    return (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(_CA))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        # Python 3.13 verifies strictly (RFC 5280) and asks for this one.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
