"""Which apps to poll: the user's targets, or else those of the bundled simulator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from im_attr_audit.settings import DECLARED_NAMES as VARIABLE
from im_attr_audit.settings import DECLARED_NAMES_FILE

from launch.environment import CONN_IDS, SCHEDULE, conn_ids, past_the_proxy
from launch.state import ROOT, State, say
from simulator.control import Simulator
from simulator.story import APPS, DECLARED_NAMES, REGIONS


@dataclass(slots=True)
class Targets:
    """The environment's variables that name the targets, and the simulator if it is polled."""

    environment: dict[str, str]
    simulator: Simulator | None = None
    state: State | None = None

    def next_step(self) -> None:
        """Move the story on before each run but the first, and print the new step."""
        if self.simulator is None or self.state is None:
            return
        last = self.state.recall("story")
        story = self.simulator.story() if last is None else self.simulator.advance_story()
        if story is not None and story["what"] != last:
            say(f"The simulator's story, {story['step']} of {story['steps']}: {story['what']}.")
        self.state.remember("story", "" if story is None else story["what"])


@contextlib.contextmanager
def targets(state: State, user: Mapping[str, str]) -> Iterator[Targets]:
    """The simulator runs as long as the block does."""
    if user.get(CONN_IDS):
        conn_ids(user)
        yield Targets({})
        return
    say(f"No targets are set ({CONN_IDS}; see .env.example): polling the bundled simulator.")
    simulator = Simulator.attach(state.simulator) or Simulator.start(
        state.simulator, regions=REGIONS, story=True
    )
    with simulator:
        environment = {
            CONN_IDS: json.dumps([_conn_id(region) for region in APPS]),
            # The story moves faster than names change.
            SCHEDULE: user.get(SCHEDULE) or "* * * * *",
            "IM_ATTR_AUDIT_RETRY_SECONDS": user.get("IM_ATTR_AUDIT_RETRY_SECONDS") or "2",
        }
        if not _declares_names(user):
            environment[DECLARED_NAMES_FILE.name] = str(DECLARED_NAMES)
        for region, app in APPS.items():
            connection = json.dumps(simulator.connection_json(region, app))
            environment[f"AIRFLOW_CONN_{_conn_id(region).upper()}"] = connection
        yield Targets(environment | past_the_proxy(user, "127.0.0.1"), simulator, state)


def _declares_names(user: Mapping[str, str]) -> bool:
    """Whether the user has declared names of their own, which count then."""
    names = (f"AIRFLOW_VAR_{VARIABLE.upper()}", DECLARED_NAMES_FILE.name)
    return any(user.get(name) for name in names) or (ROOT / "dags/declared_names.yaml").exists()


def _conn_id(region: str) -> str:
    return f"simulator_{region}"
