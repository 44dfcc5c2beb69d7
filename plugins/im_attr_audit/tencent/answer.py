"""One answer of the vendor: which is valid, and what anything else is. Pure.

:func:`judge` decides, and no other place does: status, framing, encoding, length, JSON, names.
Every reply ends in exactly one way: an Answer is returned, or one of three errors is raised, with
everything that is known of the reply in it.

============================================== =====================================================
what came                                      what it is
============================================== =====================================================
200, code 0, "OK", well-formed names           an Answer
200 or 4xx, vendor JSON with another code      the code's own class (:mod:`codes`)
any 5xx, 408, 425, 429                         Unavailable; a code in the body is kept
4xx with no vendor JSON                        Unavailable: a gateway answered; the vendor promises
                                               200 "unless a network error"
3xx                                            Invalid: a redirect is never followed
any other status                               Invalid
200 with anything else                         Invalid, with a reason
============================================== =====================================================

``Rejected`` needs the vendor's own word, a permanent code: an HTML page of a proxy says nothing
about the app. Strictness beyond JSON's: a key that stands twice in an object that we read, a BOM,
NaN and Infinity, other charsets are refused. So are an ambiguous length and anything behind the end
of a compressed body, save further members of a gzip file (RFC 1952). Unknown fields are ignored.

Errors raised here come out of no ``except`` block: a JSONDecodeError holds the whole body, which
may echo a signed URL.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import Any, Final, NoReturn

from im_attr_audit.errors import Invalid, PollFailed, Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.tencent.codes import lookup
from im_attr_audit.tencent.redact import REDACTED, clip, redact, safe_text

MAX_BODY: Final = 1024 * 1024
MAX_NAME_BYTES: Final = 1024
MAX_SLOT: Final = 999
#: The vendor's answer is two levels deep.
_DEEPEST: Final = 100
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_SLOT = re.compile("0|[1-9][0-9]{0,2}", re.ASCII)
_INT32: Final = range(-(2**31), 2**31)
_SMALLINT: Final = range(-(2**15), 2**15)
_TRY_LATER: Final = frozenset({408, 425, 429})

Clean = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came over HTTP, not looked at yet.

    ``date`` and ``encoding`` are headers. ``body`` is as sent, of at most MAX_BODY + 1 bytes: the
    last one means that there was more. ``malformed`` is why the body's end was not certain; then
    it was not read.
    """

    status: int
    date: str | None
    encoding: str
    body: bytes
    malformed: str | None = None


@dataclass(frozen=True)
class Answer:
    """A valid answer: the names, and what is kept as evidence of it where they are a change."""

    names: dict[int, AttrName]
    evidence: Callable[[], str] = field(repr=False, compare=False)
    http_status: int
    vendor_date: datetime | None

    @cached_property
    def text(self) -> str:
        """The answer as it is kept, without secrets.

        Made when it is asked for: nearly every poll finds the names on record and keeps no text,
        and looking for a secret in every spelling costs more than the rest of judging.
        """
        return self.evidence()


class _NotValidError(Exception):
    """Raised inside this module only: why a reply is not valid, and the vendor's own words."""

    def __init__(
        self,
        kind: type[PollFailed],
        reason: str,
        *,
        code: int | None = None,
        info: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.code, self.info = kind, reason, code, info


class _NotJsonError(Exception):
    """Raised inside the decoder only, and turned into a reason before anyone else sees it."""


class _Repeated(dict[str, Any]):
    """An object in which a key stands more than once."""


class _HugeInt:
    """An integer of more digits than any field has; Python refuses to read the longest of them."""


def judge(reply: Reply, *, secrets: tuple[str, ...] = ()) -> Answer:
    """The names in a reply, or a PollFailed that says why there are none.

    ``secrets`` are removed from every text that is kept, and no name may hold one.
    """
    clean = partial(safe_text, secrets=secrets)
    date, evidence = _date(reply.date), None
    try:
        body, defect = _unpacked(reply)
        evidence = partial(_evidence, body, clean)
        document, not_json = _decode(body)
        _check_status(reply.status, document, clean)
        if reason := defect or not_json:
            _refuse(reason)
        names = _names(_checked(document, clean), clean)
        if any(redact(name.name, secrets=secrets) != name.name for name in names.values()):
            _refuse("an attribute name holds this app's secret key or a UserSig")
        return Answer(names, evidence, reply.status, date)
    except _NotValidError as raised:
        why = raised
    except Exception as error:
        # Whatever a reply can provoke ends here: it must not stop the apps beside it.
        reason = f"the answer could not be understood ({type(error).__name__})"
        why = _NotValidError(Invalid, reason)
    raise why.kind(
        why.reason,
        http_status=reply.status,
        error_code=why.code,
        error_info=why.info or why.reason,
        answer=evidence() if evidence else None,
        vendor_date=date,
    )


def _evidence(body: bytes, clean: Clean) -> str:
    try:
        return clean(body.decode("utf-8", "backslashreplace"))
    except Exception as error:
        # As in judging: what a reply can provoke must not stop the apps beside it.
        return f"{REDACTED} ({type(error).__name__})"


def _check_status(status: int, document: object, clean: Clean) -> None:
    """A status other than 200 is judged before what is wrong with the body."""
    if status >= 500 or status in _TRY_LATER:
        raise _gateway(status, document, clean)
    if 300 <= status < 400:
        _refuse(f"HTTP {status}: a redirect, which is never followed; check the connection's host")
    if 400 <= status < 500:
        code = _code_of(document)
        if code is None or code == 0:
            raise _gateway(status, document, clean)
        raise _vendor_error(code, document, clean)
    if status != 200:
        _refuse(f"HTTP {status} where only 200 carries names")


def _checked(document: object, clean: Clean) -> dict[str, Any]:
    """The document, if it says that the call succeeded."""
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
        raise _vendor_error(code, document, clean)
    if document.get("ActionStatus") != "OK":
        _refuse('ErrorCode is 0 and ActionStatus is not "OK"')
    return document


def _unpacked(reply: Reply) -> tuple[bytes, str | None]:
    """The body without its content encoding, of at most MAX_BODY bytes, and what is wrong with it.

    Nobody asked for an encoding, but a proxy on the way may add one.
    """
    encoding, body, defect = reply.encoding.strip().lower(), reply.body, None
    if reply.malformed:
        defect = f"the answer's head has {reply.malformed}"
    elif encoding in ("gzip", "x-gzip", "deflate"):
        unpacked, wrong = _decompressed(body)
        # What cannot be unpacked is kept as it came.
        body, defect = unpacked or body, wrong and f"the answer's {encoding} encoding {wrong}"
    elif encoding not in ("", "identity"):
        defect = "the answer has a content encoding that was not asked for"
    if len(body) > MAX_BODY or len(reply.body) > MAX_BODY:
        defect = f"the answer is longer than {MAX_BODY} bytes"
    return body[:MAX_BODY], defect


def _decompressed(packed: bytes) -> tuple[bytes, str | None]:
    """What zlib or gzip bytes hold, up to MAX_BODY + 1 bytes, and what is wrong with them."""
    unpacker, unpacked = zlib.decompressobj(wbits=47), bytearray()
    gzipped = packed.startswith(b"\x1f\x8b")
    at = 0
    try:
        # In small pieces: what is left after each of many members is copied.
        while at < len(packed):
            piece = packed[at : at + 4096]
            unpacked += unpacker.decompress(piece, MAX_BODY + 1 - len(unpacked))
            if len(unpacked) > MAX_BODY:
                return bytes(unpacked), None
            at += len(piece) - len(unpacker.unused_data)
            if unpacker.eof and at < len(packed):
                if not gzipped:
                    return bytes(unpacked), "is followed by something else"
                unpacker = zlib.decompressobj(wbits=31)
    except zlib.error:
        after = "is followed by something else" if gzipped and unpacked else "is broken"
        return bytes(unpacked), after
    return bytes(unpacked), None if unpacker.eof else "is cut off"


def _date(header: str | None) -> datetime | None:
    """The Date header, aware and in UTC; None where none can be read from it."""
    if not header:
        return None
    try:
        date = parsedate_to_datetime(header)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except Exception:  # the parser's own errors are of many kinds
        return None


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
    for key, name in sent.items():
        if _SLOT.fullmatch(key) is None:
            _refuse(f"slot {_quoted(key, clean)} is not a canonical integer from 0 to {MAX_SLOT}")
        _check_name(key, name)
    types = _types(document, sent.keys(), clean)
    return {int(key): AttrName(name, types.get(key)) for key, name in sent.items()}


def _types(document: dict[str, Any], slots: Collection[str], clean: Clean) -> dict[str, int]:
    """``slots``: those of the names, which are checked already: a reason quotes them."""
    types = document.get("AttrTypes", {})
    if not isinstance(types, dict):
        _refuse("AttrTypes is not an object")
    if isinstance(types, _Repeated):
        _refuse("AttrTypes has a slot twice")
    for key, number in types.items():
        if key not in slots:
            _refuse(f"AttrTypes has slot {_quoted(key, clean)}, which is missing from AttrNames")
        if type(number) is not int or number not in _SMALLINT:
            _refuse(f"the type of slot {key} is not a small integer")
    return types


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
    """The decoded body, or None and the reason why it is not JSON of the vendor's kind."""
    if not body:
        return None, "the answer is empty"
    if body.startswith(b"\xef\xbb\xbf"):
        return None, "the answer begins with a byte-order mark"
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None, "the answer is not UTF-8"
    if _is_nested_too_deeply(text):
        return None, "the answer is nested too deeply"
    try:
        return _decoder.decode(text), None
    except RecursionError:
        return None, "the answer is nested too deeply"
    except (ValueError, _NotJsonError):
        return None, "the answer is not JSON"


def _is_nested_too_deeply(text: str) -> bool:
    """The same on every Python: how deep its decoder goes depends on the version and the stack."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            return True
    return False


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


def _vendor_error(code: int, document: object, clean: Clean) -> _NotValidError:
    row, info = lookup(code), _info_of(document, clean)
    quoted = f" ({clip(' '.join(info.split()), 200)})" if info else ""
    reason = f"the vendor answered {code}{quoted}: {row.sentence}"
    kind = Unavailable if row.retriable else Rejected
    return _NotValidError(kind, reason, code=code, info=info or row.sentence)


def _gateway(status: int, document: object, clean: Clean) -> _NotValidError:
    if status >= 500 or status in _TRY_LATER:
        what = "the vendor or a gateway before it could not serve the request"
    elif status == 407:
        what = (
            "a proxy wants a login; write user and password into HTTPS_PROXY, as "
            "http://user:password@host:port"
        )
    else:
        what = (
            "the answer is not the vendor's: a gateway or another server sent it; check the "
            "connection's host and any proxy"
        )
    code, info = _code_of(document), _info_of(document, clean)
    return _NotValidError(Unavailable, f"HTTP {status}: {what}", code=code, info=info)


def _quoted(key: str, clean: Clean) -> str:
    return '"' + clip(" ".join(clean(key).split()), 40) + '"'


def _refuse(reason: str) -> NoReturn:
    raise _NotValidError(Invalid, reason)
