"""What a newcomer sees who has no target yet: six regions of one product, and a story in steps.

The step is kept in ``story.json``, the names with everything else that lasts. A change made by
hand ends the story, so a user who changes one name sees exactly that one change. A step lasts until
every region it is about has been asked: what nobody saw is not passed over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from simulator.files import read_json, write_private
from simulator.world import World

APP_GROUP: Final = "shop"
#: What the apps are meant to have: as in the first step. The story departs from it, and comes back.
DECLARED_NAMES: Final = Path(__file__).with_name("declared_names.yaml")
APPS: Final = {
    "china": 1400900001,
    "singapore": 20900002,
    "seoul": 20900003,
    "frankfurt": 20900004,
    "silicon_valley": 1721900005,
    "jakarta": 20900006,
}
REGIONS: Final = tuple(APPS)

_NAMES: Final = {"0": "sex", "1": "city", "2": "Membership level", "3": "signup channel"}
_OWN_NAMES: Final = {"china": {"2": "会员等级"}}

# What a step does is said in absolute terms, so that a step cut short can simply be done again.
STEPS: Final = (
    "the names as they are when they are first seen",
    'frankfurt calls slot 2 "Loyalty tier" now, no longer "Membership level"',
    'singapore has a new slot 4, "language"; seoul has lost slot 3, "signup channel"',
    "jakarta: every call is answered with 502",
    'jakarta is back; somebody called its slot 1 "home city" while it was away',
    'frankfurt calls slot 2 "Membership level" again, as declared: nobody is asked',
    "nothing changes any more",
)
_FAILING = "jakarta"
_FAILS_IN_STEP = 4
#: The regions that a step is about: a run has to ask them before the story moves on.
_REGIONS_OF_STEP: Final = (
    REGIONS,
    ("frankfurt",),
    ("singapore", "seoul"),
    (_FAILING,),
    (_FAILING,),
    ("frankfurt",),
    (),
)


class Story:
    """Where the story stands: ``step`` counts from 1, 0 before it has begun."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "story.json"
        saved = read_json(self._path) or {}
        self.step: int = saved.get("step", 0)
        self.ended_by_hand: bool = saved.get("ended_by_hand", False)
        self._unseen: set[str] = set(saved.get("unseen", ()))

    @staticmethod
    def exists(state_dir: Path) -> bool:
        """Whether a story was ever begun in this folder."""
        return (state_dir / "story.json").exists()

    @property
    def what(self) -> str:
        """The present step in a line."""
        if self.ended_by_hand:
            return "the story has ended: something was changed by hand"
        return STEPS[min(max(self.step, 1), len(STEPS)) - 1]

    def as_json(self) -> dict[str, object]:
        return {
            "step": self.step,
            "steps": len(STEPS),
            "ended_by_hand": self.ended_by_hand,
            "what": self.what,
        }

    def begin(self, world: World) -> None:
        """Put the apps there on the first start; a later start finds them as they were left."""
        if self.step == 0:
            for region, app_id in APPS.items():
                if (region, app_id) not in world.apps:
                    names = {**_NAMES, **_OWN_NAMES.get(region, {})}
                    world.add_app(region, app_id, names, app_group=APP_GROUP)

    def advance(self, world: World) -> None:
        """One step on. Nothing happens after the last one, after a change by hand, or while a
        region of the present step has not been asked.
        """
        if self.ended_by_hand or self.step >= len(STEPS) or self._unseen:
            return
        self.step += 1
        self._unseen = set(_REGIONS_OF_STEP[self.step - 1])
        if self.step == 2:
            world.set_name("frankfurt", APPS["frankfurt"], "2", "Loyalty tier")
        elif self.step == 3:
            world.set_name("singapore", APPS["singapore"], "4", "language")
            world.set_name("seoul", APPS["seoul"], "3", None)
        elif self.step == _FAILS_IN_STEP:
            world.failing.add(_FAILING)
        elif self.step == 5:
            world.set_name(_FAILING, APPS[_FAILING], "1", "home city")
            world.failing.discard(_FAILING)
        elif self.step == 6:
            world.set_name("frankfurt", APPS["frankfurt"], "2", _NAMES["2"])

    def asked(self, region: str) -> bool:
        """Note that a region was asked for names; whether this is to be saved."""
        if region not in self._unseen:
            return False
        self._unseen.discard(region)
        return True

    def end(self, world: World) -> None:
        """Somebody took over: no further steps, and what the story had broken works again."""
        if not self.ended_by_hand:
            self.ended_by_hand = True
            if self.step == _FAILS_IN_STEP:
                world.failing.discard(_FAILING)

    def save(self) -> None:
        """To be called after the world was saved: then a step is lost at worst, never doubled."""
        saved = {
            "step": self.step,
            "ended_by_hand": self.ended_by_hand,
            "unseen": sorted(self._unseen),
        }
        write_private(self._path, json.dumps(saved))
