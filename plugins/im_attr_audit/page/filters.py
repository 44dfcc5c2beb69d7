"""What an address of the page may ask for: query models, with a reason for what they refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, HTTPException, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from im_attr_audit.apps import AppKey
from im_attr_audit.page.models import Kind

CHANGES_ON_A_PAGE = 100

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Statements add and subtract spans of up to a year: those sums have to be dates too.
_FIRST, _LAST = datetime(3, 1, 1, tzinfo=UTC), datetime(9997, 1, 1, tzinfo=UTC)


def _in_range(at: datetime) -> datetime:
    try:
        utc = at.astimezone(UTC)
    except OverflowError:
        utc = None
    if utc is None or not _FIRST <= utc < _LAST:
        raise ValueError(f"write a time from year {_FIRST.year} to {_LAST.year - 1}")
    return utc


def _app_key(address: str) -> str:
    AppKey.from_address(address)
    return address


Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]
App = Annotated[str, Field(pattern=r"^[^\x00/]{1,200}/[0-9]{1,18}$"), AfterValidator(_app_key)]
SlotNumber = Annotated[int, Field(ge=0, le=999)]
Time = Annotated[AwareDatetime, AfterValidator(_in_range)]
#: Unreviewed: without those that are as declared, about which nobody is asked.
Review = Literal["unreviewed", "reviewed", "expected", "not_expected"]
PageKey = Annotated[str, Field(pattern=r"^-?[0-9]{1,17}\.[0-9]{1,18}$")]


class Asked(BaseModel):
    """A name that is not known is refused: a misspelt filter would be answered as if it had not
    been asked for, and `attest` would be of another period."""

    model_config = ConfigDict(extra="forbid")


def _nothing_asked(_: Annotated[Asked, Query()]) -> None:
    """For an address without parameters: all of them are refused."""


NOTHING_ASKED = (Depends(_nothing_asked),)


class Filters(Asked):
    """Which apps, slots and times; what is not set or empty matches everything."""

    region: Text | None = None
    group: Text | None = None
    app: App | None = None
    slot: SlotNumber | None = None
    since: Time | None = None
    until: Time | None = None

    @property
    def app_key(self) -> AppKey | None:
        """The app; 422 where it is in another region than the one asked for."""
        if not self.app:
            return None
        key = AppKey.from_address(self.app)
        if self.region and self.region != key.region:
            raise HTTPException(422, "The app is in another region than the one asked for.")
        return key


def _like(part: str) -> str:
    """The pattern of texts that contain this part, as it is written."""
    escaped = part.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"


class GroupFilter(Asked):
    """One app group, or all."""

    group: Text | None = None


class NowFilter(GroupFilter):
    """One app group and one slot, or all."""

    slot: SlotNumber | None = None


class NameSearch(GroupFilter):
    """Which names: those that contain a text, whatever its case."""

    name: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]

    @property
    def pattern(self) -> str:
        return _like(self.name)


class ChangeFilters(Filters):
    """Which changes."""

    kind: Kind | None = None
    name: Text | None = None
    run: Text | None = None
    review: Review | None = None

    def parameters(self) -> dict[str, Any]:
        """The filters as the parameters of ``sql/changes.sql``."""
        key = self.app_key
        return {
            "region": key.region if key else self.region or None,
            "app_group": self.group or None,
            "sdk_app_id": key.sdk_app_id if key else None,
            "slot": self.slot,
            "kind": self.kind,
            "name": _like(self.name) if self.name else None,
            "since": self.since,
            "until": self.until,
            "dag_run_id": self.run or None,
            "review": self.review,
        }


class ChangePage(ChangeFilters):
    """One page of changes: at most ``limit``, older than the key ``before``."""

    before: PageKey | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = CHANGES_ON_A_PAGE


class ChangeDownload(ChangeFilters):
    """All changes that match, in one file."""

    format: Literal["csv", "json"] = "csv"


class TimelineWindow(Filters):
    """One window of the timeline; ``after`` is the app before the first one shown, ``lanes``:
    only apps that changed in it, or all."""

    after: App | None = None
    lanes: Literal["changed", "all"] = "changed"


class Period(GroupFilter):
    """A period of time, and one app group or all."""

    since: Time | None = None
    until: Time | None = None


class AttestedPeriod(Period):
    """The same; ``brief``: of many apps only the first group, where none is asked for."""

    brief: bool = False


class NameInPeriod(Period):
    """One name, exactly as it is, in a period."""

    name: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


class Instants(Asked):
    """An instant, and a second one to compare with."""

    at: Time | None = None
    compare: Time | None = None


class InstantsOfGroup(Instants, GroupFilter):
    """The same of one app group, or of all."""


class OneChange(Asked):
    """The place of one change."""

    region: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
    sdk_app_id: Annotated[int, Field(ge=0, lt=2**63)]
    seq: Annotated[int, Field(ge=1, lt=2**63)]


class ProofOf(Asked):
    """What is to be proven: a change by ``seq``, or the newest poll at or before ``at``."""

    region: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
    sdk_app_id: Annotated[int, Field(ge=0, lt=2**63)]
    seq: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    at: Time | None = None

    @property
    def app(self) -> AppKey:
        return AppKey(self.region, self.sdk_app_id)


class Recheck(Asked):
    """``again``: a result of the last ten minutes does not serve."""

    again: bool = False


class OneRun(Asked):
    """One DAG run."""

    run: Text


def page_key(seen_at: datetime, change_id: int) -> str:
    """The key of the page that follows a change."""
    return f"{(seen_at - _EPOCH) // timedelta(microseconds=1)}.{change_id}"


def change_of_key(key: str) -> tuple[datetime, int]:
    """The change that a page's key stands for; 422 where it stands for none."""
    microseconds, _, change_id = key.rpartition(".")
    try:
        return _EPOCH + timedelta(microseconds=int(microseconds)), int(change_id)
    except OverflowError:
        raise HTTPException(422, "This is not the key of a page.") from None
