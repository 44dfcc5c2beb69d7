"""Hostile answers from a seed: what a vendor, a gateway or an attacker could send.

``bodies(seed)`` never ends; the same seed gives the same bodies. Some are valid: the reader of
them must decide which. ``PIECES`` are the single tricks by name, for tables of tests.
"""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import random
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from im_attr_audit.names import AttrName
from im_attr_audit.tencent.answer import Reply, judge

from simulator import spellings

#: Under which the tests count what came of them.
PARSED: Final = "hostile answers to the parser, by outcome"
OK: Final = '"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0'


def parse(body: bytes, *, http_status: int = 200) -> dict[int, AttrName]:
    """The names that a body of this status holds, or the error that it leads to."""
    return judge(Reply(http_status, None, "", body)).names


def _answer(names: str, more: str = "") -> bytes:
    return f'{{{OK},"AttrNames":{names}{more}}}'.encode("utf-8", "surrogatepass")


def _head(code: str, status: str = '"OK"') -> bytes:
    return f'{{"ActionStatus":{status},"ErrorCode":{code},"AttrNames":{{"0":"a"}}}}'.encode()


# Name of the trick -> a body that is not a valid answer.
PIECES: Final[dict[str, bytes]] = {
    "empty": b"",
    "blank": b" \r\n\t",
    "null": b"null",
    "list": b"[]",
    "number": b"0",
    "text": b'"OK"',
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "half": _answer('{"0":"a"}')[:-9],
    "two_documents": _answer("{}") * 2,
    "comment": _answer('{"0":"a" // sex\n}'),
    "block_comment": b"/* hello */" + _answer("{}"),
    "trailing_comma": _answer('{"0":"a",}'),
    "single_quotes": _answer("{'0':'a'}"),
    "bom": codecs.BOM_UTF8 + _answer("{}"),
    "utf16": _answer('{"0":"a"}').decode().encode("utf-16"),
    "utf32": _answer('{"0":"a"}').decode().encode("utf-32"),
    "gbk": '{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":"会员等级"}}'.encode("gbk"),
    "latin1": '{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":"é"}}'.encode("latin-1"),
    "raw_surrogate": _answer('{"0":"\ud800"}'),
    "overlong_utf8": _answer('{"0":"a"}').replace(b'"a"', b'"\xc0\xaf"'),
    "raw_control": _answer('{"0":"a\x01"}'),
    "gzip_without_saying_so": gzip.compress(_answer("{}")),
    "nested_lists": b"[" * 100_000,
    "nested_objects": b'{"a":' * 100_000,
    "nested_names": _answer("[" * 50_000 + "]" * 50_000),
    "nested_unknown": _answer("{}", ',"x":' + "[" * 50_000 + "]" * 50_000),
    "nan": _answer("{}", ',"x":NaN'),
    "infinity": _answer("{}", ',"x":-Infinity'),
    "code_missing": b'{"ActionStatus":"OK","AttrNames":{}}',
    "code_null": _head("null"),
    "code_text": _head('"0"'),
    "code_bool": _head("false"),
    "code_float": _head("0.0"),
    "code_exponent": _head("0e0"),
    "code_list": _head("[0]"),
    "code_huge": _head("1" * 5000),
    "code_int64": _head("4294967296"),
    "code_nan": _head("NaN"),
    "status_missing": b'{"ErrorCode":0,"AttrNames":{}}',
    "status_fail": _head("0", '"FAIL"'),
    "status_lower": _head("0", '"ok"'),
    "status_null": _head("0", "null"),
    "status_bool": _head("0", "true"),
    "code_twice": b'{"ActionStatus":"OK","ErrorCode":0,"ErrorCode":0,"AttrNames":{}}',
    "names_twice": _answer('{"0":"a"}', ',"AttrNames":{}'),
    "slot_twice": _answer('{"0":"a","0":"a"}'),
    "slot_twice_escaped": _answer('{"0":"a","\\u0030":"b"}'),
    "names_list": _answer('["a"]'),
    "names_text": _answer('"a"'),
    "names_number": _answer("7"),
    "names_false": _answer("false"),
    "names_zero": _answer("0"),
    "names_empty_text": _answer('""'),
    "slot_00": _answer('{"00":"a"}'),
    "slot_01": _answer('{"01":"a"}'),
    "slot_negative": _answer('{"-1":"a"}'),
    "slot_negative_zero": _answer('{"-0":"a"}'),
    "slot_plus": _answer('{"+1":"a"}'),
    "slot_exponent": _answer('{"1e3":"a"}'),
    "slot_fraction": _answer('{"1.0":"a"}'),
    "slot_hex": _answer('{"0x1":"a"}'),
    "slot_underscore": _answer('{"1_0":"a"}'),
    "slot_blank_before": _answer('{" 1":"a"}'),
    "slot_newline_after": _answer('{"1\\n":"a"}'),
    "slot_fullwidth": _answer('{"\uff11":"a"}'),
    "slot_arabic": _answer('{"\u0661":"a"}'),
    "slot_superscript": _answer('{"\u00b2":"a"}'),
    "slot_empty": _answer('{"":"a"}'),
    "slot_word": _answer('{"sex":"0"}'),
    "slot_1000": _answer('{"1000":"a"}'),
    "slot_huge": _answer('{"' + "9" * 100_000 + '":"a"}'),
    "slot_nul": _answer('{"1\\u0000":"a"}'),
    "slot_surrogate": _answer('{"\\ud800":"a"}'),
    "name_number": _answer('{"0":1}'),
    "name_null": _answer('{"0":null}'),
    "name_bool": _answer('{"0":true}'),
    "name_list": _answer('{"0":["a"]}'),
    "name_object": _answer('{"0":{"a":"b"}}'),
    "name_huge_int": _answer('{"0":' + "1" * 5000 + "}"),
    "name_nan": _answer('{"0":NaN}'),
    "name_nul": _answer('{"0":"a\\u0000b"}'),
    "name_surrogate": _answer('{"0":"\\udc00"}'),
    "name_surrogates_swapped": _answer('{"0":"\\udc00\\ud800"}'),
    "name_1025_bytes": _answer('{"0":"' + "a" * 1025 + '"}'),
    "name_1026_bytes_of_three": _answer('{"0":"' + "会" * 342 + '"}'),
    "name_megabyte": _answer('{"0":"' + "a" * 1_000_000 + '"}'),
    "types_null": _answer('{"0":"a"}', ',"AttrTypes":null'),
    "types_list": _answer('{"0":"a"}', ',"AttrTypes":[]'),
    "types_number": _answer('{"0":"a"}', ',"AttrTypes":0'),
    "types_other_slot": _answer('{"0":"a"}', ',"AttrTypes":{"1":0}'),
    "types_of_no_names": _answer("[]", ',"AttrTypes":{"0":0}'),
    "type_text": _answer('{"0":"a"}', ',"AttrTypes":{"0":"0"}'),
    "type_bool": _answer('{"0":"a"}', ',"AttrTypes":{"0":true}'),
    "type_float": _answer('{"0":"a"}', ',"AttrTypes":{"0":1.0}'),
    "type_null": _answer('{"0":"a"}', ',"AttrTypes":{"0":null}'),
    "type_32768": _answer('{"0":"a"}', ',"AttrTypes":{"0":32768}'),
    "type_huge": _answer('{"0":"a"}', ',"AttrTypes":{"0":' + "9" * 5000 + "}"),
    "type_twice": _answer('{"0":"a"}', ',"AttrTypes":{"0":0,"0":0}'),
    "types_twice": _answer('{"0":"a"}', ',"AttrTypes":{},"AttrTypes":{}'),
}


def _deflated(secret: str) -> bytes:
    return zlib.compress(secret.encode())


# Name of the trick -> how an echo may spell a secret.
SPELLINGS: Final[dict[str, Callable[[str], str]]] = {
    **{name: spell for name, spell in spellings.SPELLINGS.items() if name != "as_it_is"},
    "hex_escapes": lambda s: "".join(f"\\x{byte:02x}" for byte in s.encode()),
    "base64_within_a_text": lambda s: base64.b64encode(f"?usersig={s}&".encode()).decode(),
    "base64_twice": lambda s: base64.b64encode(base64.b64encode(s.encode())).decode(),
    "deflated_base64_url": lambda s: base64.urlsafe_b64encode(_deflated(s)).decode(),
    "deflated_bytes": lambda s: _deflated(s).decode("latin-1"),
    "cut_by_commas": lambda s: ",".join(s),
    "cut_by_line_ends": lambda s: "\n".join(s[at : at + 20] for at in range(0, len(s), 20)),
    "without_its_ends": lambda s: s[20:-20],
    "percent_then_reversed": lambda s: urllib.parse.quote(s, safe="")[::-1],
    "reversed_then_base64": lambda s: base64.b64encode(s[::-1].encode()).decode(),
    "rot13": lambda s: codecs.encode(s, "rot13"),
}


def slots(number: int) -> bytes:
    """More slots than anybody has; made on demand for its size."""
    return _answer("{" + ",".join(f'"{slot}":"a"' for slot in range(number)) + "}")


_SLOTS = ["0", "1", "9", "10", "999", "00", "-1", "1e3", " 1", "\uff11", "", "x", "1000", "\x00"]
_TEXTS = [
    "sex", "", " city ", "会员等级", "Membership level", "<script>alert(1)</script>",
    "'; drop table", "\x1b[2J\x1b[31m", "\u202egnp.exe", "e\u0301", "\ud83d", "\x00", "🙂" * 256,
    "a" * 1025, "{{ 1 }}",
    "%2A", "usersig=eJwx", "\\u0000", "=1+1", "\u2028",
    "&#" + "1" * 5000 + ";", "&#x" + "f" * 5000 + ";", "9" * 5000, "%25" * 2000, "\\" * 5000,
]  # fmt: skip
_SCALARS: list[object] = [None, True, False, 0, -1, 1, 70001, 2**31, 2**63, 0.5, 1e308, "0", "OK"]


def bodies(seed: int) -> Iterator[bytes]:
    """Without end: made-up answers, known tricks, and both of them broken at random."""
    chance = random.Random(seed)
    tricks = [body for body in PIECES.values() if len(body) < 20_000]
    made: list[Callable[[], bytes]] = [
        lambda: _composed(chance),
        lambda: _broken(chance, _composed(chance)),
        lambda: chance.choice(tricks),
        lambda: _broken(chance, chance.choice(tricks)),
        lambda: chance.randbytes(chance.randrange(200)),
    ]
    while True:
        yield chance.choices(made, weights=[6, 6, 1, 2, 1])[0]()


def _composed(chance: random.Random) -> bytes:
    document: dict[str, object] = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}
    document["AttrNames"] = {
        chance.choice(_SLOTS) if chance.random() < 0.1 else str(chance.randrange(10)): (
            _value(chance, 2) if chance.random() < 0.1 else chance.choice(_TEXTS[:12])
        )
        for _ in range(chance.randrange(6))
    }
    if chance.random() < 0.3:
        names = list(document["AttrNames"]) if isinstance(document["AttrNames"], dict) else []
        document["AttrTypes"] = {
            name: chance.randrange(2) if chance.random() < 0.9 else _value(chance, 1)
            for name in names
        }
    while chance.random() < 0.4:
        field = chance.choice([*document, "RequestId", "ErrorDisplay"])
        document[field] = _value(chance, 3)
    if chance.random() < 0.1:
        document.pop(chance.choice(list(document)))
    if chance.random() < 0.2:
        document["ErrorCode"] = chance.randrange(59_990, 92_000)
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _value(chance: random.Random, depth: int) -> object:
    kind = chance.randrange(5 if depth else 3)
    if kind == 0:
        return chance.choice(_SCALARS)
    if kind in (1, 2):
        return chance.choice(_TEXTS)
    if kind == 3:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(3))]
    return {
        chance.choice(_SLOTS + _TEXTS): _value(chance, depth - 1)
        for _ in range(chance.randrange(3))
    }


def _broken(chance: random.Random, body: bytes) -> bytes:
    broken = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(broken) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            del broken[at : at + chance.randrange(1, 20)]
        elif kind == 1:
            broken[at:at] = chance.choice([b"\x00", b"//", b'"', b"{", b"\xff", b",", b"1", b"\\u"])
        elif kind == 2 and broken:
            broken[at % len(broken)] = chance.randrange(256)
        else:
            broken[at:at] = broken[: chance.randrange(40)]
    return bytes(broken)
