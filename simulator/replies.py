"""Answers before they are sent: the true one, a refusal, and what a fault makes of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from simulator.faults import Fault
from simulator.signature import Refusal
from simulator.spellings import SPELLINGS
from simulator.world import TIMPUSH, Judged

_BAD_GATEWAY_PAGE = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad "
    b"Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent, and what the log is to say of it."""

    status: int
    body: bytes = field(repr=False)
    result: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    chunked: bool = False
    names: Mapping[str, str] | None = None
    types: Mapping[str, int] | None = None
    truth_us: int | None = None
    code: int | None = None
    info: str | None = None


def _json(content: object) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be sent escaped
        return json.dumps(content, separators=(",", ":")).encode()


def refused(refusal: Refusal) -> Reply:
    body = {"ActionStatus": "FAIL", "ErrorCode": refusal.code, "ErrorInfo": refusal.info}
    return Reply(200, _json(body), "code", code=refusal.code, info=refusal.info)


def good(
    api: str | None,
    names: Mapping[str, str],
    types: Mapping[str, int],
    *,
    empty_as: str = "object",
    truth_us: int | None = None,
) -> Reply:
    answer: dict[str, object] = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}
    shown: object = names
    if not names:
        shown = {"null": None, "array": []}.get(empty_as, {})
    if names or empty_as != "absent":
        answer["AttrNames"] = shown
    shown_types = types if api == TIMPUSH else {}
    if shown_types:
        answer["AttrTypes"] = shown_types
    return Reply(200, _json(answer), "names", names=names, types=shown_types, truth_us=truth_us)


def faulty(fault: Fault, target: str, judged: Judged, true_reply: Callable[[], Reply]) -> Reply:
    """What this fault makes of the answer to a request for ``target``."""
    kind = fault.kind
    quoted = SPELLINGS[fault.spelling](judged.usersig)
    if kind == "answer_names" and not judged.refusal:
        return good(judged.api, fault.names, fault.types)
    if kind == "bad_gateway":
        headers = {"Content-Type": "text/html"}
        return Reply(fault.status, _BAD_GATEWAY_PAGE, "other", headers)
    if kind == "code":
        info = fault.info
        if isinstance(info, str):
            info = info.replace("%URL%", target).replace("%USERSIG%", quoted)
        body = {"ActionStatus": "FAIL", "ErrorCode": fault.code, "ErrorInfo": info}
        # The log gets the text as it was planned, not what the request put into it.
        logged = fault.info if isinstance(fault.info, str) else json.dumps(fault.info)
        return Reply(fault.status, _json(body), "code", code=fault.code, info=logged)
    if kind == "raw":
        raw = fault.body.replace(b"%URL%", target.encode("latin-1", "replace"))
        raw = raw.replace(b"%USERSIG%", quoted.encode("utf-8", "replace"))
        return Reply(fault.status, raw, "other", fault.headers, fault.chunked)
    if kind == "redirect":
        return Reply(fault.status, b"", "other", {"Location": fault.location})
    true = true_reply()
    if kind == "oversize":
        # Still a valid answer, only far too large.
        padding = b',"Padding":"' + b"x" * (fault.size - len(true.body) - 13) + b'"}'
        return Reply(200, true.body[:-1] + padding, "other", chunked=fault.chunked)
    if kind == "gzip_bomb":
        return Reply(200, _bomb(fault.size), "other", {"Content-Encoding": "gzip"})
    return true


def _bomb(size: int) -> bytes:
    """Gzip data that unpacks to ``size`` bytes of white space, made without holding them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * 65536
    packed = [packer.compress(block) for _ in range(size // len(block))]
    return b"".join([*packed, packer.compress(block[: size % len(block)]), packer.flush()])
