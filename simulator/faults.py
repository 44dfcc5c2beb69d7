"""The ways the simulator can misbehave, and which request meets which of them."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

KINDS = frozenset(
    {
        "ok",  # nothing wrong (useful in a schedule)
        "delay",  # the true answer, `seconds` later; true at `at`: "arrival" or "departure"
        "hold",  # the same, but when release() is called
        "bad_gateway",  # `status` (502) with an HTML page
        "drop",  # the connection ends before a byte of the answer; `reset`: by a TCP reset
        "half",  # the answer breaks off in its `where` ("body" or "headers")
        "drip",  # a byte every `interval` seconds, from `where` ("body" or "headers") on
        "hang",  # no answer until the faults are cleared; then the connection ends
        "close_after",  # a good answer, then the kept-alive connection ends without a word
        "code",  # the vendor's `code` with `info`
        "raw",  # `status`, `headers`, `body` as given; `chunked`: without a Content-Length
        "redirect",  # `status` (302) to `location`
        "oversize",  # a valid answer of `size` bytes
        "gzip_bomb",  # a small answer that unpacks to `size` bytes
        "answer_names",  # `names` (and `types`) that are not the true ones, where none is refused
    }
)
_DEFAULT_STATUS = {"bad_gateway": 502, "redirect": 302}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave. ``seconds`` delays any kind. Unused fields are ignored.

    ``%URL%`` and ``%USERSIG%`` in ``info`` or ``body`` become what the request carried: a vendor
    that quotes a secret back at us. ``spelling`` is how it writes the secret (see ``spellings``).
    """

    kind: str
    seconds: float = 0.0
    at: str = "arrival"
    where: str = "body"
    interval: float = 0.05
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunked: bool = False
    code: int = 91000
    info: Any = ""
    location: str = "https://localhost/elsewhere"
    size: int = 4 * 1024 * 1024
    reset: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    spelling: str = "as_it_is"

    @classmethod
    def from_json(cls, given: str | Mapping[str, Any]) -> Fault:
        """A kind by itself, or an object with ``kind`` and its fields; ValueError if it is neither.

        ``body`` may be text, or bytes as ``body_b64``.
        """
        fields: dict[str, Any] = {"kind": given} if isinstance(given, str) else dict(given)
        kind = fields.get("kind")
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind!r}; there are {', '.join(sorted(KINDS))}")
        if "body_b64" in fields:
            fields["body"] = base64.b64decode(fields.pop("body_b64"))
        elif isinstance(fields.get("body"), str):
            fields["body"] = fields["body"].encode()
        if kind in _DEFAULT_STATUS:
            fields.setdefault("status", _DEFAULT_STATUS[kind])
        try:
            fault = cls(**fields)
        except TypeError as error:
            raise ValueError(str(error).replace("Fault.__init__()", "fault")) from None
        if fault.at not in ("arrival", "departure") or fault.where not in ("body", "headers"):
            raise ValueError('`at` is "arrival" or "departure", `where` is "body" or "headers"')
        return fault


@dataclass(slots=True)
class _Rule:
    number: int
    region: str | None
    app_id: int | None
    api: str | None
    ahead: deque[Fault]
    forever: Fault | None

    def meets(self, region: str, app_id: int | None, api: str | None) -> bool:
        return (
            self.region in (None, region)
            and self.app_id in (None, app_id)
            and self.api in (None, api)
        )


class FaultPlan:
    """What is to go wrong. Counted faults go before lasting ones, and older before newer."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._numbers = count(1)

    def add(
        self,
        faults: Iterable[Fault],
        *,
        region: str | None = None,
        app_id: int | None = None,
        api: str | None = None,
        times: int | None = 1,
    ) -> int:
        """Plan ``faults`` one after another, ``times`` over (None: one fault until cleared)."""
        each = list(faults)
        if not each or (times is not None and times < 1) or (times is None and len(each) > 1):
            raise ValueError("give faults and how often (a lasting one stands alone)")
        rule = _Rule(
            number=next(self._numbers),
            region=region,
            app_id=app_id,
            api=api,
            ahead=deque() if times is None else deque(each * times),
            forever=each[0] if times is None else None,
        )
        self._rules.append(rule)
        self._rules.sort(key=lambda r: (r.forever is not None, r.number))
        return rule.number

    def take(self, region: str, app_id: int | None, api: str | None) -> Fault | None:
        """The fault this request meets; counted ones are used up by it."""
        for rule in self._rules:
            if rule.meets(region, app_id, api):
                if rule.forever is not None:
                    return rule.forever
                fault = rule.ahead.popleft()
                if not rule.ahead:
                    self._rules.remove(rule)
                return fault
        return None

    def clear(self, *, region: str | None = None, app_id: int | None = None) -> None:
        """Forget the rules set for this region and app; without either, all of them."""
        self._rules = [
            rule
            for rule in self._rules
            if region not in (None, rule.region) or app_id not in (None, rule.app_id)
        ]

    def planned(self) -> list[dict[str, Any]]:
        """What is still ahead."""
        return [
            {
                "rule": rule.number,
                "region": rule.region,
                "app_id": rule.app_id,
                "api": rule.api,
                "ahead": [fault.kind for fault in rule.ahead],
                "lasting": rule.forever.kind if rule.forever else None,
            }
            for rule in self._rules
        ]
