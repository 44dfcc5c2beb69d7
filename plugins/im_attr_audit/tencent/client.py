"""Asks the vendor for one app's attribute names.

One read is one POST, plus at most one with a new signature (where the vendor says that the first
has expired) and one over a new connection (where a kept-alive one turned out to be dropped, or its
TLS broken, before any byte of the answer). Everything else that goes wrong is raised, classified,
for Airflow to retry. :mod:`transport` speaks HTTP, :mod:`answer` judges what came.

What the vendor or a gateway sends passes :mod:`redact`. Errors are raised outside of any
``except`` block and without the frames in which they were made: those hold the key and a signature.
"""

from __future__ import annotations

import secrets as randomness
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode

from im_attr_audit.errors import Misconfigured, PollFailed
from im_attr_audit.frames import without_frames
from im_attr_audit.tencent.answer import Answer, Reply, judge
from im_attr_audit.tencent.codes import Action, lookup
from im_attr_audit.tencent.target import Target
from im_attr_audit.tencent.transport import Limits, Pool
from im_attr_audit.tencent.urls import check_base_url
from im_attr_audit.tencent.usersig import user_sig

__all__ = ["Pool", "TencentImClient"]


class _Signatures:
    """One signature per app and life, not one per call; renewed with a tenth of its life left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signed: dict[tuple[int, str, str, int], tuple[str, int]] = {}

    def get(self, target: Target, now: int) -> tuple[str, bool]:
        """The signature, and whether it was made for an earlier call."""
        key = _signed_for(target)
        with self._lock:
            sig, signed_at = self._signed.get(key, ("", 0))
            # A clock that was put back would leave a signature from the future.
            if sig and 0 <= now - signed_at < target.usersig_ttl * 0.9:
                return sig, True
            sig = user_sig(
                target.sdk_app_id,
                target.secret_key,
                target.identifier,
                now=now,
                ttl=target.usersig_ttl,
            )
            self._signed[key] = (sig, now)
            return sig, False

    def forget(self, target: Target) -> None:
        with self._lock:
            self._signed.pop(_signed_for(target), None)


def _signed_for(target: Target) -> tuple[int, str, str, int]:
    return (target.sdk_app_id, target.secret_key, target.identifier, target.usersig_ttl)


_signatures = _Signatures()


class TencentImClient:
    """One app at the vendor. Many clients may share one Pool, and many threads one client.

    ``on_signature`` is called with each signature before its first use (the hook masks it in logs).
    """

    def __init__(
        self,
        target: Target,
        pool: Pool | None = None,
        *,
        now: Callable[[], float] = time.time,
        on_signature: Callable[[str], object] | None = None,
    ) -> None:
        why_not = None
        try:
            check_base_url(target.base_url)
        except ValueError as error:
            why_not = str(error)
        if why_not is not None:
            raise Misconfigured(f"connection {target.conn_id!r} cannot be used: host {why_not}")
        self.target = target
        self._pool = pool if pool is not None else Pool(max_connections=1)
        self._now = now
        self._on_signature = on_signature
        self._announced = ""

    def __repr__(self) -> str:
        target = self.target
        return f"<TencentImClient of app {target.sdk_app_id} in {target.region}>"

    @without_frames
    def get_attr_names(self) -> Answer:
        """The app's attribute names as they are now; the errors are :mod:`errors`'."""
        outcome = self._read()
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    def _read(self) -> Answer | PollFailed | Misconfigured:
        limits = Limits(time.monotonic() + self.target.timeout)
        sig, kept = self._sign()
        outcome = self._ask(sig, (sig,), limits)
        if _is_signature_spent(outcome):
            _signatures.forget(self.target)
            if kept or _is_always_re_signed(outcome):
                again, _ = self._sign()
                outcome = self._ask(again, (sig, again), limits)
                if _is_signature_spent(outcome):
                    _signatures.forget(self.target)
        return outcome

    def _sign(self) -> tuple[str, bool]:
        sig, kept = _signatures.get(self.target, int(self._now()))
        if self._on_signature is not None and sig != self._announced:
            self._on_signature(sig)
            self._announced = sig
        return sig, kept

    def _ask(
        self, sig: str, sigs: tuple[str, ...], limits: Limits
    ) -> Answer | PollFailed | Misconfigured:
        """One request and its answer; errors are given back, to be raised outside any handler."""
        query = {
            "usersig": sig,
            "identifier": self.target.identifier,
            "sdkappid": self.target.sdk_app_id,
            "random": randomness.randbits(32),
            "contenttype": "json",
        }
        reply = self._pool.post(self.target, f"?{urlencode(query)}", limits)
        if not isinstance(reply, Reply):
            return reply
        try:
            return judge(reply, secrets=(self.target.secret_key, *sigs))
        except PollFailed as failure:
            return failure


def _code_before_500(outcome: object) -> int | None:
    """The vendor's own code; one in the page of a gateway's error does not count."""
    if not isinstance(outcome, PollFailed) or (outcome.http_status or 0) >= 500:
        return None
    return outcome.error_code


def _is_signature_spent(outcome: object) -> bool:
    """Whether the vendor's code means that the signature is of no further use."""
    code = _code_before_500(outcome)
    return code is not None and (lookup(code).re_sign_if_cached or _is_always_re_signed(outcome))


def _is_always_re_signed(outcome: object) -> bool:
    code = _code_before_500(outcome)
    return code is not None and lookup(code).action is Action.RE_SIGN
