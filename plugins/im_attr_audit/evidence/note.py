"""Signed notes and their Ed25519 keys, as https://c2sp.org/signed-note specifies them.

A note is a text, an empty line, and one line per signature. Any other implementation of the format
(Go's ``golang.org/x/mod/sumdb/note``, Sigstore's, Tessera's) reads these notes and keys.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from im_attr_audit.errors import AttrAuditError

#: The signature type of Ed25519; it stands before the key in both key texts.
_ED25519 = b"\x01"
_KEY_BYTES = 32
#: The specification's own least is 16 signatures; more than these is not one of ours.
_MOST_SIGNATURES = 100
_MOST_BYTES = 1_000_000


class BadKey(AttrAuditError):
    """A signing or verification key that cannot be used; its text does not repeat the key."""


class BadNote(AttrAuditError):
    """A text that is not a signed note, or is not signed by the expected key."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name: what an outsider needs to check a note."""

    name: str
    key: Ed25519PublicKey

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key in a signature line; an identifier, not a strong hash."""
        public = self.key.public_bytes_raw()
        return sha256(self.name.encode() + b"\n" + _ED25519 + public).digest()[:4]

    def __str__(self) -> str:
        """The key's text, ``name+hash+key``, as `read_verifier` reads it."""
        public = _ED25519 + self.key.public_bytes_raw()
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(public).decode()}"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with its name. `repr` does not show the key."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.key.public_key())

    def sign(self, text: str) -> str:
        """The note of a text with this key's signature. Raises BadNote for an unsuitable text."""
        _check_text(text)
        signature = base64.b64encode(self.verifier.key_id + self.key.sign(text.encode()))
        return f"{text}\n— {self.name} {signature.decode()}\n"

    def secret_text(self) -> str:
        """The key's text, ``PRIVATE+KEY+name+hash+key``, as `read_signer` reads it."""
        private = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{private}"


def new_signer(name: str) -> Signer:
    """A new key. Raises BadKey for a name with a space or a plus sign."""
    _check_name(name)
    return Signer(name, Ed25519PrivateKey.generate())


def read_verifier(text: str) -> Verifier:
    """A verification key from its text, ``name+hash+key``. Raises BadKey."""
    name, hash_, public = _parts(text.strip(), "a verification key has the form name+hash+key")
    try:
        verifier = Verifier(name, Ed25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise BadKey(f"the verification key of {name} is not an Ed25519 key") from None
    if verifier.key_id != hash_:
        raise BadKey(f"the verification key of {name} does not match its hash")
    return verifier


def read_signer(text: str) -> Signer:
    """A signing key from its text, ``PRIVATE+KEY+name+hash+key``. Raises BadKey."""
    form = "a signing key has the form PRIVATE+KEY+name+hash+key"
    prefix, key = text.strip()[:12], text.strip()[12:]
    if prefix != "PRIVATE+KEY+":
        raise BadKey(form)
    name, hash_, private = _parts(key, form)
    signer = Signer(name, Ed25519PrivateKey.from_private_bytes(private))
    if signer.verifier.key_id != hash_:
        raise BadKey(f"the signing key of {name} does not match its hash")
    return signer


def write_new_key(path: Path, name: str) -> Signer:
    """Make a key and write it to a new file that only its owner may read (0600).

    Raises BadKey where the file exists: a key that signed anything must not be overwritten.
    """
    signer = new_signer(name)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadKey(f"{path} exists; a key is never overwritten: choose another file") from None
    except OSError as error:
        raise BadKey(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        # The mode above is subject to the umask, which can only take away.
        file.write(signer.secret_text() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return signer


def read_key_file(path: Path) -> Signer:
    """The signing key of a file. Raises BadKey, also where others than its owner may read it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadKey(f"{path} is readable by others: run chmod 600 on it")
            content = file.read(4096)
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}") from None
    try:
        return read_signer(content.decode())
    except UnicodeDecodeError:
        raise BadKey(f"{path} is not a signing key") from None


def signatures_of(note: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note, and of each signature line the name, key id and signature. Checks none.

    Raises BadNote where this is not a signed note.
    """
    if len(note) > _MOST_BYTES:
        raise BadNote(f"a note of more than {_MOST_BYTES} bytes is not read")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise BadNote("the note is not UTF-8") from None
    if re.search(r"[\x00-\x09\x0b-\x1f]", whole):
        raise BadNote("the note contains a control character")
    text, gap, rest = whole.rpartition("\n\n")
    if not gap or not rest.endswith("\n"):
        raise BadNote("the note lacks an empty line followed by signature lines")
    lines = rest[:-1].split("\n")
    if len(lines) > _MOST_SIGNATURES:
        raise BadNote(f"the note has more than {_MOST_SIGNATURES} signature lines")
    return text + "\n", [_signature(line) for line in lines]


def open_note(note: bytes, verifier: Verifier) -> str:
    """The text of a note, once this key's signature on it is verified. Raises BadNote.

    Signatures of other keys are ignored, as the specification demands; a wrong signature in the
    name of this key refuses the note.
    """
    text, signatures = signatures_of(note)
    found = False
    for name, key_id, signature in signatures:
        if (name, key_id) != (verifier.name, verifier.key_id):
            continue
        try:
            verifier.key.verify(signature, text.encode())
        except InvalidSignature:
            raise BadNote(f"the signature of {name} is not of this text and this key") from None
        found = True
    if not found:
        raise BadNote(f"the note is not signed by {verifier.name}+{verifier.key_id.hex()}")
    return text


def _signature(line: str) -> tuple[str, bytes, bytes]:
    fields = line.split(" ")
    if len(fields) != 3 or fields[0] != "—" or not _is_name(fields[1]):
        raise BadNote("the note has a malformed signature line")
    decoded = decode_base64(fields[2])
    if decoded is None or len(decoded) < 5:
        raise BadNote("the note has a malformed signature line")
    return fields[1], decoded[:4], decoded[4:]


def decode_base64(text: str) -> bytes | None:
    """What standard base64 in its one canonical spelling decodes to, else None."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Unused bits other than zero would give one value several texts.
    return decoded if base64.b64encode(decoded).decode() == text else None


def _parts(text: str, form: str) -> tuple[str, bytes, bytes]:
    """Name, hash and 32 key bytes of ``name+hash+key``; base64 may itself contain plus signs."""
    fields = text.split("+", 2)
    if len(fields) != 3:
        raise BadKey(form)
    name, hash_, encoded = fields
    _check_name(name)
    key = decode_base64(encoded)
    if not re.fullmatch(r"[0-9a-f]{8}", hash_) or not key:
        raise BadKey(form)
    if key[:1] != _ED25519 or len(key) != 1 + _KEY_BYTES:
        raise BadKey(f"the key of {name} is not an Ed25519 key of signature type 1")
    return name, bytes.fromhex(hash_), key[1:]


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(map(str.isspace, name))


def _check_name(name: str) -> None:
    if not _is_name(name) or not name.isprintable():
        raise BadKey(
            "a key's name must not be empty or contain spaces or plus signs: "
            "write a URL without its scheme, such as example.com/im-attr-audit"
        )


def _check_text(text: str) -> None:
    if not text.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", text):
        raise BadNote("a note's text must end in a newline and contain no other control character")
