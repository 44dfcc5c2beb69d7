"""``python -m simulator``: run the simulator, or change it by hand, running or not.

    python -m simulator --story                    run it, with the newcomer's story
    python -m simulator show                       what it answers at present
    python -m simulator set frankfurt 2 "tier"     give a slot a name
    python -m simulator unset frankfurt 2          take a name away
    python -m simulator fail frankfurt             answer every call of a region with 502
    python -m simulator recover frankfurt          answer again

A change by hand ends the story.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from simulator.control import Simulator
from simulator.files import StateLock
from simulator.server import serve
from simulator.story import Story
from simulator.world import ALL_MEMBER_PUSH, SimulatorError, World

DEFAULT_STATE = Path(__file__).resolve().parents[1] / ".local" / "simulator"


def main(arguments: list[str] | None = None) -> int:
    """Read the command line; the exit status."""
    asked = _parser().parse_args(arguments)
    if asked.command is None:
        regions = [region for region in asked.regions.split(",") if region]
        return serve(
            asked.state,
            regions=regions or ([] if asked.story else ["china"]),
            story=asked.story,
            lasting=not asked.ephemeral,
            die_with_parent=asked.die_with_parent,
            name=asked.host_name,
        )
    try:
        lines = _change_or_show(asked)
    except (SimulatorError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name is shown even where it cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, help="folder of its state (.local/simulator)"
    )
    parser.add_argument("--regions", default="", help="labels, separated by commas")
    parser.add_argument("--story", action="store_true", help="six regions and the scripted story")
    parser.add_argument("--ephemeral", action="store_true", help="keep nothing for the next start")
    parser.add_argument(
        "--name", dest="host_name", help="serve other hosts too, which know it by this name"
    )
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when standard input does"
    )
    commands = parser.add_subparsers(dest="command", title="by hand")
    for name, help_ in (
        ("show", "what every app answers at present"),
        ("set", "give a slot a name"),
        ("unset", "take a slot's name away"),
        ("fail", "answer every call of a region with 502"),
        ("recover", "answer again"),
    ):
        command = commands.add_parser(name, help=help_)
        command.add_argument("--state", type=Path, default=argparse.SUPPRESS)
        if name == "show":
            continue
        command.add_argument("region")
        if name in ("set", "unset"):
            command.add_argument("slot", type=int)
            command.add_argument("--app", type=int, help="where the region has several apps")
        if name == "set":
            command.add_argument("name")
    return parser


def _change_or_show(asked: argparse.Namespace) -> list[str]:
    running = Simulator.attach(asked.state)
    if running is not None:
        return _on_running(running, asked)
    if not (asked.state / "state.json").exists():
        raise SimulatorError(f"no simulator has ever run on {asked.state}")
    lock = StateLock(asked.state)
    if not lock.acquire():
        raise SimulatorError("the simulator is just starting or stopping; try again")
    try:
        return _on_stored(asked)
    finally:
        lock.release()


def _on_running(simulator: Simulator, asked: argparse.Namespace) -> list[str]:
    apps = simulator.apps()
    if asked.command == "show":
        return _table(apps, simulator.story())
    if asked.command in ("fail", "recover"):
        simulator.set_failing(asked.region, asked.command == "fail")
    else:
        app_id, slot, name = _target(apps, asked)
        simulator.set_name(asked.region, app_id, slot, name)
    return _table(simulator.apps(), simulator.story())


def _on_stored(asked: argparse.Namespace) -> list[str]:
    world = World.load(asked.state)
    story = Story(asked.state) if Story.exists(asked.state) else None
    if asked.command != "show":
        if story:
            story.end(world)
        if asked.command in ("fail", "recover"):
            if asked.region not in world.ports:
                raise SimulatorError(f"no such region: {asked.region}")
            (world.failing.add if asked.command == "fail" else world.failing.discard)(asked.region)
        else:
            app_id, slot, name = _target(world.describe(), asked)
            world.set_name(asked.region, app_id, str(slot), name)
        world.save(asked.state)
        if story:
            story.save()
    return _table(world.describe(), story.as_json() if story else None)


def _target(apps: list[dict[str, Any]], asked: argparse.Namespace) -> tuple[int, int, str | None]:
    """Which app, slot and name are meant, refused where the vendor's console would refuse."""
    here = [app for app in apps if app["region"] == asked.region]
    if asked.app is not None:
        here = [app for app in here if app["app_id"] == asked.app]
    if len(here) != 1:
        known = ", ".join(f"{app['region']}/{app['app_id']}" for app in apps)
        raise SimulatorError(f"{len(here)} apps are meant; there are: {known} (see --app)")
    names = here[0]["names"][ALL_MEMBER_PUSH]
    if asked.command == "unset":
        if str(asked.slot) not in names:
            raise SimulatorError(f"slot {asked.slot} has no name in {asked.region}")
        return here[0]["app_id"], asked.slot, None
    if not 0 <= asked.slot <= 9:
        raise SimulatorError("the vendor has slots 0 to 9")
    if not 1 <= len(asked.name.encode()) <= 50:
        raise SimulatorError("a name has 1 to 50 bytes of UTF-8")
    for slot, name in names.items():
        if name == asked.name and slot != str(asked.slot):
            raise SimulatorError(f"attrName:{name} already exists at index:{slot}")
    return here[0]["app_id"], asked.slot, asked.name


def _table(apps: list[dict[str, Any]], story: dict[str, Any] | None) -> list[str]:
    lines = []
    for app in apps:
        failing = "   answers 502 at present" if app["failing"] else ""
        lines.append(f"{app['region']} / {app['app_id']} ({app['app_group']}){failing}")
        names = app["names"][ALL_MEMBER_PUSH]
        lines += [f"  {slot:>3}  {name!r}" for slot, name in names.items()] or ["  no names"]
    if story:
        lines.append(f"story: step {story['step']} of {story['steps']}: {story['what']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
