"""RFC 3161 time stamps: an independent authority signs that a checkpoint existed at a time.

Needs ``pip install im-attr-audit[timestamps]``. What is kept is the authority's whole response,
which ``openssl ts -verify -in`` reads too. The authority sees a hash, never the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.https import BadUrl, HttpFailed, request

_MOST_BYTES = 256 * 1024
_SHA256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")


class TimestampFailed(AttrAuditError):
    """No usable time stamp: the authority did not give one, or it is not of this checkpoint."""


def request_timestamp(url: str, note: bytes) -> bytes:
    """An authority's response over a checkpoint, in DER.

    Its status, hash and nonce are checked; its signature is not, which needs the authority's root
    (`verify_timestamp`). Plain http is accepted: the response is signed. Raises TimestampFailed.
    """
    library = _library()
    query = (
        library.TimestampRequestBuilder()
        .data(note)
        .hash_algorithm(library.HashAlgorithm.SHA256)
        .cert_request(cert_request=True)
        .nonce(nonce=True)
        .build()
    )
    headers = {"Content-Type": "application/timestamp-query", "Accept-Encoding": "identity"}
    body = query.as_bytes()
    try:
        reply = request("POST", url, body=body, headers=headers, most=_MOST_BYTES, plain=True)
    except (HttpFailed, BadUrl) as error:
        raise TimestampFailed(f"no time stamp: {error}") from None
    if reply.status != 200:
        raise TimestampFailed(f"no time stamp: the authority answered HTTP {reply.status}")
    if _stamped(reply.body, note).nonce != query.nonce:
        raise TimestampFailed("the time stamp answers another request")
    return reply.body


def verify_timestamp(response: bytes, note: bytes, roots: Sequence[x509.Certificate]) -> datetime:
    """The time that an authority under one of these roots signed for this checkpoint.

    ``roots``: certificates that are trusted, obtained from the authority itself. Raises
    TimestampFailed.
    """
    library = _library()
    stamped = _stamped(response, note)
    try:
        decoded = library.decode_timestamp_response(response)
        verifier = library.VerifierBuilder(roots=list(roots)).build()
        verifier.verify(decoded, sha256(note).digest())
    except (library.VerificationError, ValueError) as error:
        # What follows is OpenSSL's stack of errors.
        reason = str(error).partition(": ErrorStack")[0]
        raise TimestampFailed(f"the time stamp is not valid: {reason}") from None
    time: datetime = stamped.gen_time
    return time


def _stamped(response: bytes, note: bytes) -> Any:
    """What the response says, where it is of this note. Its signature is not checked."""
    library = _library()
    try:
        decoded = library.decode_timestamp_response(response)
        if decoded.status != library.PKIStatus.GRANTED.value:
            raise TimestampFailed(f"the authority refused the time stamp (status {decoded.status})")
        stamped = decoded.tst_info
        imprint = stamped.message_imprint
        algorithm, digest = imprint.hash_algorithm, imprint.message
    except (ValueError, TypeError) as error:
        raise TimestampFailed(f"the answer is not a time stamp: {error}") from None
    if algorithm != _SHA256 or digest != sha256(note).digest():
        raise TimestampFailed("the time stamp is not for this checkpoint")
    return stamped


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError:
        raise TimestampFailed(
            "time stamps need another package: pip install 'im-attr-audit[timestamps]'"
        ) from None
    return rfc3161_client
