"""Two checks that many may ask for at once: the word of ``healthz``, and the chains."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Literal, get_args

from fastapi import HTTPException
from sqlalchemy import Connection

from im_attr_audit.page import queries
from im_attr_audit.page.models import health as models
from im_attr_audit.page.reader import CannotRead, Reader
from im_attr_audit.page.threads import Threads
from im_attr_audit.settings import BadSetting, stale_after

log = logging.getLogger(__name__)

#: What ``healthz`` answers. Each word has a section in docs/runbooks.md.
Word = Literal["ok", "stale", "empty", "unmigrated", "misconfigured", "down"]
WORDS: tuple[Word, ...] = get_args(Word)

#: How long a result of the chains' check serves, in seconds; the second where a new one is wanted.
_VERIFIED_FOR, _VERIFIED_FOR_AT_LEAST = 600.0, 5.0
#: How long a request waits for the check that another one started, in seconds.
_WAIT_FOR_ANOTHER = 10.0


class Verifier:
    """Recomputes the chains, one at a time however many ask, and keeps the result for a while.

    Never for another database: the connection may name a new one at any time.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread = Threads(
            1,
            _WAIT_FOR_ANOTHER,
            "The chains are being checked for another request. Try again in a minute.",
            retry_after=60,
        )
        self._last: models.Verification | None = None
        self._of: queries.Row | None = None
        self._done_at = 0.0

    async def verify(self, *, again: bool) -> models.Verification:
        """The newest result; HTTPException 429 while another request's check takes long."""
        asked_at = time.monotonic()
        result: models.Verification = await self._thread.run(lambda: self._verify(asked_at, again))
        return result

    def _verify(self, asked_at: float, again: bool) -> models.Verification:
        kept_for = _VERIFIED_FOR_AT_LEAST if again else _VERIFIED_FOR
        fresh = self._done_at > asked_at or time.monotonic() - self._done_at < kept_for
        with self._reader.transaction(seconds=300) as connection:
            database = queries.read_one(connection, "database")
            if self._last is None or not fresh or database != self._of:
                self._last = self._ask(connection)
                self._of = database
                self._done_at = time.monotonic()
        return self._last

    @staticmethod
    def _ask(connection: Connection) -> models.Verification:
        begun = time.monotonic()
        at = queries.read_now(connection)
        row = queries.read_one(connection, "verify")
        if row is None:
            raise HTTPException(500, "The check of the chains returned nothing.")
        return models.Verification(
            at=at,
            took_seconds=round(time.monotonic() - begun, 3),
            chains=row["chains"],
            rows_checked=row["rows_checked"],
            ok=row["ok"],
            broken=[
                models.BrokenChain(region=region, sdk_app_id=number, first_bad_seq=seq)
                for region, number, seq in row["broken"] or ()
            ],
        )


class HealthCheck:
    """One word for a monitoring system, looked up at most every ten seconds."""

    def __init__(
        self,
        reader: Reader,
        *,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = Threads(1, math.inf, "")
        self._word: Word | None = None
        self._asked_at = 0.0

    async def word_in_own_thread(self) -> Word:
        """The word; however many ask, they take one thread while it is looked up."""
        word: Word = await self._thread.run(self.word)
        return word

    def word(self) -> Word:
        """The word; the last one serves for ten seconds."""
        with self._lock:
            if self._word is None or self._clock() - self._asked_at >= self._seconds:
                self._word = self._ask()
                self._asked_at = self._clock()
            return self._word

    def _ask(self) -> Word:
        try:
            limit = stale_after()
            with self._reader.transaction(seconds=5) as connection:
                row = queries.read_one(connection, "state", stale_after=limit)
        except BadSetting as error:
            log.error("healthz cannot be computed: %s", error)
            return "misconfigured"
        except CannotRead as problem:
            return "unmigrated" if problem.code in ("not_migrated", "no_privilege") else "down"
        except Exception as error:
            # Such as a connection that cannot be used: the monitor gets its word all the same.
            log.error("healthz cannot be computed: %s", type(error).__name__)
            return "down"
        if row is None or row["stale"] or row["misconfigured"]:
            return "stale"
        return "ok" if row["apps"] else "empty"
