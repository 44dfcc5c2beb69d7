"""How a vendor, a gateway or a log could spell a secret that it quotes back."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Final


def _deflated(secret: str) -> bytes:
    return zlib.compress(secret.encode())


def _in_pieces(secret: str, length: int, between: str) -> str:
    return between.join(secret[at : at + length] for at in range(0, len(secret), length))


SPELLINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "as_it_is": str,
    "hex": lambda s: s.encode().hex(),
    "hex_upper": lambda s: s.encode().hex().upper(),
    "hex_spaced": lambda s: s.encode().hex(" "),
    "base32": lambda s: base64.b32encode(s.encode()).decode(),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "reversed": lambda s: s[::-1],
    "lower": str.lower,
    "upper": str.upper,
    "deflated_base64": lambda s: base64.b64encode(_deflated(s)).decode(),
    "deflated_hex": lambda s: _deflated(s).hex(),
    "gzip_base64": lambda s: base64.b64encode(gzip.compress(s.encode(), mtime=0)).decode(),
    "cut_by_spaces": lambda s: _in_pieces(s, 5, " "),
    "cut_by_newlines": lambda s: _in_pieces(s, 20, "\\n"),
    "without_its_head": lambda s: s[14:],
}
