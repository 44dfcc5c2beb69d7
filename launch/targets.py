"""Whom to ask: the user's targets, or else the stand-in of the vendor that comes with the tests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from launch.environment import CONN_IDS, SCHEDULE, conn_ids, past_the_proxy
from launch.state import State, say
from simulator.control import StandIn
from simulator.story import APPS, REGIONS


@dataclass(slots=True)
class Targets:
    """What of the environment says whom to ask, and the stand-in if that is asked."""

    environment: dict[str, str]
    standin: StandIn | None = None
    state: State | None = None

    def next_step(self) -> None:
        """Before each run but the first the story moves on; what is different now is said."""
        if self.standin is None or self.state is None:
            return
        told = self.state.recall("story")
        story = self.standin.story() if told is None else self.standin.advance_story()
        if story is not None and story["what"] != told:
            say(f"The stand-in's story, {story['step']} of {story['steps']}: {story['what']}.")
        self.state.remember("story", "" if story is None else story["what"])


@contextlib.contextmanager
def targets(state: State, user: Mapping[str, str]) -> Iterator[Targets]:
    """The stand-in lives as long as the block does."""
    if user.get(CONN_IDS):
        conn_ids(user)
        yield Targets({})
        return
    say(
        f"No targets are set ({CONN_IDS}; see .env.example): asking the bundled stand-in of the "
        "vendor."
    )
    standin = StandIn.attach(state.standin) or StandIn.start(
        state.standin, regions=REGIONS, story=True
    )
    with standin:
        environment = {
            CONN_IDS: json.dumps([_conn_id(region) for region in APPS]),
            # A story is told faster than names change.
            SCHEDULE: user.get(SCHEDULE) or "* * * * *",
            "IM_ATTR_AUDIT_RETRY_SECONDS": user.get("IM_ATTR_AUDIT_RETRY_SECONDS") or "2",
        }
        for region, app in APPS.items():
            connection = json.dumps(standin.connection_json(region, app))
            environment[f"AIRFLOW_CONN_{_conn_id(region).upper()}"] = connection
        yield Targets(environment | past_the_proxy(user, "127.0.0.1"), standin, state)


def _conn_id(region: str) -> str:
    return f"standin_{region}"
