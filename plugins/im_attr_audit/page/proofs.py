"""Proofs for the page: of one sealed row each, and few enough that nobody else has to wait."""

from __future__ import annotations

from fastapi import HTTPException

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.page.filters import ProofOf
from im_attr_audit.page.reader import Reader
from im_attr_audit.page.threads import Threads
from im_attr_audit.record.seals.prove import Bounds, NotProvable, prove_change_on, prove_poll_on

#: Every row of the seal is read. A larger seal is for the command, which has the time for it.
BOUNDS = Bounds(seconds=30, rows=200_000)
#: How long a request waits for the proof that another one asked for, in seconds.
_WAIT_FOR_ANOTHER = 10.0


class Proofs:
    """Makes proofs, one at a time, over a connection of its own."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread = Threads(
            1,
            _WAIT_FOR_ANOTHER,
            "A proof is being made for another request. Try again in a minute.",
            retry_after=60,
        )

    async def prove(self, asked: ProofOf) -> str:
        """The file. HTTPException: 404 where there is no proof, 409 where the record is not as it
        was sealed, 429 while another proof takes long."""
        proof: str = await self._thread.run(lambda: self._prove(asked))
        return proof

    def _prove(self, asked: ProofOf) -> str:
        try:
            with self._reader.own_transaction(seconds=BOUNDS.seconds) as connection:
                if asked.at is not None:
                    return prove_poll_on(connection, asked.app, asked.at, bounds=BOUNDS).to_json()
                assert asked.seq is not None  # noqa: S101 - the route has seen to it
                return prove_change_on(connection, asked.app, asked.seq, bounds=BOUNDS).to_json()
        except NotProvable as reason:
            raise HTTPException(404, str(reason)) from None
        except AttrAuditError as reason:
            # The copy of the log, or a row, is not what was signed.
            raise HTTPException(409, str(reason)) from None
