"""Looks for secrets in everything that was written: as they are, encoded, decoded, or in part.

``scan`` is given bytes and the secrets, and knows none of the product's own ways to redact. A
UserSig is found even if nobody knows which one was made: anything is one that unpacks to "TLS.".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import re
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil

from launch.postgres import EmbeddedPostgres

_BASE64 = re.compile(rb"[A-Za-z0-9+/*_-]{24,}={0,2}_{0,2}")
_JSON_ESCAPE = re.compile(rb"\\+u00([0-9a-fA-F]{2})")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2} ?){19,}[0-9A-Fa-f]{2}")
_BASE32 = re.compile(rb"[A-Z2-7]{32,}")
_WORD = re.compile(rb"[A-Za-z0-9+/=*_-]{16,}")
#: So long a piece of a secret is a leak, too; it is cut at every second character.
_PIECE = 20


class Needles:
    """Many texts, each with a name, that are looked for at once.

    A log of megabytes is gone through once, and not once for each of thousands of texts.
    """

    def __init__(self, named: Iterable[tuple[str, bytes]]) -> None:
        self._by_head: dict[bytes, list[tuple[str, bytes]]] = {}
        self._short: list[tuple[str, bytes]] = []
        for name, needle in named:
            if len(needle) < _PIECE:
                self._short.append((name, needle))
            else:
                self._by_head.setdefault(needle[:_PIECE], []).append((name, needle))

    def find(self, text: bytes) -> set[str]:
        """The names of those that are in the text."""
        heads, ends = self._by_head, range(_PIECE, len(text) + 1)
        begins = (
            [end - _PIECE for end in ends if text[end - _PIECE : end] in heads] if heads else []
        )
        return {name for name, needle in self._short if needle in text} | {
            name
            for at in begins
            for name, needle in heads[text[at : at + _PIECE]]
            if text.startswith(needle, at)
        }


@dataclass(frozen=True, eq=False)
class Secrets:
    """Keys and passwords, by what they are called."""

    by_name: dict[str, str] = field(repr=False)
    #: UserSigs that were truly sent: traces of these are found in any spelling.
    signatures: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def traces(self) -> frozenset[bytes]:
        """Every piece of a signature's letters and digits, in one case, in both directions."""
        plain = [_letters(signature.encode()) for signature in self.signatures]
        return frozenset(
            text[at : at + _PIECE]
            for letters in plain
            for text in (letters, letters[::-1])
            for at in range(len(text) - _PIECE + 1)
        )

    @cached_property
    def needles(self) -> Needles:
        return Needles(self._spelt())

    @cached_property
    def words(self) -> Needles:
        """Those that are one word of a text."""
        return Needles(each for each in self._spelt() if _WORD.fullmatch(each[1]))

    @cached_property
    def phrases(self) -> Needles:
        """Those that are not."""
        return Needles(each for each in self._spelt() if not _WORD.fullmatch(each[1]))

    def _spelt(self) -> Iterator[tuple[str, bytes]]:
        for name, secret in self.by_name.items():
            raw = secret.encode()
            pieces = {raw} | {raw[at : at + _PIECE] for at in range(0, len(raw) - _PIECE + 1, 2)}
            for piece in pieces:
                yield f"{name}", piece
                yield f"{name} reversed", piece[::-1]
            yield f"{name} in hex", raw.hex().encode()
            for shift in range(3):  # base64 looks different at each of three places
                encoded = base64.b64encode(b"\0" * shift + raw)
                yield f"{name} in base64", encoded[4:-4]


def scan(blob: bytes, secrets: Secrets, where: str = "") -> list[str]:
    """What was found: the secret's name, how it was spelt, and where. Never the secret."""
    found = set()
    traces = secrets.traces
    if traces and any(_has_trace(text, traces) for text in _decodings(blob)):
        found.add(f"a trace of a UserSig {where}")
    seen: set[bytes] = set()
    for spelling, text in _readings(blob):
        # Logs repeat themselves: each word is looked at once.
        words = set(_WORD.findall(text)) - seen
        seen |= words
        hits = secrets.words.find(b"\n".join(words)) | secrets.phrases.find(text)
        found |= {f"{name} ({spelling}) {where}" for name in hits}
        unpacked = [
            piece
            for token in {token for word in words for token in _BASE64.findall(word)}
            for outer in _unpacked(token)
            for piece in [outer, *(p for t in _BASE64.findall(outer) for p in _unpacked(t))]
        ]
        inside = b"\n".join(unpacked)
        if b"TLS." in inside:
            found.add(f"a UserSig ({spelling}) {where}")
        found |= {f"{name} (inside base64) {where}" for name in secrets.needles.find(inside)}
        if b"TLS.sig" in text:
            found.add(f"an unpacked UserSig ({spelling}) {where}")
    return sorted(found)


def _letters(text: bytes) -> bytes:
    return re.sub(rb"[^0-9a-z]", b"", text.lower())


def _has_trace(text: bytes, traces: frozenset[bytes]) -> bool:
    letters = _letters(text)
    return any(letters[at : at + _PIECE] in traces for at in range(len(letters) - _PIECE + 1))


def _decodings(blob: bytes) -> Iterator[bytes]:
    """The text, and what its long tokens are when they are decoded and unpacked."""
    yield blob
    for token in set(_HEX.findall(blob)):
        yield from _with_unpacked(bytes.fromhex(re.sub(rb"[^0-9A-Fa-f]", b"", token).decode()))
    for token in set(_BASE32.findall(blob)):
        with contextlib.suppress(binascii.Error):
            yield base64.b32decode(token + b"=" * (-len(token) % 8))
    for token in set(_BASE64.findall(blob)):
        for piece in _unpacked(token):
            yield from _with_unpacked(piece)


def _with_unpacked(piece: bytes) -> Iterator[bytes]:
    yield piece
    with contextlib.suppress(zlib.error):
        yield zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(piece, 4096)  # zlib or gzip


def _readings(blob: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as it is", blob
    if b"%" in blob:
        once = urllib.parse.unquote_to_bytes(blob)
        yield "percent-encoded", once
        if b"%25" in blob:
            yield "percent-encoded twice", urllib.parse.unquote_to_bytes(once)
    if b"\\" in blob:
        plain = _JSON_ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), blob)
        yield "JSON-escaped", plain.replace(b"\\", b"")
    if b"\0" in blob:
        yield "UTF-16", blob.replace(b"\0", b"")


def _unpacked(token: bytes) -> list[bytes]:
    plain = token.translate(bytes.maketrans(b"*-_", b"+/=")).split(b"=", 1)[0]
    pieces = []
    for variant in {plain, token.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")}:
        for start in range(min(4, len(variant))):
            part = variant[start:]
            try:
                decoded = base64.b64decode(part[: len(part) // 4 * 4])
            except (binascii.Error, ValueError):
                continue
            pieces.append(decoded)
            if decoded[:1] == b"x":
                unpacker = zlib.decompressobj()
                try:
                    pieces.append(unpacker.decompress(decoded, 4096))
                except zlib.error:
                    continue
    return pieces


def scan_files(roots: Iterable[Path], secrets: Secrets, *, except_for: Iterable[Path]) -> list[str]:
    """Every file below the roots, save the places where a secret has to be."""
    spared = [path.resolve() for path in except_for]
    found: list[str] = []
    for root in roots:
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            resolved = path.resolve()
            if not path.is_file() or any(resolved.is_relative_to(each) for each in spared):
                continue
            found += scan(path.read_bytes(), secrets, str(path.relative_to(root.parent)))
            found += scan(path.name.encode(), secrets, "a file's name")
    return found


def scan_database(server: EmbeddedPostgres, dbname: str, secrets: Secrets) -> tuple[list[str], int]:
    """Every row of every table; what was found, and how many tables there were."""
    found: list[str] = []
    with server.connect(dbname) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables "
            "where schemaname not in ('pg_catalog', 'information_schema')"
        )
        tables = [name for (name,) in cursor.fetchall()]
        for table in tables:
            written = io.BytesIO()
            cursor.copy_expert(f"copy (select * from {table}) to stdout", written)
            found += scan(written.getvalue(), secrets, f"table {dbname}.{table}")
    return found, len(tables)


def scan_command_lines(secrets: Secrets, seen: set[str] | None = None) -> list[str]:
    """The words that every process on this machine was started with.

    ``seen``: command lines that were scanned before; these are added.
    """
    seen = set() if seen is None else seen
    lines = {" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])} - seen
    seen |= lines
    return scan("\n".join(lines).encode("utf-8", "surrogateescape"), secrets, "a command line")


def key_of(connection: str) -> str:
    """The key in a connection's JSON."""
    key: str = json.loads(connection)["password"]
    return key
