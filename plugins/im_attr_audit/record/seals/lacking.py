"""Why sealed polls may be missing: retention dropped their month, or folded the good ones of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from im_attr_audit.evidence.bundle import Seal
from im_attr_audit.record.checks.tables import KEPT_SINCE
from im_attr_audit.record.seals.folds import Folds, read_folds
from im_attr_audit.record.seals.listed import CLOCKS_US
from im_attr_audit.record.seals.log import Log
from im_attr_audit.record.seals.months import Months, month_of

#: A poll is recorded within the hour in which it was sent: `verify` reports any other.
_UNDER_WAY_US = 3600 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(microseconds: int) -> str:
    """A time as a person reads it."""
    return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%d %H:%M:%S}Z"


@dataclass(slots=True)
class Missing:
    """Polls of a seal that are not there. ``excused``: how many retention accounts for.

    ``gone``: by month, how many it does not. ``is_more``: there are polls that were not sealed.
    """

    excused: int = 0
    reasons: list[str] = field(default_factory=list)
    gone: Counter[str] = field(default_factory=Counter)
    is_more: bool = False


@dataclass(slots=True)
class Lacking:
    """Months that retention dropped or folded. ``kept_since``: 0: it dropped none."""

    kept_since: int
    folds: Folds

    def may_miss(self, number: int, seal: Seal, before: Seal | None, months: Months | None) -> bool:
        """Whether retention accounts for any polls of the seal. ``before``: the seal before it.

        ``months``: what its checkpoint signs; None: an earlier version made it.
        """
        if months is None:
            since = self._since(seal, before)
            folded = self.folds.months_of(number)
            return since is not None and (
                since < self.kept_since
                or any(month_of(since) <= each <= month_of(seal.closed_us) for each in folded)
            )
        folded = self.folds.months_of(number)
        return any(
            (good and month in folded) or self._is_dropped(month)
            for (month, good), polls in months.items()
            if polls
        )

    def compare(
        self, number: int, seal: Seal, before: Seal | None, months: Months | None, left: Months
    ) -> Missing:
        """What is missing. ``left``: the polls of the seal that are there."""
        if months is None:
            return self._compare_span(number, seal, before, left.total())
        found = Missing()
        folded = self.folds.months_of(number)
        is_dropped = False
        for (month, good), sealed in sorted(months.items()):
            missing = sealed - left[month, good]
            found.is_more |= missing < 0
            if missing > 0 and self._is_dropped(month):
                found.excused += missing
                is_dropped = True
            elif missing > 0 and good and month in folded:
                found.excused += missing
                found.reasons.append(month)
                self.folds.claim(month, month, number, missing)
            elif missing > 0:
                found.gone[month] += missing
        found.is_more |= any(key not in months for key in left)
        found.reasons = _reasons(self.kept_since if is_dropped else None, found.reasons)
        return found

    def _compare_span(self, number: int, seal: Seal, before: Seal | None, left: int) -> Missing:
        """Of a seal of an earlier version only the first and the last month are known."""
        since = self._since(seal, before) or 0
        missing = seal.rows(0)[0] - left
        if since < self.kept_since:
            return Missing(missing, _reasons(self.kept_since, []))
        first, last = month_of(since), month_of(seal.closed_us)
        self.folds.claim(first, last, number, missing)
        months = [each for each in self.folds.months_of(number) if first <= each <= last]
        return Missing(missing, _reasons(None, sorted(months)))

    def _since(self, seal: Seal, before: Seal | None) -> int | None:
        """No poll of the seal was sent earlier; None: it has none.

        `polls_from` is not signed, and an edit of it must not excuse a poll: the time at which
        the seal before it closed is, and no poll of this one was sent long before that.
        """
        if seal.polls_from is None or before is None:
            return seal.polls_from
        return max(seal.polls_from, before.closed_us - _UNDER_WAY_US - CLOCKS_US)

    def _is_dropped(self, month: str) -> bool:
        return bool(self.kept_since) and "" < month < month_of(self.kept_since)


def _reasons(kept_since: int | None, folded: Sequence[str]) -> list[str]:
    found = [] if kept_since is None else [f"polls before {at(kept_since)} are not kept"]
    if folded:
        found.append(f"good polls of {', '.join(folded)} are folded")
    return found


def read_lacking(connection: Connection, log: Log) -> Lacking:
    """What retention removed, in the transaction of `prepare_sealed`."""
    return Lacking(_kept_since(connection, log.seals), read_folds(connection, log))


def _kept_since(connection: Connection, seals: Sequence[Seal]) -> int:
    """Polls of earlier months were dropped; 0: none were, or it was not retention."""
    since = connection.execute(text(KEPT_SINCE)).scalar_one()
    if since is None or not seals:
        return 0
    # Retention keeps the running month, whatever it is asked for.
    running = _EPOCH + timedelta(microseconds=seals[-1].closed_us)
    is_retention = since <= running.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (since - _EPOCH) // timedelta(microseconds=1) if is_retention else 0
