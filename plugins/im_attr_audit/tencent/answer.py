"""One answer of the vendor: which bytes are valid, and what anything else is. Pure.

:func:`parse` decides, and no other place does. Every input ends in exactly one way: names are
returned, or one of three errors is raised.

============================================== =====================================================
what came                                      what it is
============================================== =====================================================
200, code 0, "OK", well-formed names           the names
200 or 4xx, vendor JSON with another code      the code's own class (:mod:`codes`)
any 5xx, 408, 425, 429                         Unavailable; a code in the body is kept
4xx with no vendor JSON                        Unavailable: a gateway spoke, not the vendor, which
                                               promises 200 "unless a network error"
3xx                                            Invalid: a redirect is never followed
any other status                               Invalid
200 with anything else                         Invalid, with a reason
============================================== =====================================================

``Rejected`` needs the vendor's own word, a permanent code: an HTML page of a proxy says nothing
about the app. Strictness beyond JSON's: a key that stands twice in an object that we read, a BOM,
NaN and Infinity, other charsets are refused. Fields that we do not know are ignored.

Errors raised here come out of no ``except`` block: a JSONDecodeError holds the whole body, which
may echo a signed URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from im_attr_audit.errors import Invalid, PollFailed, Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.tencent.codes import lookup
from im_attr_audit.tencent.redact import clip, safe_text

MAX_NAME_BYTES: Final = 1024
MAX_SLOT: Final = 999
_SLOT = re.compile("0|[1-9][0-9]{0,2}", re.ASCII)
_INT32: Final = range(-(2**31), 2**31)
_SMALLINT: Final = range(-(2**15), 2**15)
_TRY_LATER: Final = frozenset({408, 425, 429})

Clean = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer: the names, and what is kept as evidence of it."""

    names: dict[int, AttrName]
    text: str = field(repr=False)
    http_status: int
    vendor_date: datetime | None


class _NotJsonError(Exception):
    """Raised inside the decoder only, and turned into a reason before anyone else sees it."""


class _Repeated(dict[str, Any]):
    """An object in which a key stands more than once."""


class _HugeInt:
    """An integer of more digits than any field has; Python refuses to read the longest of them."""


def inert_only(text: str) -> str:
    """The default cleaning, for callers that hold no secret."""
    return safe_text(text, secrets=())


def parse(body: bytes, *, http_status: int = 200, clean: Clean = inert_only) -> dict[int, AttrName]:
    """The names in an answer, or why there are none.

    ``clean`` is applied to every piece of the body that goes into an error.
    """
    document, why_not = _decode(body)
    if http_status >= 500 or http_status in _TRY_LATER:
        raise _gateway(http_status, document, clean)
    if 300 <= http_status < 400:
        _refuse(f"HTTP {http_status}: a redirect, which is never followed; check the target's host")
    if 400 <= http_status < 500:
        code = _code_of(document)
        if code is None or code == 0:
            raise _gateway(http_status, document, clean)
        raise _vendor_error(code, document, http_status, clean)
    if http_status != 200:
        _refuse(f"HTTP {http_status} where only 200 carries names")
    if why_not is not None:
        _refuse(why_not)
    if not isinstance(document, dict):
        _refuse("the answer is not a JSON object")
    if isinstance(document, _Repeated):
        _refuse("the answer has a field twice")
    if "ErrorCode" not in document:
        _refuse("the answer has no ErrorCode")
    code = _code_of(document)
    if code is None:
        _refuse("ErrorCode is not an integer of the vendor's range")
    if code != 0:
        raise _vendor_error(code, document, http_status, clean)
    if document.get("ActionStatus") != "OK":
        _refuse('ErrorCode is 0 and ActionStatus is not "OK"')
    return _names(document, clean)


def _names(document: dict[str, Any], clean: Clean) -> dict[int, AttrName]:
    sent = document.get("AttrNames")
    if sent is None or sent == []:
        sent = {}
    if not isinstance(sent, dict):
        _refuse("AttrNames is neither an object nor empty")
    if isinstance(sent, _Repeated):
        _refuse("AttrNames has a slot twice")
    if len(sent) > MAX_SLOT + 1:
        _refuse(f"AttrNames has {len(sent)} slots; at most {MAX_SLOT + 1} are possible")
    types = document.get("AttrTypes", {})
    if not isinstance(types, dict):
        _refuse("AttrTypes is not an object")
    if isinstance(types, _Repeated):
        _refuse("AttrTypes has a slot twice")
    names = {}
    for key, name in sent.items():
        if _SLOT.fullmatch(key) is None:
            _refuse(f"slot {_quoted(key, clean)} is not a canonical integer from 0 to {MAX_SLOT}")
        _check_name(key, name)
        names[int(key)] = AttrName(name, types.get(key))
    for key, kind in types.items():
        if key not in sent:
            _refuse(f"AttrTypes has slot {_quoted(key, clean)}, which AttrNames has not")
        if type(kind) is not int or kind not in _SMALLINT:
            _refuse(f"the type of slot {key} is not a small integer")
    return names


def _check_name(slot: str, name: object) -> None:
    if not isinstance(name, str):
        _refuse(f"the name of slot {slot} is not a string")
    if "\x00" in name:
        _refuse(f"the name of slot {slot} holds a NUL")
    if len(name) > MAX_NAME_BYTES:
        _refuse(f"the name of slot {slot} is longer than {MAX_NAME_BYTES} bytes")
    if any("\ud800" <= char <= "\udfff" for char in name):
        _refuse(f"the name of slot {slot} holds a lone surrogate")
    if len(name.encode()) > MAX_NAME_BYTES:
        _refuse(f"the name of slot {slot} is longer than {MAX_NAME_BYTES} bytes")


def _decode(body: bytes) -> tuple[Any, str | None]:
    """The decoded body, or None and the reason why it is no JSON of the vendor's kind."""
    if not body:
        return None, "the answer is empty"
    if body.startswith(b"\xef\xbb\xbf"):
        return None, "the answer begins with a byte-order mark"
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None, "the answer is not UTF-8"
    try:
        return _decoder.decode(text), None
    except RecursionError:
        return None, "the answer is nested too deeply"
    except (ValueError, _NotJsonError):
        return None, "the answer is not JSON"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    return read if len(read) == len(pairs) else _Repeated(read)


def _integer(digits: str) -> int | _HugeInt:
    return int(digits) if len(digits) <= 20 else _HugeInt()


def _constant(_: str) -> NoReturn:
    raise _NotJsonError


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _code_of(document: object) -> int | None:
    code = document.get("ErrorCode") if isinstance(document, dict) else None
    # A bool is an int to Python, not to the vendor.
    return code if type(code) is int and code in _INT32 else None


def _info_of(document: object, clean: Clean) -> str | None:
    info = document.get("ErrorInfo") if isinstance(document, dict) else None
    return clean(info) if isinstance(info, str) and info else None


def _vendor_error(code: int, document: object, http_status: int, clean: Clean) -> PollFailed:
    row, info = lookup(code), _info_of(document, clean)
    said = f" ({clip(' '.join(info.split()), 200)})" if info else ""
    reason = f"the vendor answered {code}{said}: {row.sentence}"
    kind = Unavailable if row.retriable else Rejected
    return kind(reason, http_status=http_status, error_code=code, error_info=info or row.sentence)


def _gateway(http_status: int, document: object, clean: Clean) -> Unavailable:
    code, info = _code_of(document), _info_of(document, clean)
    reason = f"HTTP {http_status}: the vendor or a gateway before it could not serve the request"
    if http_status < 500 and http_status not in _TRY_LATER:
        reason = (
            f"HTTP {http_status} and no answer of the vendor's kind: a gateway or another server "
            "spoke; check the target's host and any proxy"
        )
    return Unavailable(reason, http_status=http_status, error_code=code, error_info=info or reason)


def _quoted(key: str, clean: Clean) -> str:
    return '"' + clip(" ".join(clean(key).split()), 40) + '"'


def _refuse(reason: str) -> NoReturn:
    raise Invalid(reason, error_info=reason)
