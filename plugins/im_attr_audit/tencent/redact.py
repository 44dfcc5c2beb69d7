"""Makes the vendor's text fit to be shown and stored: no secret in it, nothing live in it. Pure.

Everything that leaves the client as text passes through :func:`safe_text`: the vendor's
``ErrorInfo``, the kept answer, the reasons of exceptions. It does not rest on Airflow's masker,
which knows registered values only and does not look inside exception groups. The rules, in order:

1. A secret that we know is cut out where its spelling is known: raw, percent-encoded, JSON- or
   HTML-escaped, UTF-16, hex, base32, base64, reversed, in one case. So is anything that unpacks to
   a UserSig, signed by anyone, and any value of a parameter called usersig.
2. Where 15 letters or digits in a row of a known secret are left after that, in any of these
   spellings, whatever separates them, however escaped or compressed, the text is dropped whole.
3. In text (not in an attribute name, which is kept exactly or refused) a long run that looks random
   is cut out: it could be a secret in a spelling that nobody foresaw. A UUID is not.

Clipping comes last: it could leave half a secret otherwise.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

REDACTED: Final = "[redacted]"

# Only so much of a text is ever looked at: a hostile megabyte must not cost seconds of matching.
_LOOKED_AT: Final = 64 * 1024

# Postgres refuses NUL and lone surrogates; the other controls, and the characters that re-order or
# split lines, would act on a terminal or a log. Newline and tab stay: HTML and JSON have them.
_LIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
# A query value, also where the ampersand or the equals sign is escaped itself.
_USERSIG_VALUE = re.compile(
    r"(usersig(?:=|%(?:25)?3[dD]|\\u003[dD])|[\"']usersig[\"']\s*[:=]\s*[\"']?)"
    r"(?:(?!%(?:25)?26|\\u0026)[^\s&\"'<>])+",
    re.IGNORECASE,
)
# zlib's two header bytes in base64; a UserSig is always at least this long.
_USERSIG_START = re.compile(r"e[AFJN](?=[A-Za-z0-9*+/=_%-]{40})")
_USERSIG_REST = re.compile(r"(?:[A-Za-z0-9*+/=_-]|%[0-9A-Fa-f]{2})+")
# Enough of it to see the first field: matching more at every "eJ" of a hostile text is quadratic.
_USERSIG_HEAD = re.compile(r"(?:[A-Za-z0-9*+/=_-]|%[0-9A-Fa-f]{2}){40,160}")
# The one field of an unpacked UserSig that is secret: with it the whole can be packed again.
_UNPACKED_SIG = re.compile(r"(TLS\.sig\W{1,12})[A-Za-z0-9+/=\\]{20,}")


# From the vendor's alphabet.
_TO_BASE64: Final = str.maketrans("*-_", "+/=")
# So many letters and digits are looked for at once: any 15 in a row of a secret hold 8 of them.
_PIECE: Final = 8
_NOT_ALNUM = re.compile("[^a-z0-9]+")
_NOT_ALNUM_BYTES: Final = bytes(set(range(128)) - set(b"abcdefghijklmnopqrstuvwxyz0123456789"))
_PACKED = re.compile(r"[A-Za-z0-9+/*_-]{24,}")
# Runs that may be a secret: without a space in them, with spaces, and bytes that are no text.
_RUN = re.compile(r"[A-Za-z0-9+/=_*%~-]{32,}")
_SPACED_RUN = re.compile(
    r"(?<![A-Za-z0-9+/=_*-])[A-Za-z0-9+/=_*-]++(?:\s{1,3}[A-Za-z0-9+/=_*-]++){2,}+"
)
_BYTES_RUN = re.compile(r"(?:(?:\\x[0-9a-f]{2}|[\x80-\xff])[^\s\x80-\xff\\]{0,4}){12,}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# A letter beside a digit, or two capitals after a small letter: a third of base64's characters, a
# twelfth at least where it is in one case, hardly any in a path or in CamelCase.
_TURN = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z][A-Z0-9])")

# What _plain undoes by itself: JSON's escapes, and a NUL as inert() spells it.
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x00|\x00")
# html.unescape reads all the digits as one number, and Python refuses those of more than 4,300.
_DECIMAL = re.compile(r"&#0*([0-9]+)")


def inert(text: str) -> str:
    """The same text with every live character (NUL, escape, lone surrogate …) spelt out."""
    return _LIVE.sub(lambda match: _spelt_out(match.group()), text)


def redact(text: str, *, secrets: Iterable[str]) -> str:
    """The same text without the secrets in any spelling, nor anything that is a UserSig."""
    secrets = tuple(secrets)
    text = _USERSIG_VALUE.sub(rf"\1{REDACTED}", text)
    plain = _plain(text)
    for secret in secrets:
        # Every form is more than half as long, and building them costs more than a poll's other
        # texts: a name is shorter.
        if not secret or len(text) <= len(secret) // 2:
            continue
        # Building the pattern costs far more than this look, and hardly any text holds a secret.
        if _plain(secret) in plain or any(whole in text for whole in _other_forms(secret)):
            text = _any_spelling(secret).sub(REDACTED, text)
    text = _UNPACKED_SIG.sub(rf"\1{REDACTED}", _without_usersigs(text))
    return REDACTED if _holds_a_piece(text, secrets) else text


def safe_text(text: str, *, secrets: Iterable[str], limit: int = 2000) -> str:
    """Foreign text, inert, redacted and then clipped to ``limit`` characters."""
    secrets = tuple(secrets)
    looked_at = _without_random_runs(redact(inert(text[:_LOOKED_AT]), secrets=secrets))
    if len(text) > _LOOKED_AT:
        # The end of what was looked at may hold the first half of a secret: it goes too.
        longest = max((len(secret) for secret in secrets), default=0)
        looked_at = looked_at[: max(0, len(looked_at) - 12 * longest - 2048)]
    return clip(looked_at, limit)


def clip(text: str, limit: int) -> str:
    """At most ``limit`` characters, the last one an ellipsis where something is missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _spelt_out(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def _without_usersigs(text: str) -> str:
    kept, done = [], 0
    for start in _USERSIG_START.finditer(text):
        if start.start() < done:
            continue
        head = _USERSIG_HEAD.match(text, start.start())
        if head is not None and _is_usersig(head.group()):
            kept += [text[done : start.start()], REDACTED]
            rest = _USERSIG_REST.match(text, start.start())
            done = rest.end() if rest is not None else head.end()
    return "".join([*kept, text[done:]])


def _is_usersig(token: str) -> bool:
    """Whether what begins with the token unpacks to a signature's JSON."""
    packed = unquote(token).translate(_TO_BASE64)
    packed = packed.split("=", 1)[0]
    unpacker, unpacked = zlib.decompressobj(), b""
    try:
        raw = base64.b64decode(packed[: len(packed) // 4 * 4])
        # In small pieces: what was unpacked before a broken byte counts too.
        for at in range(0, len(raw), 16):
            unpacked += unpacker.decompress(raw[at : at + 16], 1024)
    except (binascii.Error, ValueError, zlib.error):
        pass
    return b"TLS." in unpacked


def _plain(text: str) -> str:
    """The text with every escape undone that :func:`_any_spelling` knows, as often as it takes."""
    for _ in range(4):
        if not any(sign in text for sign in "%\\&\x00"):
            break
        before = text
        text = _ESCAPED.sub(lambda match: _char(match.group(1)), text)
        # The two halves of a sign beyond U+FFFF are one again.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        text = _DECIMAL.sub(
            lambda match: f"&#{match[1]}" if len(match[1]) < 8 else "\ufffd",
            unquote(text, errors="surrogateescape"),
        )
        text = html.unescape(text).replace("\\", "")
        if text == before:
            break
    return text


def _char(hexadecimal: str | None) -> str:
    # A spelt-out NUL (between the characters of UTF-16 read as UTF-8) is left out.
    return "" if hexadecimal is None else chr(int(hexadecimal, 16))


@lru_cache(maxsize=2048)
def _other_forms(secret: str) -> tuple[str, ...]:
    """The secret in other alphabets, and the bytes inside it where it is base64 itself."""
    encoded = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode("ascii")
    forms = [encoded.rstrip("="), encoded.rstrip("=").translate(str.maketrans("+/", "-_"))]
    raw = secret.encode("utf-8", "surrogatepass")
    forms += [raw.hex(), raw.hex().upper(), _base32(secret)]
    if len(secret) >= 2 * _PIECE:  # a short one would be found in ordinary words
        forms += [secret[::-1], secret.lower(), secret.upper()]
    unpacked = _unpacked(secret)
    if unpacked is not None:
        forms += [unpacked, inert(unpacked)]
    # Base64 of a very short secret would match ordinary words; the secret itself is still found.
    return tuple(form for form in forms if len(form) >= 8)


def _holds_a_piece(text: str, secrets: tuple[str, ...]) -> bool:
    """Whether a piece of a secret is in the text, or packed into it."""
    if len(text) < 2 * _PIECE - 1:  # as nearly every name is
        return False
    spelt = "\n".join(_letters(secret) for secret in secrets)
    texts = [text, text.replace("\\x", "").replace("0x", "")]
    if not text.isascii():
        texts += _inflated(text.encode("latin-1", "replace"))
    for token in _PACKED.findall(text)[:32]:
        texts += _unpackings(token)
    return any(
        piece in spelt
        for bare in (_NOT_ALNUM.sub("", _plain(each).lower()) for each in texts)
        for piece in (bare[at : at + _PIECE] for at in range(0, len(bare) - _PIECE + 1, _PIECE))
    )


@lru_cache(maxsize=2048)
def _letters(secret: str) -> str:
    """The secret's letters and digits in every alphabet, forwards and backwards; one a line."""
    raw = secret.encode("utf-8", "surrogatepass")
    forms = [secret, raw.hex(), _base32(secret)]
    # Base64 looks different at each of three places in what is encoded.
    forms += [base64.b64encode(bytes(at) + raw)[4:-4].decode("ascii") for at in range(3)]
    unpacked = _packed_in(secret)
    if unpacked is not None:
        forms += [unpacked.hex()]
    bare = [
        form.lower().encode("ascii", "ignore").translate(None, _NOT_ALNUM_BYTES).decode()
        for form in forms
    ]
    return "\n".join(form for each in bare for form in (each, each[::-1]))


def _unpackings(token: str) -> list[str]:
    """What a token of base64, hex or base32 holds, inflated where it is compressed."""
    whole = len(token) // 4 * 4
    decoders: tuple[Callable[[], bytes], ...] = (
        lambda: base64.b64decode(token.translate(_TO_BASE64)[:whole]),
        lambda: base64.urlsafe_b64decode(token[:whole]),
        lambda: bytes.fromhex(token),
        lambda: base64.b32decode(token.upper()[: len(token) // 8 * 8]),
    )
    found = []
    for decode in decoders:
        try:
            raw = decode()
        except (ValueError, binascii.Error):
            continue
        found += [raw.decode("latin-1"), *_inflated(raw)]
    return found


def _inflated(raw: bytes) -> list[str]:
    """The first bytes of what zlib, gzip or bare deflate make of it."""
    found = []
    for wbits in (47, -15):
        try:
            found.append(zlib.decompressobj(wbits).decompress(raw, 4096).decode("latin-1"))
        except zlib.error:
            continue
    return found


def _without_random_runs(text: str) -> str:
    def cut(run: re.Match[str], share: float) -> str:
        bare = re.sub("[^A-Za-z0-9]", "", run.group())
        random = len(bare) >= 24 and len(_TURN.findall(bare)) >= share * len(bare)
        return REDACTED if random and not _UUID.fullmatch(run.group()) else run.group()

    text = _RUN.sub(lambda run: cut(run, 0.08), text)
    text = _SPACED_RUN.sub(lambda run: cut(run, 0.3), text)
    return _BYTES_RUN.sub(REDACTED, text)


@lru_cache(maxsize=128)
def _any_spelling(secret: str) -> re.Pattern[str]:
    """Matches the secret raw, percent-encoded (once or twice, either case of hex), JSON- or
    HTML-escaped, in UTF-16 as it looks after :func:`inert`, and in base64; any mixture too."""
    spelt = r"(?:\\x00)?".join(_any_spelling_of(char) for char in secret)
    return re.compile("|".join([spelt, *(re.escape(form) + "=*" for form in _other_forms(secret))]))


def _any_spelling_of(char: str) -> str:
    def hexes(digits: str) -> str:
        return "".join(f"[{d.lower()}{d.upper()}]" if d.isalpha() else d for d in digits)

    as_bytes = char.encode("utf-8", "surrogatepass")
    percent = "".join(f"%(?:25){{0,3}}{hexes(f'{byte:02x}')}" for byte in as_bytes)
    units = char.encode("utf-16-be", "surrogatepass").hex()
    json_escape = "".join(
        rf"\\{{1,4}}u{hexes(units[at : at + 4])}" for at in range(0, len(units), 4)
    )
    in_html = f"&#(?:0*{ord(char)}|[xX]0*{hexes(f'{ord(char):x}')});"
    spellings = [re.escape(char), percent, json_escape, in_html]
    if not char.isalnum():
        spellings.append(r"\\{1,4}" + re.escape(char))
    return f"(?:{'|'.join(spellings)})"


def _unpacked(secret: str) -> str | None:
    """The bytes inside a UserSig, as they look in a text that was not UTF-8; None if it is none."""
    packed = _packed_in(secret)
    return None if packed is None else packed.decode("utf-8", "backslashreplace")


@lru_cache(maxsize=2048)
def _base32(secret: str) -> str:
    """Kept: it is the dearest of the forms, and both looks need it."""
    return base64.b32encode(secret.encode("utf-8", "surrogatepass")).decode("ascii").rstrip("=")


@lru_cache(maxsize=2048)
def _packed_in(secret: str) -> bytes | None:
    """The compressed bytes that a UserSig is base64 of; None where it is not one."""
    if not secret.startswith("e"):
        return None
    try:
        packed = base64.b64decode(secret.translate(_TO_BASE64))
        json.loads(zlib.decompress(packed))
    except (ValueError, zlib.error):
        return None
    return packed
