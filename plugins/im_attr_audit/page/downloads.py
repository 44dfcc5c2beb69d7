"""All changes that match a filter, as one file that is streamed.

A download must not take the page, nor Airflow's API beside it, from the others: few run at once,
each over a database connection of its own and in threads of its own, and a client that does not
read is cut off.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
from fastapi import HTTPException, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from im_attr_audit.page import queries
from im_attr_audit.page.filters import ChangeDownload
from im_attr_audit.page.reader import Reader

log = logging.getLogger(__name__)

DOWNLOADS_AT_ONCE = 4
#: How long a client may take to read one piece, and the whole file, in seconds.
SECONDS_FOR_A_PIECE, SECONDS_FOR_ALL = 30.0, 900.0
_CAUTION = "For reading, not for verification: `im-attr-audit verify` takes its own export."
_COLUMNS = (
    "seen_at", "not_before", "app_group", "region", "sdk_app_id", "seq", "slot", "kind",
    "old_name", "new_name", "old_type", "new_type", "dag_run_id", "row_hash",
)  # fmt: skip


class Downloads:
    """Starts downloads, a few at a time."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._free = threading.BoundedSemaphore(DOWNLOADS_AT_ONCE)

    def start(self, asked: ChangeDownload) -> Response:
        """The file; what goes wrong at once is an answer, later it can only end the stream."""
        filters = asked.parameters()
        if not self._free.acquire(blocking=False):
            raise HTTPException(
                429,
                f"{DOWNLOADS_AT_ONCE} downloads are running, which is all that run at once. "
                "Try again in a minute.",
                headers={"Retry-After": "60"},
            )
        pieces = self._pieces(filters, as_csv=asked.format == "csv")
        first = next(pieces)  # the slot is free again if this raises: the generator ends
        return _Download(
            first,
            pieces,
            media_type="text/csv; charset=utf-8" if asked.format == "csv" else "application/json",
            headers={
                "Content-Disposition": "attachment; "
                f'filename="attribute-name-changes-for-reading.{asked.format}"',
                # Not in the file: it is valid CSV from its first byte.
                "X-Im-Attr-Audit-Note": _CAUTION,
            },
        )

    def _pieces(self, filters: Mapping[str, Any], *, as_csv: bool) -> Iterator[str]:
        try:
            with self._reader.own_transaction(seconds=300) as connection:
                rows = queries.stream_changes(connection, filters)
                yield from _as_csv(rows, _COLUMNS) if as_csv else _as_json(rows)
        finally:
            self._free.release()


class _Download(Response):
    """A stream whose pieces are made in a thread of its own and have to be read in time."""

    def __init__(self, first: str, rest: Iterator[str], **given: Any) -> None:
        super().__init__(**given)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        # Not one of anyio's shared threads, which serve every other request of the API server.
        self._thread = anyio.CapacityLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.fail_after(SECONDS_FOR_ALL):
                await self._send_all(Request(scope, receive), send)
        except (TimeoutError, OSError):
            # Without the last message the server cuts the connection: the file is seen to be torn.
            log.warning("A download was cut off: its client did not read it in time.")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._close, limiter=self._thread)

    async def _send_all(self, request: Request, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        piece: str | None = self._first
        while piece is not None:
            if await request.is_disconnected():
                return
            with anyio.fail_after(SECONDS_FOR_A_PIECE):
                await send(
                    {"type": "http.response.body", "body": piece.encode(), "more_body": True}
                )
            piece = await anyio.to_thread.run_sync(next, self._rest, None, limiter=self._thread)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _close(self) -> None:
        close = getattr(self._rest, "close", None)
        if close is not None:
            close()


def csv_file(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], name: str) -> Response:
    """A file of rows that are few enough to be held: those of one answer of the API."""
    return Response(
        "".join(_as_csv(rows, columns)),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}-for-reading.csv"',
            "X-Im-Attr-Audit-Note": _CAUTION,
        },
    )


def _as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    # The byte order mark is what makes spreadsheets read UTF-8.
    buffer.write("\ufeff")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_spreadsheet_safe(_plain(row[column])) for column in columns])
        if buffer.tell() > 60_000:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _as_json(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield f'{{"note": {json.dumps(_CAUTION)}, "changes": ['
    separator, parts = "\n", []
    for row in rows:
        parts.append(separator + json.dumps({c: _plain(row[c]) for c in _COLUMNS}))
        separator = ",\n"
        if len(parts) >= 200:
            yield "".join(parts)
            parts = []
    yield "".join(parts) + "\n]}\n"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _spreadsheet_safe(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "'"):
        return f"'{value}"
    # Some skip leading blanks, and some know full-width forms of the signs.
    if isinstance(value, str) and value.lstrip()[:1] in (*"=+-@", *"＝＋－＠"):  # noqa: RUF001
        return f"'{value}"
    return value
