"""The JSON API: GET only, typed, in Airflow's thread pool (plain functions, a blocking driver)."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import AwareDatetime, BaseModel
from pydantic_core import to_json

from im_attr_audit.page import models, queries
from im_attr_audit.page.queries import App, ChangeFilter, Row, Rows
from im_attr_audit.page.reader import CannotRead, Reader
from im_attr_audit.tencent import codes
from im_attr_audit.tencent.regions import REGION_HOSTS

log = logging.getLogger(__name__)

#: Apps in one timeline, and changes on one page.
APPS_IN_A_TIMELINE = 12
CHANGES_ON_A_PAGE = 100

_STRIP = timedelta(hours=24)
_STRIP_BUCKET = timedelta(minutes=30)
_VERIFIED_FOR = 600.0
_READING = "For reading, not for verification: `im-attr-audit verify` takes its own export."

Text = Annotated[str | None, Query(max_length=1024, pattern=r"^[^\x00]*$")]
RunId = Annotated[str | None, Query(max_length=1024, pattern=r"^[^\x00]*$")]
AppKey = Annotated[str | None, Query(pattern=r"^[^\x00]{1,200}/[0-9]{1,18}$")]
SlotNumber = Annotated[int | None, Query(ge=0, le=999)]
Time = Annotated[AwareDatetime | None, Query()]


def stale_after() -> timedelta:
    """After how long without a good poll an app is stale: IM_ATTR_AUDIT_STALE_AFTER seconds."""
    try:
        seconds = float(os.environ.get("IM_ATTR_AUDIT_STALE_AFTER", "3600"))
    except ValueError:
        seconds = 3600.0
    return timedelta(seconds=min(max(seconds, 60.0), 31 * 86400.0))


def region_order(app: Mapping[str, Any]) -> tuple[str, int, str, int]:
    """Groups by name; in them the regions as the vendor lists them, then one's own by name."""
    known = list(REGION_HOSTS)
    region = app["region"]
    place = known.index(region) if region in known else len(known)
    return app["app_group"], place, region, app["sdk_app_id"]


def api(reader: Reader, targets_listed: Callable[[], bool | None]) -> APIRouter:
    """The routes below /api."""
    router = APIRouter()
    verifier = Verifier(reader)

    @router.get("/now", response_model=models.Now)
    def now() -> Response:
        limit = stale_after()
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            apps = sorted(queries.read_apps(connection, limit, retired=False), key=region_order)
            cells: dict[App, dict[int, dict[str, Any]]] = defaultdict(dict)
            # Plain values, as model Cell has them: a model for each would cost as much as the SQL.
            for region, number, slot, name, attr_type, not_before, seen_at in queries.read_plain(
                connection, queries.CURRENT
            ):
                cells[region, number][slot] = {
                    "name": name,
                    "attr_type": attr_type,
                    "not_before": not_before,
                    "seen_at": seen_at,
                }
            differ = {
                (row["app_group"], row["slot"]): row["distinct_names"]
                for row in queries.read(connection, queries.DISAGREEING)
            }
        groups = []
        for name, members in _by_group(apps).items():
            mine = [cells[app["region"], app["sdk_app_id"]] for app in members]
            slots = [
                {
                    "slot": slot,
                    "agrees": (name, slot) not in differ,
                    "distinct_names": differ.get((name, slot), 1),
                    "cells": [each.get(slot) for each in mine],
                }
                for slot in sorted(set().union(*mine))
            ]
            groups.append({"app_group": name, "apps": members, "slots": slots})
        return _json(
            {"at": at, "stale_after_seconds": int(limit.total_seconds()), "groups": groups}
        )

    @router.get("/setup", response_model=models.Setup)
    def setup() -> Response:
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            apps = queries.read_apps(connection, stale_after(), retired=True)
            unreadable = queries.read(connection, queries.UNREADABLE)
        return _json(
            models.Setup(
                at=at,
                targets_listed=targets_listed(),
                apps=_refs(sorted(apps, key=region_order)),
                unreadable=[models.Unreadable(**row) for row in unreadable],
            )
        )

    @router.get("/changes", response_model=models.Changes)
    def changes(
        region: Text = None,
        group: Text = None,
        app: AppKey = None,
        slot: SlotNumber = None,
        kind: models.Kind | None = None,
        name: Text = None,
        since: Time = None,
        until: Time = None,
        run: RunId = None,
        before: Annotated[str | None, Query(pattern=r"^-?[0-9]{1,17}\.[0-9]{1,18}$")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = CHANGES_ON_A_PAGE,
    ) -> Response:
        filters = _filters(region, group, app, slot, kind, name, since, until, run)
        statement, parameters = queries.select_changes(
            filters, before=_key(before) if before else None, limit=limit + 1
        )
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            rows = queries.read(connection, statement, **parameters)
        shown = [models.Change.model_construct(**row) for row in rows[:limit]]
        following = None
        if len(rows) > limit:
            last = shown[-1]
            following = f"{_epoch_us(last.seen_at)}.{last.change_id}"
        return _json(models.Changes.model_construct(at=at, changes=shown, before=following))

    @router.get("/changes/download", response_class=StreamingResponse)
    def download(
        region: Text = None,
        group: Text = None,
        app: AppKey = None,
        slot: SlotNumber = None,
        kind: models.Kind | None = None,
        name: Text = None,
        since: Time = None,
        until: Time = None,
        run: RunId = None,
        format: Literal["csv", "json"] = "csv",
    ) -> Response:
        """All that the filter lets through, for reading."""
        filters = _filters(region, group, app, slot, kind, name, since, until, run)
        parts = _download(reader, filters, as_csv=format == "csv")
        # What goes wrong at once is an answer; later it can only end the stream.
        first = next(parts)
        return StreamingResponse(
            _chain(first, parts),
            media_type="text/csv; charset=utf-8" if format == "csv" else "application/json",
            headers={
                "Content-Disposition": f'attachment; filename="attribute-name-changes.{format}"'
            },
        )

    @router.get("/change", response_model=models.ChangeDetail)
    def change(
        region: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")],
        sdk_app_id: Annotated[int, Query(ge=0, lt=2**63)],
        seq: Annotated[int, Query(ge=1, lt=2**63)],
    ) -> Response:
        with reader.transaction() as connection:
            row = queries.read_one(
                connection, queries.CHANGE, region=region, sdk_app_id=sdk_app_id, seq=seq
            )
        if row is None:
            raise HTTPException(404, "There is no such change.")
        return _json(models.ChangeDetail(**row))

    @router.get("/run", response_model=models.Run)
    def run(
        run: Annotated[str, Query(max_length=1024, pattern=r"^[^\x00]*$")],
    ) -> Response:
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            rows = queries.read(connection, queries.RUN_POLLS, dag_run_id=run)
        polls = [models.RunPoll(**row, advice=_advice(row["outcome"], row["error_code"]))
                 for row in rows]  # fmt: skip
        return _json(models.Run(dag_run_id=run, at=at, polls=polls))

    @router.get("/timeline", response_model=models.Timeline)
    def timeline(
        region: Text = None,
        group: Text = None,
        app: AppKey = None,
        slot: SlotNumber = None,
        since: Time = None,
        until: Time = None,
        after: AppKey = None,
    ) -> Response:
        limit = stale_after()
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            window_to = until or at
            apps = sorted(queries.read_apps(connection, limit, retired=True), key=region_order)
            chosen, more = _choose(apps, region, group, app, after)
            window_from = since or _begin_of_window(window_to, chosen)
            if window_from >= window_to:
                raise HTTPException(422, "The time must begin before it ends.")
            keys = [(each["region"], each["sdk_app_id"]) for each in chosen]
            given: dict[str, Any] = {
                **queries.arrays(keys), "window_from": window_from, "window_to": window_to,
            }  # fmt: skip
            changed = queries.read(connection, queries.LANE_CHANGES, **given, slot=slot)
            opened = queries.read(connection, queries.OPEN_SPANS, **given, slot=slot)
            failed = queries.read(connection, queries.FAILED_POLLS, **given)
            gaps = queries.read(connection, queries.GAPS, **given, longer_than=limit)
        drawn_from = failed_from = None
        if len(changed) > queries.MAX_LANE_CHANGES:
            changed = changed[:-1]
            drawn_from = changed[-1]["seen_at"]
        if len(failed) > queries.MAX_FAILED_POLLS:
            failed = failed[:-1]
            failed_from = failed[-1]["at"]
        spans = [models.LaneSpan.model_construct(**row) for row in opened]
        spans += [
            models.LaneSpan.model_construct(
                region=row["region"],
                sdk_app_id=row["sdk_app_id"],
                slot=row["slot"],
                name=row["old_name"],
                attr_type=row["old_type"],
                seen_from=row["old_seen_at"],
                seen_to=row["certain_to"] or row["old_seen_at"],
            )
            for row in changed
            if row["old_name"] is not None
        ]
        hidden = {"old_type", "old_seen_at", "certain_to"}
        marks = [
            models.LaneChange.model_construct(
                **{key: value for key, value in row.items() if key not in hidden}
            )
            for row in changed
            if window_from <= row["seen_at"] <= window_to
        ]
        return _json(
            models.Timeline.model_construct(
                at=at,
                window_from=window_from,
                window_to=window_to,
                stale_after_seconds=int(limit.total_seconds()),
                apps=_refs(chosen),
                more=more,
                spans=spans,
                changes=marks,
                drawn_from=drawn_from,
                failed=[models.FailedPoll.model_construct(**row) for row in failed],
                failed_from=failed_from,
                gaps=[models.Gap.model_construct(**row) for row in gaps],
            )
        )

    @router.get("/as-of", response_model=models.AsOf)
    def as_of(at: Time = None, compare: Time = None) -> Response:
        with reader.transaction() as connection:
            database_now = queries.read_now(connection)
            apps = queries.read_apps(connection, stale_after(), retired=True)
            first = at or _last_certain(apps) or database_now
            rows = [queries.read_plain(connection, queries.NAMES_AS_OF, at=first)]
            if compare is not None:
                rows.append(queries.read_plain(connection, queries.NAMES_AS_OF, at=compare))
        times = [first] if compare is None else [first, compare]
        groups = _groups_then(apps, times, rows)
        return _json({"now": database_now, "at": first, "compared_with": compare, "groups": groups})

    @router.get("/health", response_model=models.Health)
    def health() -> Response:
        limit = stale_after()
        seconds = int(_STRIP_BUCKET.total_seconds())
        with reader.transaction() as connection:
            at = queries.read_now(connection)
            begin = int((at - _STRIP).timestamp()) // seconds * seconds + seconds
            strip_from = datetime.fromtimestamp(begin, at.tzinfo)
            apps = queries.read(connection, queries.HEALTH, stale_after=limit)
            strips = {
                (row["region"], row["sdk_app_id"]): row
                for row in queries.read(
                    connection, queries.STRIPS, strip_from=strip_from, seconds=seconds
                )
            }
            unreadable = queries.read(connection, queries.UNREADABLE)
        return _json(
            models.Health.model_construct(
                at=at,
                stale_after_seconds=int(limit.total_seconds()),
                strip_from=strip_from,
                strip_bucket_seconds=seconds,
                apps=[
                    models.AppHealth.model_construct(
                        **{
                            **row,
                            **_strip(strips.get((row["region"], row["sdk_app_id"]))),
                            "age_seconds": float(row["age_seconds"]),
                            "advice": _advice(row["last_outcome"], row["error_code"]),
                        }
                    )
                    for row in sorted(apps, key=region_order)
                ],
                unreadable=[models.Unreadable(**row) for row in unreadable],
            )
        )

    @router.get("/verification", response_model=models.Verification)
    def verification(again: bool = False) -> Response:
        """Recompute the chains; the last result serves for ten minutes unless asked again."""
        return _json(verifier.verify(again=again))

    return router


class Verifier:
    """Recomputes the chains, one at a time however many ask, and keeps the result for a while."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._last: models.Verification | None = None
        self._done_at = 0.0

    def verify(self, *, again: bool) -> models.Verification:
        asked_at = time.monotonic()
        with self._lock:
            fresh = self._done_at > asked_at or time.monotonic() - self._done_at < (
                5.0 if again else _VERIFIED_FOR
            )
            if self._last is not None and fresh:
                return self._last
            with self._reader.transaction(seconds=300) as connection:
                begun = time.monotonic()
                at = queries.read_now(connection)
                row = queries.read_one(connection, queries.VERIFY)
            if row is None:
                raise HTTPException(500, "The chains gave no answer.")
            self._last = models.Verification(
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
            self._done_at = time.monotonic()
            return self._last


class HealthCheck:
    """One word for whoever watches from outside, looked up at most every ten seconds."""

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
        self._word: str | None = None
        self._asked_at = 0.0

    def word(self) -> str:
        """ok, stale, empty, unmigrated or down."""
        with self._lock:
            if self._word is None or self._clock() - self._asked_at >= self._seconds:
                self._word = self._ask()
                self._asked_at = self._clock()
            return self._word

    def _ask(self) -> str:
        try:
            with self._reader.transaction(seconds=5) as connection:
                row = queries.read_one(connection, queries.STATE, stale_after=stale_after())
        except CannotRead as problem:
            return "unmigrated" if problem.code in ("not_migrated", "no_privilege") else "down"
        except Exception as error:
            # Such as a connection that cannot be used: the watcher gets its word all the same.
            log.error("The health word cannot be looked up: %s", type(error).__name__)
            return "down"
        if row is None or row["stale"] or row["unreadable"]:
            return "stale"
        return "ok" if row["apps"] else "empty"


def _json(answer: BaseModel | dict[str, Any]) -> Response:
    """The answer as it is: it was made of rows whose types the database keeps."""
    return Response(
        to_json(answer), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _refs(apps: Iterable[Mapping[str, Any]]) -> list[models.AppRef]:
    return [models.AppRef.model_construct(**app) for app in apps]


def _by_group(apps: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for app in apps:
        groups[app["app_group"]].append(app)
    return groups


def _choose(
    apps: Rows,
    region: str | None,
    group: str | None,
    app: str | None,
    after: str | None,
) -> tuple[Rows, str | None]:
    """The apps of one timeline, and the key of the next ones."""
    chosen = [
        each
        for each in apps
        if (region is None or each["region"] == region)
        and (group is None or each["app_group"] == group)
        and (app is None or f"{each['region']}/{each['sdk_app_id']}" == app)
        and (not each["retired"] or app is not None)
    ]
    keys = [f"{each['region']}/{each['sdk_app_id']}" for each in chosen]
    if after in keys:
        chosen = chosen[keys.index(after) + 1 :]
    if len(chosen) <= APPS_IN_A_TIMELINE:
        return chosen, None
    chosen = chosen[:APPS_IN_A_TIMELINE]
    return chosen, f"{chosen[-1]['region']}/{chosen[-1]['sdk_app_id']}"


def _begin_of_window(window_to: datetime, apps: Rows) -> datetime:
    """30 days before its end, or shortly before the first poll where that is later: all that is
    known of a young record would be a sliver at the edge of a month."""
    month = window_to - min(timedelta(days=30), window_to - datetime.min.replace(tzinfo=UTC))
    first = min((each["first_polled_at"] for each in apps), default=month)
    return max(month, first - (window_to - first) / 20) if first < window_to else month


def _strip(row: Row | None) -> dict[str, list[int]]:
    """The strip's polls by bucket."""
    length = _STRIP // _STRIP_BUCKET
    strip = {"good": [0] * length, "failed": [0] * length}
    for bucket, ok, failed in (
        zip(row["buckets"], row["ok"], row["failed"], strict=True) if row else ()
    ):
        if 0 <= bucket < length:
            strip["good"][bucket], strip["failed"][bucket] = ok, failed
    return strip


def _last_certain(apps: Rows) -> datetime | None:
    """The last instant at which every app that is not stale was still seen."""
    fresh = [app["last_ok_at"] for app in apps if not app["stale"] and not app["retired"]]
    return min((at for at in fresh if at is not None), default=None)


def _groups_then(
    apps: Rows, times: list[datetime], answers: list[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Plain values, as model GroupThen has them: thousands of models would cost more than SQL."""
    found: list[dict[App, dict[int, dict[str, Any]]]] = []
    for rows in answers:
        cells: dict[App, dict[int, dict[str, Any]]] = defaultdict(dict)
        for region, number, slot, name, attr_type, certain in rows:
            cells[region, number][slot] = {
                "name": name,
                "attr_type": attr_type,
                "certain": certain,
                "known": True,
            }
        found.append(cells)

    def nameless(which: int, app: Mapping[str, Any]) -> dict[str, Any]:
        known = app["first_ok_at"] is not None and app["first_ok_at"] <= times[which]
        certain = known and times[which] <= app["last_ok_at"]
        return {"name": None, "attr_type": None, "certain": certain, "known": known}

    groups = []
    for name, members in _by_group(sorted(apps, key=region_order)).items():
        # A retired app is shown where it had names then.
        shown = [
            app
            for app in members
            if not app["retired"] or any(cells[app["region"], app["sdk_app_id"]] for cells in found)
        ]
        if not shown:
            continue
        columns = [
            [(cells[app["region"], app["sdk_app_id"]], nameless(which, app)) for app in shown]
            for which, cells in enumerate(found)
        ]
        numbers = sorted({slot for column in columns for cells, _ in column for slot in cells})
        slots = []
        for slot in numbers:
            sides = [[cells.get(slot, none) for cells, none in column] for column in columns]
            slots.append(
                {"slot": slot, "cells": sides[0], "compared": sides[1] if sides[1:] else None}
            )
        groups.append({"app_group": name, "apps": shown, "slots": slots})
    return groups


def _advice(outcome: str, error_code: int | None) -> str | None:
    """What an outcome means and what to do about it, in sentences."""
    if outcome in ("ok", "late"):
        return None
    if error_code:
        return codes.explain(error_code)
    return _OUTCOMES.get(outcome)


_OUTCOMES = {
    "unstable": "Two reads disagreed, or a removal of all names awaits the next run's poll. "
    "Nothing was recorded; the next run asks again.",
    "unavailable": "The vendor could not be reached or was too busy. It is tried again by itself; "
    "if it goes on for an hour, check the network and the proxy, then ask the vendor.",
    "rejected": "The vendor refused. Check the connection's password, sdk_app_id, login and "
    "region, then clear the task.",
    "invalid": "What came cannot be understood as an answer. See the poll's answer in "
    "attr_audit.poll; a proxy may be answering in the vendor's stead.",
    "misconfigured": "Nothing was sent: the connection is incomplete or contradicts itself. Mend "
    "it as the message says, then clear the task.",
}


def _filters(
    region: str | None,
    group: str | None,
    app: str | None,
    slot: int | None,
    kind: str | None,
    name: str | None,
    since: datetime | None,
    until: datetime | None,
    run: str | None,
) -> ChangeFilter:
    sdk_app_id = None
    if app:
        app_region, _, number = app.rpartition("/")
        if region and region != app_region:
            raise HTTPException(422, "The app is of another region than the one asked for.")
        region, sdk_app_id = app_region, int(number)
    return ChangeFilter(
        region=region or None,
        app_group=group or None,
        sdk_app_id=sdk_app_id,
        slot=slot,
        kind=kind,
        name=name or None,
        since=since,
        until=until,
        dag_run_id=run or None,
    )


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _epoch_us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _key(before: str) -> tuple[datetime, int]:
    us, _, change_id = before.rpartition(".")
    try:
        return _EPOCH + timedelta(microseconds=int(us)), int(change_id)
    except OverflowError:
        raise HTTPException(422, "This is no key of a page.") from None


_COLUMNS = (
    "seen_at", "not_before", "app_group", "region", "sdk_app_id", "seq", "slot", "kind",
    "old_name", "new_name", "old_type", "new_type", "dag_run_id", "row_hash",
)  # fmt: skip


def _download(reader: Reader, filters: ChangeFilter, *, as_csv: bool) -> Iterator[str]:
    with reader.transaction(seconds=300) as connection:
        rows = queries.stream_changes(connection, filters)
        if as_csv:
            yield from _as_csv(rows)
        else:
            yield from _as_json(rows)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _as_csv(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    # The byte order mark is what makes spreadsheets read UTF-8.
    buffer.write("\ufeff")
    writer.writerow([_READING])
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_spreadsheet_safe(_plain(row[column])) for column in _COLUMNS])
        if buffer.tell() > 60_000:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _as_json(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield f'{{"note": {json.dumps(_READING)}, "changes": ['
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
