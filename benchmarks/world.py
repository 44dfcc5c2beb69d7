"""Made-up apps and what the vendor would answer for them, poll after poll.

The same numbers give the same world everywhere, so every side of a comparison sees the same data
and what it recorded can be compared with the truth.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from im_attr_audit.names import AttrName
from im_attr_audit.record.rules import Poll, Read
from im_attr_audit.tencent.answer import Answer

REGIONS = ("china", "singapore", "seoul", "tokyo", "frankfurt", "mumbai")
SLOTS = 10
#: Share of all slots that are called something else at every poll.
CHANGED = 0.01
#: Seconds from one poll to the next, as recorded.
APART = 10

App = tuple[str, int]
State = dict[App, dict[int, str]]


def apps(count: int) -> list[App]:
    """So many apps, evenly over six regions."""
    return [(REGIONS[i % 6], 1_400_000_000 + i // 6) for i in range(count)]


def changes_per_poll(count: int) -> int:
    """1 % of the slots, but one at least."""
    return max(1, round(count * SLOTS * CHANGED))


class World:
    """The names of ``count`` apps at poll 0, 1, 2 …; `advance` continues with the next."""

    def __init__(self, count: int, *, changes: int | None = None) -> None:
        self.apps = apps(count)
        self.poll = 0
        self.changes_per_poll = changes_per_poll(count) if changes is None else changes
        self.changes_so_far = 0
        self._random = random.Random(count)
        self.state: State = {
            app: {slot: f"attribute {slot} of app {app[1]}" for slot in range(SLOTS)}
            for app in self.apps
        }
        # Long enough ago that no poll of a comparison lies in the future.
        self.begin = datetime.now(UTC) - timedelta(hours=6)

    def advance(self, *, changes: int | None = None) -> None:
        """The next poll's names: some slots renamed, each at most once."""
        self.poll += 1
        count = self.changes_per_poll if changes is None else changes
        self.changes_so_far += count
        for place in self._random.sample(range(len(self.apps) * SLOTS), count):
            app, slot = self.apps[place // SLOTS], place % SLOTS
            self.state[app] = {**self.state[app], slot: f"renamed in poll {self.poll}"}

    def reads(self, app: App, sent: datetime) -> Read:
        """One read of an app as it is now."""
        names = {slot: AttrName(name) for slot, name in self.state[app].items()}
        return Read(sent, sent + timedelta(milliseconds=80), Answer(names, _kept_text, 200, sent))

    def polls(self) -> list[Poll]:
        """One poll's first reads, as the network part of a task gives them."""
        at = self.begin + timedelta(seconds=APART * self.poll)
        polls = []
        for i, app in enumerate(self.apps):
            sent = at + timedelta(microseconds=i)
            read = self.reads(app, sent)
            polls.append(
                Poll(
                    conn_id=f"im_{app[0]}_{app[1]}",
                    region=app[0],
                    sdk_app_id=app[1],
                    app_group="default",
                    api="all_member_push",
                    requested_at=sent,
                    last_requested_at=sent,
                    responded_at=read.responded_at,
                    sent=1,
                    reads=(read,),
                )
            )
        return polls


def _kept_text() -> str:
    return "{…}"
